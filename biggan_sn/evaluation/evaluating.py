"""Scores of samples: an extractor, real images to compare with, and what is measured."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biggan_sn.config import DataConfig, EvaluationConfig
from biggan_sn.data.shards import load_index
from biggan_sn.data.subset import choose
from biggan_sn.evaluation.collecting import Crew, State, Task, walk
from biggan_sn.evaluation.extractors import open_extractor
from biggan_sn.evaluation.fidelity import Scores, inception_score
from biggan_sn.evaluation.images import Images, Stored
from biggan_sn.evaluation.metrics import check_known, check_metrics, measure
from biggan_sn.evaluation.opening import open_images, shard_images
from biggan_sn.evaluation.reference import reference
from biggan_sn.evaluation.statistics import Statistics, holds_statistics, load_statistics
from biggan_sn.progress import Advance


class Evaluation:
    """What scores samples, on all processes of a crew together.

    Args:
        section: what is measured, and how.
        data: of the run: the real images, where the section names none.
        crew: the processes; each has to call what is called here.

    Raises:
        ValueError: there is no such extractor or metric, no weights, no real images, or a metric
            that cannot be measured of such data.
    """

    def __init__(self, section: EvaluationConfig, data: DataConfig, crew: Crew) -> None:
        check_known(section.metrics)
        self.section = section
        self.extractor = open_extractor(section.extractor, section.weights, crew.device)
        self._crew = crew
        self._real: Statistics | None = None
        self._images: Stored | None = None
        real = Path(section.real)
        if section.real and real.is_file() and holds_statistics(real):
            self._real = load_statistics(real)
            self.classes = self._real.classes
            self._size = (self._real.height, self._real.width)
        else:
            self._images = open_images(real) if section.real else _training_images(data)
            self.classes = self._images.classes
            self._size = self._images.size

    def check(self, labels: NDArray[np.int64], size: tuple[int, int]) -> None:
        """Raises ValueError if samples of these classes [N] (-1 where unknown), of this height and
        width, cannot be scored, before anything long."""
        metrics = self.section.metrics
        self.extractor.check_size(*self._size)
        check_metrics(metrics, self.extractor, self.classes, labels, self._kept_labels)
        if size != self._size:
            raise ValueError(
                f"samples of {size[1]}x{size[0]} pixels cannot be compared with real images of "
                f"{self._size[1]}x{self._size[0]}"
            )

    @property
    def kept(self) -> int:
        """Of how many real images the features are kept."""
        return len(self._kept_labels)

    @property
    def _kept_labels(self) -> NDArray[np.int64]:
        if self._images:
            task = Task(self._images, self.extractor, self.section.features)
            return self._images.labels[task.chosen]
        return self._real.labels if self._real else np.empty(0, np.int64)

    def prepare(self) -> None:
        """Gathers the statistics of the real images, or takes them from the cache.

        Raises:
            ValueError: an image cannot be read; features are not finite.
            OSError: the cache cannot be written.
        """
        if self._images:
            task = Task(self._images, self.extractor, self.section.features)
            self._real = reference(task, self._crew)
            self._images = None

    def scores(self, images: Images, advance: Advance = lambda count: None) -> Scores | None:
        """Of all these images, on the first process; None on the others.

        Args:
            images: to be scored.
            advance: called with the number of images that were seen since the last call.

        Raises:
            ValueError: an image cannot be read, or there are too few.
        """
        self.prepare()
        task = Task(images, self.extractor)
        seen = 0

        def note(state: State) -> None:
            nonlocal seen
            advance(state.done - seen)
            seen = state.done

        state = walk(task, task.beginning(self._crew), self._crew, note)
        if not self._crew.leads:
            return None
        assert self._real is not None
        return measure(self.section.metrics, task.statistics(state), self._real)

    def describe_real(self) -> dict[str, Any]:
        """On the first process: images, how many real ones there are; fingerprint, what they are;
        and is, the Inception score of those whose features are kept, if it is measured of samples
        too."""
        self.prepare()
        if self._real is None:
            return {}
        score = inception_score(self._real, self._real) if "is" in self.section.metrics else {}
        known = {"images": self._real.images, "fingerprint": self._real.fingerprint}
        return known | {key: score[key] for key in score if key == "is"}


def _training_images(data: DataConfig) -> Stored:
    if not data.path:
        raise ValueError("name the real images to compare with: --real FOLDER_OR_NPZ")
    index = choose(load_index(Path(data.path)), data.classes, data.images)
    return shard_images(index, data.resolution, data.command)

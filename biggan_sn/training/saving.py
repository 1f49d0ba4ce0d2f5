"""What of a run is in a checkpoint, how it gets there while the run goes on, and comes back."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from biggan_sn.checkpoint import (
    CheckpointError,
    Checkpoints,
    Tensors,
    load_network,
    load_state,
    load_tensors,
)
from biggan_sn.collapse.detector import Detector
from biggan_sn.config import Config
from biggan_sn.config_io import to_dict
from biggan_sn.models.zoo import BUILDERS
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.run_folder import step_of
from biggan_sn.training.step import GANStep

# Groups that only some runs have: with historical averaging; with what follows D's logits.
HISTORY, LOGITS = "history", "logits"
INTEGERS = ("step", "position", "attempt")
UNSEEN = ""  # the data of a run that has seen none yet: it may begin with any that fit its config


class Keeper(Protocol):
    """What a run may have, and then has to remember."""

    def state(self) -> dict[str, Tensor]:
        """All of it by name; nothing where there is nothing to remember."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave; begins anew where that was nothing. Raises ValueError where
        it is of something else."""
        ...


def tensors_of(
    play: GANStep, spectra: Mapping[str, Spectrum], detector: Detector
) -> dict[str, dict[str, Tensor]]:
    """The tensors that a run goes on from, by group, but for the optimizers'."""
    return {
        "generator": play.g.network.state_dict(),
        "discriminator": play.d.network.state_dict(),
        "ema": play.ema.settled().state_dict(),
        "spectra": {
            f"{network}/{name}": tensor
            for network, spectrum in spectra.items()
            for name, tensor in spectrum.state().items()
        },
        "collapse": detector.state(),
    } | _kept(play)


def _kept(play: GANStep) -> dict[str, dict[str, Tensor]]:
    """What only some runs keep, by group; no group of which there is nothing."""
    kept = {
        group: {
            f"{name}/{key}": tensor
            for name, keeper in keepers.items()
            for key, tensor in keeper.state().items()
        }
        for group, keepers in _keepers(play).items()
    }
    return {group: tensors for group, tensors in kept.items() if tensors}


def _keepers(play: GANStep) -> dict[str, dict[str, Keeper]]:
    """Who keeps it, by group and name."""
    return {
        HISTORY: {"G": play.g_constraint.history, "D": play.d_constraint.history},
        LOGITS: {"augment": play.door, "lecam": play.lecam},
    }


def moments_of(play: GANStep) -> dict[str, dict[str, Tensor]]:
    """The tensors of both optimizers, by group; whole on the leading process. Every process must
    call it."""
    return {
        "generator_optimizer": play.g.state(),
        "discriminator_optimizer": play.d.state(),
    }


def restore(path: Path, play: GANStep, spectra: Mapping[str, Spectrum], detector: Detector) -> None:
    """Puts the tensors of the checkpoint `path` in their places.

    Raises:
        CheckpointError: they cannot be read, or are of another run.
    """
    load_network(play.g.network, path, "generator")
    load_network(play.d.network, path, "discriminator")
    load_network(play.ema.network, path, "ema")

    def load_spectra(state: dict[str, Tensor]) -> None:
        for network, spectrum in spectra.items():
            spectrum.load_state(_part(state, network))

    groups = {"spectra": load_spectra, "collapse": detector.load_state}
    if step_of(path) > 0:  # before the first step an optimizer has no state
        groups["generator_optimizer"] = play.g.load_state
        groups["discriminator_optimizer"] = play.d.load_state
    for name, load in groups.items():
        tensors = load_tensors(path, name)
        try:
            load(tensors)
        except ValueError as error:
            raise CheckpointError(f"{path / name}.safetensors: {error}") from error
    _restore_kept(path, play)


def _restore_kept(path: Path, play: GANStep) -> None:
    """Where the checkpoint has none of it, it begins there."""
    there = load_state(path)["files"]
    for group, keepers in _keepers(play).items():
        state = load_tensors(path, group) if f"{group}.safetensors" in there else {}
        for name, keeper in keepers.items():
            try:
                keeper.load_state(_part(state, name))
            except ValueError as error:
                raise CheckpointError(f"{path / group}.safetensors: {error}") from error


def _part(state: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    """What belongs to one network or keeper, by its name within that."""
    prefix = f"{owner}/"
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def state_of(
    config: Config,
    ranks: int,
    position: int,
    attempt: int,
    signs: Mapping[str, float],
    classes: Sequence[str],
    data: str,
) -> dict[str, Any]:
    """What is in a checkpoint beside its tensors, its step and its score.

    Args:
        config: of the run, before rollbacks.
        ranks: number of processes.
        position: as in Trainer.
        attempt: as in Trainer.
        signs: levels of those of a collapse.
        classes: their names.
        data: fingerprint of the shards, or UNSEEN.
    """
    return {
        "position": position,
        "attempt": attempt,
        "norm_batch": norm_batches(config, ranks),
        "signs": dict(signs),
        "config": to_dict(config),
        "classes": list(classes),
        "data": data,
    }


def norm_batches(config: Config, ranks: int) -> dict[str, int]:
    """Images that share the statistics of a batch norm, by the player whose turn it is."""
    return {side: config.norm_batch(side, ranks) for side in BUILDERS}


def integers_of(path: Path, state: Mapping[str, Any]) -> list[int]:
    """The integers in the state of the checkpoint `path`.

    Raises:
        CheckpointError: one is missing.
    """
    for name in INTEGERS:
        if not isinstance(state.get(name), int):
            raise CheckpointError(f"{path}: its state lacks the {name}")
    return [state[name] for name in INTEGERS]


class Writer:
    """Brings checkpoints to disk while training goes on. Training waits only for a copy of its
    tensors in host memory, and where one checkpoint is not yet written when the next one comes.

    Args:
        checkpoints: where they go.
        undisturbed: held while one is written.
    """

    def __init__(
        self, checkpoints: Checkpoints, undisturbed: AbstractContextManager[object] | None = None
    ) -> None:
        self.checkpoints = checkpoints
        self._undisturbed = undisturbed or nullcontext()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None
        self._copies: dict[str, dict[str, Tensor]] = {}

    def save(
        self, step: int, tensors: Tensors, state: Mapping[str, Any], score: float | None
    ) -> None:
        """As `Checkpoints.save`, but returns when the tensors may change again.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        self.wait()
        self._copy(tensors)
        self._writing = self._pool.submit(self._write, step, self._copies, deepcopy(state), score)

    def _write(
        self, step: int, tensors: Tensors, state: Mapping[str, Any], score: float | None
    ) -> Path:
        with self._undisturbed:
            return self.checkpoints.save(step, tensors, state, score)

    def failed(self) -> bool:
        """Whether it is already known that the last one could not be written."""
        return bool(self._writing and self._writing.done() and self._writing.exception())

    def _copy(self, tensors: Tensors) -> None:
        """To host memory that is taken once, page-locked so that a GPU need not wait for it."""
        before, self._copies = self._copies, {}
        for name, group in tensors.items():
            mine = before.get(name, {})
            self._copies[name] = {
                key: _copy_into(mine.get(key), tensor.detach()) for key, tensor in group.items()
            }
        if any(tensor.is_cuda for group in tensors.values() for tensor in group.values()):
            torch.cuda.synchronize()

    def wait(self) -> None:
        """Until all is on disk.

        Raises:
            OSError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self) -> None:
        """Ends the thread, when it is done."""
        self._pool.shutdown(wait=True)


def _copy_into(place: Tensor | None, tensor: Tensor) -> Tensor:
    """A copy in host memory, in its place if that is still one for such a tensor."""
    if place is None or (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
        place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return place.copy_(tensor, non_blocking=True)

"""A checkpoint is a folder, there whole or not at all: safetensors for tensors, JSON for the rest.

It is written under another name, brought to disk and renamed; `latest` and `best` then move,
and only then old ones go. So a kill at any moment leaves a run that loads. The JSON part holds size
and SHA-256 of every file and of itself, and nothing is loaded that does not agree. Nothing is
unpickled.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from biggan_sn.files import to_disk, write_whole
from biggan_sn.run_folder import CHECKPOINTS, STATE_NAME, step_of, whole_checkpoints

CARD_NAME = "card.json"  # of an export, which is no checkpoint
LATEST = "latest"
BEST = "best"
VERSION = 5
SEAL = "sha256"  # of the rest of the JSON part
REMEDY = "without its folder, the checkpoint before it is the newest"

Tensors = Mapping[str, Mapping[str, torch.Tensor]]


class CheckpointError(ValueError):
    """A checkpoint that is not there or cannot be read; the message names it."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        root: folder of the checkpoints, made when the first is saved.
        keep: how many of the newest are kept.
        keep_best: how many of those with the lowest score are kept beside them.
        every: steps between two checkpoints.
        keep_spaced: for j up to this, one of an age of 2^j to 2^(j+1) times `every` is kept.
    """

    def __init__(
        self,
        root: Path,
        keep: int = 2,
        keep_best: int = 1,
        every: int = 1,
        keep_spaced: int = 0,
    ) -> None:
        self.root = root
        self.keep = keep
        self.keep_best = keep_best
        self.every = every
        self.keep_spaced = keep_spaced

    def save(
        self, step: int, tensors: Tensors, state: Mapping[str, Any], score: float | None = None
    ) -> Path:
        """Writes the checkpoint of `step` and drops those no longer kept.

        Args:
            step: updates of G so far.
            tensors: file name -> tensor name -> tensor.
            state: anything JSON can hold.
            score: how good the run is now, lower is better; None if it was not measured.

        Raises:
            OSError: it cannot be written; names the newest that is whole.
        """
        path = self.path_of(step)
        try:
            if not path.exists():
                self._write(path, tensors, {"step": step, "score": score, **state})
            self._point(LATEST, path)
            if self.keep_best and (best := self.best()):
                self._point(BEST, best)
            self._drop_old()
        except (OSError, SafetensorError) as error:
            whole = self.newest()
            before = f"the newest whole one is {whole.name}" if whole else "there is none before"
            raise OSError(f"{path}: cannot be written ({error}); {before}") from error
        return path

    def _write(self, path: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        unfinished = self.root / f".{path.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        files = {}
        for name, group in tensors.items():
            contents = {key: t.detach().cpu().contiguous() for key, t in group.items()}
            file = unfinished / f"{name}.safetensors"
            save_file(contents, file)  # other threads run meanwhile
            file.chmod(unfinished.stat().st_mode & 0o666)  # it had left it to its owner alone
            to_disk(file)
            files[file.name] = fingerprint(file)
        save_state(unfinished, {"version": VERSION, **state, "files": files})
        to_disk(unfinished)
        unfinished.rename(path)
        to_disk(self.root)

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.root / f"step_{step:08d}"

    def all(self) -> list[Path]:
        """Every whole checkpoint, oldest first."""
        return whole_checkpoints(self.root)

    def newest(self) -> Path | None:
        """The newest whole checkpoint, if there is one."""
        return self.all()[-1] if self.all() else None

    def best(self) -> Path | None:
        """The whole checkpoint with the lowest score, if any was scored."""
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def give_up_after(self, step: int, kept: Path) -> None:
        """Moves every checkpoint of a later step to the folder `kept`; the others remain as they
        are, and `latest` and `best` point to the newest and best of them."""
        for path in self.all()[::-1]:  # the newest first: stopped in between, the rest is a run
            if step_of(path) > step:
                shutil.rmtree(kept / path.name, ignore_errors=True)
                path.rename(kept / path.name)
        if newest := self.newest():
            self._point(LATEST, newest)
        (self.root / BEST).unlink(missing_ok=True)
        if best := self.best():
            self._point(BEST, best)

    def _ranked(self) -> list[Path]:
        scores = {path: load_state(path)["score"] for path in self.all()}
        scored = [path for path, score in scores.items() if score is not None]
        return sorted(scored, key=lambda path: (scores[path], -step_of(path)))

    def _spaced(self) -> list[Path]:
        """The newest two of every 2^j-th checkpoint: the second is 2^j to 2^(j+1) old, and the
        first will be when the second no longer is."""
        kept = []
        for j in range(1, self.keep_spaced + 1):
            apart = self.every * 2**j
            kept += [path for path in self.all() if step_of(path) % apart == 0][-2:]
        return kept

    def _point(self, name: str, path: Path) -> None:
        unfinished = self.root / f".{name}.unfinished"
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(path.name)
        unfinished.replace(self.root / name)
        to_disk(self.root)

    def _drop_old(self) -> None:
        kept = {*self.all()[-self.keep :], *self._ranked()[: self.keep_best], *self._spaced()}
        for path in self.all():
            if path not in kept:
                # Renamed first: a folder that is half deleted must not look like a checkpoint.
                path.rename(self.root / f".{path.name}.dropped")
        for dropped in self.root.glob(".step_*"):
            shutil.rmtree(dropped)


def find(path: Path) -> Path:
    """The checkpoint that a user means by `path`: itself, or the newest of a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    if (path / STATE_NAME).is_file():
        return path.resolve()
    if (path / CARD_NAME).is_file():
        raise CheckpointError(
            f"{path}: an export, which has no more than a generator: this takes a run or a "
            "checkpoint; an export can be sampled, and the samples scored"
        )
    for root in (path, path / CHECKPOINTS):
        if newest := Checkpoints(root).newest():
            return newest
    others = ", ".join(one.name for one in Checkpoints(path.parent).all())
    beside = f"; beside it are {others}" if others else ""
    raise CheckpointError(f"{path}: no checkpoint there, nor in its folder checkpoints/{beside}")


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the JSON part of the checkpoint `path`, whole or not at all."""
    document = json.loads(json.dumps(state))  # as it will be read
    document[SEAL] = _seal(document)
    write_whole(path / STATE_NAME, json.dumps(document, indent=1).encode())


def _seal(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_state(path: Path) -> dict[str, Any]:
    """The JSON part of the checkpoint `path`.

    Raises:
        CheckpointError: it cannot be read, was changed, or another version of the package wrote it.
    """
    try:
        state: dict[str, Any] = json.loads((path / STATE_NAME).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE_NAME}: cannot be read ({error}); {REMEDY}") from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise CheckpointError(
            f"{path / STATE_NAME}: checkpoint version {version}, this package reads {VERSION}"
        )
    if state.pop(SEAL, None) != _seal(state):
        raise CheckpointError(f"{path / STATE_NAME}: not as it was written (SHA-256); {REMEDY}")
    return state


def load_tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    """One group of tensors of the checkpoint `path`, on the CPU.

    Raises:
        CheckpointError: it cannot be read, or is not as it was written.
    """
    file = path / f"{name}.safetensors"
    return read_tensors(file, load_state(path)["files"].get(file.name), REMEDY)


def read_tensors(
    file: Path, written: Mapping[str, Any] | None, remedy: str
) -> dict[str, torch.Tensor]:
    """The tensors in a file whose fingerprint was `written`, on the CPU.

    Raises:
        CheckpointError: it cannot be read, or is not as it was written; ends with the remedy.
    """
    try:
        found = fingerprint(file)
        if found != written:
            what = "size" if written and found["bytes"] != written["bytes"] else "SHA-256"
            raise CheckpointError(f"{file}: not as it was written ({what}); {remedy}")
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); {remedy}") from error


def load_network(network: torch.nn.Module, path: Path, name: str, assign: bool = False) -> None:
    """Loads the group `name` into `network`, all of it and nothing else.

    Raises:
        CheckpointError: it cannot be read or is not of this network.
    """
    fill_network(network, load_tensors(path, name), path / f"{name}.safetensors", assign)


def fill_network(
    network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], file: Path, assign: bool
) -> None:
    """Puts all tensors of a file into `network`.

    Raises:
        CheckpointError: they are not those of this network.
    """
    try:
        network.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{file}: not of this network: {reason}") from error


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}

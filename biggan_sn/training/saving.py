"""What of a run is in a checkpoint, and how it comes back from there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from biggan_sn.checkpoint import CheckpointError, load_network, load_tensors, step_of
from biggan_sn.collapse.detector import Detector
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.training.step import GANStep

INTEGERS = ("step", "position", "attempt")


def tensors_of(
    play: GANStep, spectra: Mapping[str, Spectrum], detector: Detector
) -> dict[str, dict[str, Tensor]]:
    """All tensors that a run goes on from, by group."""
    return {
        "generator": play.g.network.state_dict(),
        "discriminator": play.d.network.state_dict(),
        "ema": play.ema.settled().state_dict(),
        "generator_optimizer": play.g.state(),
        "discriminator_optimizer": play.d.state(),
        "spectra": {
            f"{network}/{name}": tensor
            for network, spectrum in spectra.items()
            for name, tensor in spectrum.state().items()
        },
        "collapse": detector.state(),
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
            mine = {n: t for n, t in state.items() if n.startswith(f"{network}/")}
            spectrum.load_state({n.removeprefix(f"{network}/"): t for n, t in mine.items()})

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


def integers_of(path: Path, state: Mapping[str, Any]) -> list[int]:
    """The integers in the state of the checkpoint `path`.

    Raises:
        CheckpointError: one is missing.
    """
    for name in INTEGERS:
        if not isinstance(state.get(name), int):
            raise CheckpointError(f"{path}: its state lacks the {name}")
    return [state[name] for name in INTEGERS]

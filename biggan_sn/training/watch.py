"""Watches a run: brings what is known of it from the device, and asks whether it collapses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from biggan_sn.collapse.detector import Alarm, Detector
from biggan_sn.collapse.signs import Look
from biggan_sn.config import Config
from biggan_sn.losses.objectives import build_objective
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.training.monitor import Measured, on_device, on_host
from biggan_sn.training.probe import Probe, conclude
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World


@dataclass(frozen=True)
class Seen:
    """A step as it looks from the host.

    Args:
        step: updates of G done.
        losses: the scalars of the step, over all ranks.
        probed: those of the look, if there was one; without any that is not finite.
        weights: what is known of them.
        lengths: of all that a network holds, weights, biases and statistics, by short name.
    """

    step: int
    losses: dict[str, float]
    probed: dict[str, float]
    weights: Measured
    lengths: dict[str, float]


class Looks(Protocol):
    """What looks at both players: what a Probe is."""

    def start(self, step: int) -> None:
        """Before the first look, and where the run goes on from another step."""
        ...

    def look(self) -> dict[str, Tensor]:
        """The next look; see `Probe.look`."""
        ...

    def close(self) -> None:
        """Ends what reads ahead."""
        ...


class Watch:
    """Looks at both players every `collapse.every` steps, and keeps in mind what it saw.

    Args:
        config: of the run.
        play: the players.
        spectra: theirs, by short names.
        world: this process's place.
        probe: None makes one as the config has it.

    Attributes:
        detector: only that of the leading process is fed; what follows is decided there.
    """

    def __init__(
        self,
        config: Config,
        play: GANStep,
        spectra: Mapping[str, Spectrum],
        world: World,
        probe: Looks | None = None,
    ) -> None:
        self.detector = Detector(config.collapse)
        self._every = config.collapse.every
        # Steps between two moments at which all is known to be finite.
        self._checked = min(self._every or config.logs.every, config.logs.every)
        self._probe = probe or Probe(config, play, world)
        self._spectra = spectra
        self._networks = {"G": play.g.network, "D": play.d.network}
        self._ranks = world.ranks
        nothing = torch.zeros(1)
        objective = build_objective(config.objective, config.real_label)  # means of one process
        self._least = objective.least
        self._undecided = float(objective.d_loss(nothing, nothing)) - self._least

    def due(self, step: int) -> bool:
        """Whether there is a look at this step. Not at the last step of a run for being the last:
        it may be carried on, and must not have looked more often than one that never stopped."""
        return self._every > 0 and step % self._every == 0

    def heeds(self, step: int, every: int) -> bool:
        """Whether an evaluation at this step counts: as with looks, not for being the last."""
        return self._every > 0 and step % every == 0

    def start(self, step: int) -> None:
        """To be called where the run starts, or goes on."""
        self._probe.start(step)

    def close(self) -> None:
        """Ends what reads ahead."""
        self._probe.close()

    def see(self, step: int, scalars: dict[str, Tensor], measuring: bool) -> Seen:
        """All that is wanted of this step, in one message over the ranks and one transfer from the
        device. Every process must call it."""
        looking = self.due(step)
        probed = self._probe.look() if looking else {}
        device = torch.stack([*scalars.values(), *probed.values()]).double()
        if self._ranks > 1:
            torch.distributed.all_reduce(device)
            device /= self._ranks
        sigmas = looking or measuring
        lengths = torch.stack([_length(network) for network in self._networks.values()])
        numbers = iter(torch.cat([device, lengths, on_device(self._spectra, sigmas)]).tolist())
        losses, found, wholes = (
            dict(zip(part, numbers, strict=False)) for part in (scalars, probed, self._networks)
        )
        said = conclude(found)
        finite = {name: value for name, value in said.items() if math.isfinite(value)}
        return Seen(step, losses, finite, on_host(self._spectra, sigmas, numbers), wholes)

    def lost(self, seen: Seen) -> Alarm | None:
        """An alarm if anything is not finite: then there is nothing to go on with."""
        wrong = [f"{name} is {x}" for name, x in seen.losses.items() if not math.isfinite(x)]
        wrong += [f"the weight of {name} is not finite" for name in seen.weights.not_finite()]
        lengths = seen.lengths.items()
        wrong += [f"{name} is not finite" for name, x in lengths if not math.isfinite(x)]
        last_look = (seen.step - 1) // self._checked * self._checked
        return self.detector.lost(seen.step, wrong[0], last_look) if wrong else None

    def judge(self, seen: Seen) -> list[Alarm]:
        """What is alarming in a look."""
        scalars = dict(seen.probed)
        if math.isfinite(self._least):
            scalars["d_doubt"] = (seen.losses["d_loss"] - self._least) / self._undecided
        return self.detector.observe(Look(seen.step, scalars, seen.weights.sizes()))

    def judge_score(self, step: int, fid: float) -> list[Alarm]:
        """What is alarming in an evaluation."""
        return self.detector.observe(Look(step, fid=fid))


def _length(network: nn.Module) -> Tensor:
    """The length of all that a network holds, finite if all of it is."""
    held = [t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]
    return torch.stack(list(torch._foreach_norm([t.detach() for t in held]))).double().norm()

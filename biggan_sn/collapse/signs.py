"""The signs of a collapse: what each reads in a look at a run, how bad it finds it, and its words.

A level of 1 is an alarm. What Brock et al. 2019 (section 4) and Karras et al. 2020 (ADA) watch:
weights that explode, a discriminator that knows its images by heart, pictures that get worse.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from biggan_sn.collapse.cusum import Memory, new_memory, observe
from biggan_sn.config import CollapseConfig

CALM = 0.5  # a level below it is no sign of anything
QUIET = 0.25  # the same for explosions, whose level is seldom higher in a healthy run
SMOOTHING = 0.1  # weight of the newest look in a running mean
BLIND = 0.01  # of what images differ, in lengths of D's features: less is nothing
BLIND_LOOKS = 5.0  # one after the other
FAR = 10.0  # a ratio above it only says that D hardly knows G's images from training images
FIDS = 3  # evaluations, of which the best counts
CERTAIN = 5.0  # standard errors; of 300 looks at nothing, one in four is three away
LOGITS = ("d_on_train", "d_on_heldout", "d_on_fake")
SETTLED = 10.0  # looks until a running mean is one

Sizes = Mapping[str, float]


@dataclass(frozen=True)
class Look:
    """What is known of a run at one step.

    Args:
        step: updates of G so far.
        scalars: d_doubt, D's loss over that of a D that cannot tell, if that is above 0; and what
            `Probe.look` of the training room finds. All are finite.
        weights: sizes of each weight, "G conv: sigma_0" and so on; empty if nobody measured them.
        fid: of an evaluation at this step, if there was one.
    """

    step: int
    scalars: Mapping[str, float] = field(default_factory=dict)
    weights: Sizes = field(default_factory=dict)
    fid: float | None = None


Read = Callable[[Look, Memory, CollapseConfig], float | None]


class Sign(NamedTuple):
    """A row: its channel (a switch of the config); read(look, memory, config) -> level, or None if
    the look has nothing for it; tell(look, memory) -> one sentence about what it saw. The memory is
    empty at first, then holds `parts`, without which a checkpoint is refused; `onset` in it is the
    last calm step, where that is not the last of a level below CALM."""

    channel: str
    read: Read
    tell: Callable[[Look, Memory], str]
    parts: tuple[str, ...] = ()


def _explosion(look: Look, memory: Memory, config: CollapseConfig) -> float | None:
    """The worst of all weights. Two things must be large: the CUSUM, or chance would do, and the
    burst, or slow growth would, which is no explosion."""
    if not look.weights:
        return None
    if not memory:
        memory |= new_memory(len(look.weights))
    with np.errstate(divide="ignore", invalid="ignore"):
        observe(memory, np.log(np.array(list(look.weights.values()))))
    levels = np.minimum(memory["sums"] / config.cusum, memory["burst"] / math.log(config.growth))
    memory["worst"] = np.array(np.argmax(levels), np.float64)
    level = float(np.max(levels))
    if level < QUIET or "calm" not in memory:
        memory["calm"], memory["onset"] = memory["value"].copy(), np.array(float(look.step))
    return level


def _tell_explosion(look: Look, memory: Memory) -> str:
    worst = int(memory["worst"])
    before, now = np.exp(memory["calm"][worst]), np.exp(memory["value"][worst])
    return f"{list(look.weights)[worst]} grew from {before:.3g} to {now:.3g}"


def _heldout_gap(look: Look, memory: Memory, config: CollapseConfig) -> float | None:
    """Where D sees held-out images between training images (0) and G's (1): r_v of Karras et al.
    2020, eq. 1."""
    if not all(name in look.scalars for name in LOGITS):
        return None
    train, heldout, fake = (look.scalars[name] for name in LOGITS)
    before = float(memory.get("gap", np.array(train - heldout)))
    gap = _smooth(memory, "gap", train - heldout)
    square = _smooth(memory, "square", (train - heldout - before) * (train - heldout - gap))
    apart = _smooth(memory, "apart", train - fake)
    memory["ratio"] = np.array(gap / apart if apart > 0 else 0.0)
    if not _settled(memory):
        return 0.0
    # Where D hardly tells G's images from training images, any gap is large beside the other. It
    # must be large beside its own error too.
    error = math.sqrt(max(square, 0.0) * SMOOTHING / (2 - SMOOTHING))
    return min(float(memory["ratio"]) / config.heldout_gap, gap / (CERTAIN * error + 1e-12))


def _tell_heldout_gap(look: Look, memory: Memory) -> str:
    return (
        "D knows the training images by heart: it sees held-out images "
        f"{min(memory['ratio'], FAR):.0%} of the way from them to G's"
    )


def _too_small(scalar: str, limit: str) -> Read:
    """The running mean of a scalar against a limit of the config, below which it must not fall."""

    def read(look: Look, memory: Memory, config: CollapseConfig) -> float | None:
        if scalar not in look.scalars:
            return None
        now = _smooth(memory, scalar, look.scalars[scalar])
        least: float = getattr(config, limit)
        return least / max(now, 1e-12) if _settled(memory) else 0.0

    return read


def _tell_d_loss(look: Look, memory: Memory) -> str:
    return f"D has won: its loss is {memory['d_doubt']:.2%} of that of a D that cannot tell"


def _tell_diversity(look: Look, memory: Memory) -> str:
    return (
        "G's pictures of a class become one: to D they differ by "
        f"{memory['diversity']:.0%} of what training images do"
    )


def _blind(look: Look, memory: Memory, config: CollapseConfig) -> float | None:
    """Also a D whose ReLUs are all dead, which no loss and no weight betrays."""
    if "contrast" not in look.scalars:
        return None
    blind = look.scalars["contrast"] < BLIND
    memory["looks"] = np.array((float(memory.get("looks", np.array(0.0))) + 1) * blind)
    return float(memory["looks"]) / BLIND_LOOKS


def _tell_blind(look: Look, memory: Memory) -> str:
    return "D is blind: all training images are alike to it"


def _fid(look: Look, memory: Memory, config: CollapseConfig) -> float | None:
    """By the best of the last three evaluations: one or two may be bad luck."""
    if look.fid is None:
        return None
    before = memory.get("last", np.zeros(0))
    memory["last"] = np.append(before, look.fid)[-FIDS:]
    memory["best"] = np.fmin(memory.get("best", np.array(np.inf)), look.fid)
    best, now = float(memory["best"]), float(memory["last"].min())
    if look.fid <= (1 + CALM * (config.fid_rise - 1)) * best:
        memory["onset"] = np.array(float(look.step))  # what was calm then is told two later
    return (now / best - 1) / (config.fid_rise - 1) if math.isfinite(best) else 0.0


def _tell_fid(look: Look, memory: Memory) -> str:
    return f"FID turned up: {memory['last'][-1]:.4g} after a best of {memory['best']:.4g}"


def _smooth(memory: Memory, name: str, value: float) -> float:
    """The running mean of what is noted under a name."""
    looks = float(memory.get(f"{name}_looks", np.array(0.0))) + 1
    mean = float(memory.get(name, np.array(0.0)))
    memory[name] = np.array(mean + max(SMOOTHING, 1 / looks) * (value - mean))
    memory[f"{name}_looks"] = np.array(looks)
    return float(memory[name])


def _means(*names: str) -> tuple[str, ...]:
    """What `_smooth` keeps."""
    return (*names, *(f"{name}_looks" for name in names))


def _settled(memory: Memory) -> bool:
    looks = (float(value) for name, value in memory.items() if name.endswith("_looks"))
    return max(looks) >= SETTLED


EXPLOSION = (*new_memory(0), "worst", "calm", "onset")
GAP = (*_means("gap", "square", "apart"), "ratio")

SIGNS: dict[str, Sign] = {
    "explosion": Sign("explosion", _explosion, _tell_explosion, EXPLOSION),
    "heldout_gap": Sign("memorization", _heldout_gap, _tell_heldout_gap, GAP),
    "d_loss": Sign(
        "memorization", _too_small("d_doubt", "d_loss"), _tell_d_loss, _means("d_doubt")
    ),
    "diversity": Sign(
        "quality", _too_small("diversity", "diversity"), _tell_diversity, _means("diversity")
    ),
    "blindness": Sign("quality", _blind, _tell_blind, ("looks",)),
    "fid_rise": Sign("quality", _fid, _tell_fid, ("last", "best", "onset")),
}

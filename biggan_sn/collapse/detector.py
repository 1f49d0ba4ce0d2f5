"""Takes looks at a run, remembers, and sounds alarms."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from biggan_sn.collapse.cusum import Memory
from biggan_sn.collapse.signs import CALM, SIGNS, Look
from biggan_sn.config import CollapseConfig

MOST = 100.0  # a level above it says no more


@dataclass(frozen=True)
class Alarm:
    """What was seen.

    Args:
        step: when.
        sign: which (a row of SIGNS, or `finite`).
        channel: switch of the config.
        action: what the config wants done.
        reason: one sentence.
        since: the last step at which there was no sign of it.
        levels: of all signs then; 1 is an alarm.
    """

    step: int
    sign: str
    channel: str
    action: str
    reason: str
    since: int
    levels: dict[str, float]


class Detector:
    """Follows all signs of collapse, also those of channels that are off.

    Args:
        config: switches and limits.

    Attributes:
        levels: of each sign at the newest look; 1 is an alarm.
        since: the last step at which each was calm.
    """

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config
        self.levels = dict.fromkeys(SIGNS, 0.0)
        self.since = dict.fromkeys(SIGNS, 0)
        self._memory: dict[str, Memory] = {name: {} for name in SIGNS}

    def observe(self, look: Look) -> list[Alarm]:
        """The alarms of this look: a sign sounds once, and again when it has been below 1."""
        sounding = [name for name in SIGNS if self._read(name, look)]
        return [
            self._alarm(name, look.step, SIGNS[name].tell(look, self._memory[name]))
            for name in sounding
            if getattr(self.config, SIGNS[name].channel) != "off"
        ]

    def _read(self, name: str, look: Look) -> bool:
        """Whether a sign has just come up."""
        level = SIGNS[name].read(look, self._memory[name], self.config)
        if level is None:
            return False
        level = min(max(level, 0.0), MOST)
        before, self.levels[name] = self.levels[name], level
        if level < CALM:
            self.since[name] = look.step
        if "onset" in self._memory[name]:
            self.since[name] = int(self._memory[name]["onset"])
        return before < 1 <= level

    def _alarm(self, name: str, step: int, reason: str) -> Alarm:
        channel = SIGNS[name].channel
        action = getattr(self.config, channel)
        return Alarm(step, name, channel, action, reason, self.since[name], self.shown())

    def shown(self) -> dict[str, float]:
        """The levels, rounded."""
        return {name: round(level, 3) for name, level in self.levels.items()}

    def lost(self, step: int, reason: str, last_look: int) -> Alarm:
        """The alarm of a run in which something is not finite: if warnings are all that is wanted,
        it stops, for there is nothing to go on with.

        Args:
            step: when it was found.
            reason: what is not finite.
            last_look: the last step at which everything was.
        """
        since = last_look
        if self.levels["explosion"] >= CALM:  # then it was that
            since = min(since, self.since["explosion"])
        action = "rollback" if self.config.quality == "rollback" else "stop"
        return Alarm(step, "finite", "quality", action, reason, since, self.shown())

    def state(self) -> dict[str, Tensor]:
        """All it remembers, by name: a run that is carried on alarms at the same step."""
        state = {
            f"{name}/{part}": value
            for name, memory in self._memory.items()
            for part, value in memory.items()
        }
        for name in SIGNS:
            state[f"{name}/level"] = np.array(self.levels[name])
            state[f"{name}/calm_until"] = np.array(float(self.since[name]))
        return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave. A sign that is new starts afresh.

        Raises:
            ValueError: a sign that is not known, or of which something is missing.
        """
        found: dict[str, Memory] = {}
        for key, value in state.items():
            name, _, part = key.partition("/")
            found.setdefault(name, {})[part] = value.numpy().copy()
        for name, memory in found.items():
            _check(name, memory)
            self.levels[name] = float(memory.pop("level"))
            self.since[name] = int(memory.pop("calm_until"))
            self._memory[name] = memory


def _check(name: str, memory: Memory) -> None:
    """Raises ValueError unless the memory of a sign is empty or whole."""
    if name not in SIGNS:
        raise ValueError(f"not a sign of collapse: {name!r}")
    always = {"level", "calm_until"}
    sizes = {value.shape for value in memory.values() if value.ndim}
    parts = set(SIGNS[name].parts) or set(memory)
    if set(memory) not in (always, always | parts) or len(sizes) > 1:
        raise ValueError(f"the memory of {name!r} is not whole")

"""One side of the game: a network, and the optimizer that moves it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from biggan_sn.config import PlayerConfig
from biggan_sn.positions import shares
from biggan_sn.tables import lookup
from biggan_sn.training.engines import ENGINES
from biggan_sn.training.loss_scale import LossScale
from biggan_sn.training.world import World

SCALE = "loss_scale"


class Player:
    """A network and its Adam, on this process and in step with all others.

    Args:
        network: what the opponent sees; frozen except in the player's own turn.
        config: the optimizer's knobs.
        batch_size: images of one update, over all processes.
        microbatch: images of one forward pass here.
        world: this process's place; its engine moves the network.
        scaled: whether gradients are scaled up to the range of fp16.
    """

    def __init__(
        self,
        network: nn.Module,
        config: PlayerConfig,
        batch_size: int,
        microbatch: int,
        world: World | None = None,
        scaled: bool = False,
    ) -> None:
        world = world or World()
        self.network = network
        self._rate = config.lr
        self.microbatch = microbatch
        self._share = (0, batch_size, world.rank, world.ranks, microbatch)
        self._rounds = batch_size // (world.ranks * microbatch)
        self._last = True
        self.trainable = [p for p in network.parameters() if p.requires_grad]
        self.engine = lookup(ENGINES, world.engine, "engine")(network, config, world)
        self.scale = LossScale(scaled)
        self._require_grad(False)

    @property
    def model(self) -> nn.Module:
        """The network wrapped for training. In its own turn the player's forward passes go through
        it, so that gradients meet once per update."""
        return self.engine.model

    @property
    def rate(self) -> float:
        """The learning rate of its last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def slow_down(self, share: float) -> None:
        """Sets the learning rate to this part of the config's."""
        for group in self.optimizer.param_groups:
            group["lr"] = share * self._rate

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Whose rates may be changed between steps."""
        return self.engine.optimizer

    def _require_grad(self, required: bool) -> None:
        for parameter in self.trainable:
            parameter.requires_grad_(required)

    @contextmanager
    def turn(self) -> Iterator["Player"]:
        """The player's turn: its network thaws, gathers gradients, takes a step and freezes."""
        self._require_grad(True)
        self.engine.begin(self._rounds)
        try:
            yield self
            self.scale.update(self.engine.step(self.scale.value))
        finally:
            self._require_grad(False)

    def microbatches(self) -> Iterator[range]:
        """This process's slices of a batch, as positions in it. All but the last keep their
        gradients to themselves."""
        rounds = shares(*self._share)
        for number in range(1, self._rounds + 1):
            self._last = number == self._rounds
            with nullcontext() if self._last else self.engine.apart():
                yield next(rounds)

    def descend(self, loss: Tensor, term: Tensor | float = 0.0) -> None:
        """Adds the gradient of one microbatch's mean loss, at its weight in the batch, and that of
        a term on the network itself at its full weight."""
        self.engine.backward(loss / self._rounds + term, self.scale.value)

    def once(self, term: Callable[[nn.Module], Tensor | float]) -> Tensor | float:
        """A term on the network itself, in the last round; 0 before."""
        return term(self.network) if self._last else 0.0

    def state(self) -> dict[str, Tensor]:
        """The optimizer's moments by parameter name, and the loss scale if there is one: what
        safetensors can hold, whole on the leading process. Every process must call it."""
        moments = {
            f"{name}/{slot}": value
            for name, parameter in self.named().items()
            for slot, value in self.engine.moments(parameter).items()
        }
        return moments | {f"{SCALE}/{name}": value for name, value in self.scale.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` gave, under this engine or another.

        Raises:
            ValueError: the moments are those of another network.
        """
        slots: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            name, _, slot = key.rpartition("/")
            slots.setdefault(name, {})[slot] = value
        scale = slots.pop(SCALE, None)
        mine = self.named()
        for name in sorted(mine.keys() | slots.keys()):
            found = {slot: value.shape for slot, value in slots.get(name, {}).items()}
            if name not in mine or found != _shapes(mine[name]):
                raise ValueError(f"not the optimizer state of this network: {name!r}")
        self.engine.load_moments({mine[name]: moments for name, moments in slots.items()})
        if scale:
            self.scale.load_state(scale)

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        trained = set(self.trainable)
        return {name: p for name, p in self.network.named_parameters() if p in trained}


def _shapes(parameter: Tensor) -> dict[str, torch.Size]:
    """What Adam keeps for a parameter."""
    return {
        "step": torch.Size(),
        "exp_avg": parameter.shape,
        "exp_avg_sq": parameter.shape,
    }

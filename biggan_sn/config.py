"""Every knob of a run: frozen dataclasses, checked on construction, without importing torch.

A section is a component; its fields are that component's knobs. Defaults are those of BigGAN
(Brock, Donahue, Simonyan 2019) where the paper states one. A section given in part keeps the
other defaults of that section.
"""

from dataclasses import dataclass, field

RESOLUTIONS = (32, 64, 128, 256, 512)
PRECISIONS = ("fp32", "bf16")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{section}.{name} must be positive, got {value}")


def _require_not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 0, f"{section}.{name} must be 0 or more, got {value}")


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and what is done to them.

    Args:
        path: folder that holds the shards and their index.
        resolution: side of the square images, pixels.
        num_classes: number of labels; must be that of the data.
        flip: mirror every second image at random. Never for digits or text.
        shift: largest random translation of an image, pixels.
        threads: decode threads of each process.
        prefetch: microbatches decoded ahead.
    """

    path: str = ""
    resolution: int = 128
    num_classes: int = 1000
    flip: bool = False
    shift: int = 0
    threads: int = 2
    prefetch: int = 4

    def __post_init__(self) -> None:
        _require(
            self.resolution in RESOLUTIONS,
            f"data.resolution must be one of {RESOLUTIONS}, got {self.resolution}",
        )
        _require_positive("data", self, "num_classes", "threads", "prefetch")
        _require(
            0 <= self.shift < self.resolution,
            f"data.shift must be from 0 to {self.resolution - 1} pixels, got {self.shift}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The two networks.

    Args:
        name: architecture: sngan, sagan or biggan (rows of ARCHITECTURES).
        channels: base width `ch` of both networks.
        generator_attention: resolutions after which G attends to itself.
        discriminator_attention: resolutions after which D attends to itself.
        z_dim: length of the latent vector.
        shared_dim: length of the class embedding shared by all conditional norms of G; 0 gives
            every norm a table of its own; null takes what the architecture's paper has.
        hierarchical_z: feed a part of z to every block of G; null as above.
        initialization: how weights start: orthogonal, normal or xavier (INITIALIZERS).
    """

    name: str = "biggan"
    channels: int = 96
    generator_attention: tuple[int, ...] = ()
    discriminator_attention: tuple[int, ...] = ()
    z_dim: int = 120
    shared_dim: int | None = None
    hierarchical_z: bool | None = None
    initialization: str = "orthogonal"

    def __post_init__(self) -> None:
        _require_positive("model", self, "channels", "z_dim")
        if self.shared_dim is not None:
            _require_not_negative("model", self, "shared_dim")


@dataclass(frozen=True)
class SpectrumConfig:
    """The top singular triplets of every weight of both networks, renewed after each update for
    spectral norm, clamps, regularizers and the monitor alike.

    Args:
        values: how many of each weight, from the largest.
        depth: of block Lanczos; a weight is read 2 * depth times. In a small training with high
            rates sigma_0 of the worst layer was known to 1% with 1, to 0.1% with 2 and to 0.01%
            with 3, which is taken where sigma_0 is clamped or regularised.
    """

    values: int = 3
    depth: int = 1

    def __post_init__(self) -> None:
        _require(2 <= self.values <= 8, f"spectrum.values must be 2 to 8, got {self.values}")
        _require(1 <= self.depth <= 8, f"spectrum.depth must be 1 to 8, got {self.depth}")


@dataclass(frozen=True)
class LipschitzConfig:
    """Constraints put on the networks from outside.

    Args:
        generator: what is put on G, a list of rows of LIPSCHITZ; one of spectral_norm,
            power_iteration_norm, torch_spectral_norm, conv_spectral_norm or weight_norm, and any
            of weight_clipping, sigma0_clamp, sigma0_ratio_clamp. An empty list is nothing.
        discriminator: the same for D, and gradient_normalization.
        power_iterations: of power_iteration_norm, torch_spectral_norm and conv_spectral_norm.
        eps: smallest sigma or length that a weight is divided by.
        conv_gain: norm that conv_spectral_norm gives a convolution, as a map between images.
            The norm by which spectral_norm divides is about half of that map's.
        clip: weight_clipping keeps every parameter between -clip and clip.
    """

    generator: tuple[str, ...] = ("spectral_norm",)
    discriminator: tuple[str, ...] = ("spectral_norm",)
    power_iterations: int = 1
    eps: float = 1e-6
    conv_gain: float = 2.0
    clip: float = 0.01

    def __post_init__(self) -> None:
        _require_positive("lipschitz", self, "power_iterations", "eps", "conv_gain", "clip")


@dataclass(frozen=True)
class Sigma0Config:
    """Where the largest singular value of a raw weight is held, by the clamps among the rows of
    LIPSCHITZ or by the regularizers sigma0 and sigma0_ratio (Brock et al. 2019, section 4.1).

    Args:
        sigma_reg: the value itself, for sigma0_clamp and sigma0.
        ratio: to sigma_1, for sigma0_ratio_clamp and sigma0_ratio.
        only_first: clamp sigma_0 alone, as the paper writes it, though others may exceed too.
        two_sided: pull a smaller sigma_0 up too, as the paper writes it; it inflates spectra.
    """

    sigma_reg: float = 3.0
    ratio: float = 1.5
    only_first: bool = False
    two_sided: bool = False

    def __post_init__(self) -> None:
        _require_positive("sigma0", self, "sigma_reg")
        _require(
            self.ratio >= 1,
            f"sigma0.ratio must be 1 or more, got {self.ratio}: a smaller one makes sigma_1 the "
            "largest and shrinks the whole spectrum step by step",
        )


@dataclass(frozen=True)
class RegularizersConfig:
    """Terms on the weights, by name with their weight, as in --regularizers.generator.orthogonal
    1e-4: rows of REGULARIZERS, which are orthogonal, orthonormal, sigma0 and sigma0_ratio.

    Args:
        generator: terms on G.
        discriminator: terms on D.
    """

    generator: dict[str, float] = field(default_factory=dict)
    discriminator: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for side in ("generator", "discriminator"):
            for name, weight in getattr(self, side).items():
                _require(weight >= 0, f"regularizers.{side}.{name} must be 0 or more, got {weight}")


@dataclass(frozen=True)
class PlayerConfig:
    """The optimizer (Adam) of one side of the game.

    Args:
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        microbatch: images of one forward pass on one process; 0 takes the process's whole share.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-6
    microbatch: int = 0

    def check(self, side: str) -> None:
        """Raises ValueError, with the name of the side, if a value is impossible."""
        _require_positive(side, self, "lr", "eps")
        _require_not_negative(side, self, "microbatch")
        _require(
            all(0 <= beta < 1 for beta in self.betas),
            f"{side}.betas must lie in [0, 1), got {self.betas}",
        )


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of G's weights, which is what one samples from.

    Args:
        decay: weight of the past.
        start: the average is a plain copy of G until this step.
    """

    decay: float = 0.9999
    start: int = 20000

    def __post_init__(self) -> None:
        _require(0 <= self.decay < 1, f"ema.decay must lie in [0, 1), got {self.decay}")
        _require_not_negative("ema", self, "start")


@dataclass(frozen=True)
class MonitorConfig:
    """The spectra as they are logged.

    Args:
        every: steps between two measurements; 0 switches them off.
        alarm_growth: a sigma_0 this many times as large as at the measurement before is an alarm.
    """

    every: int = 100
    alarm_growth: float = 2.0

    def __post_init__(self) -> None:
        _require_not_negative("monitor", self, "every")
        _require(
            self.alarm_growth > 1, f"monitor.alarm_growth must be above 1, got {self.alarm_growth}"
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk.

    Args:
        every: steps between two checkpoints.
        keep: how many of the newest are kept.
        keep_best: how many of the best by evaluation are kept beside them.
    """

    every: int = 1000
    keep: int = 2
    keep_best: int = 1

    def __post_init__(self) -> None:
        _require_positive("checkpoint", self, "every", "keep")
        _require_not_negative("checkpoint", self, "keep_best")


@dataclass(frozen=True)
class EvaluationConfig:
    """Scores computed while training.

    Args:
        every: steps between two evaluations; 0 switches them off.
        scorer: what scores the samples: digits (rows of SCORERS).
        samples: number of samples scored.
    """

    every: int = 0
    scorer: str = "digits"
    samples: int = 1000

    def __post_init__(self) -> None:
        _require_not_negative("evaluation", self, "every")
        _require_positive("evaluation", self, "samples")


@dataclass(frozen=True)
class LogsConfig:
    """What is written while training.

    Args:
        every: steps between two lines of scalars.
        images: steps between two sample grids; 0 switches them off.
        rows: rows of a sample grid; a column is a class.
        columns: most classes shown in a grid.
    """

    every: int = 10
    images: int = 500
    rows: int = 8
    columns: int = 10

    def __post_init__(self) -> None:
        _require_positive("logs", self, "every", "rows", "columns")
        _require_not_negative("logs", self, "images")


@dataclass(frozen=True)
class Config:
    """One run. Sections are components; scalars belong to the training loop.

    Args:
        objective: adversarial losses of both sides: hinge, minimax, nonsaturating, lsgan or wgan
            (rows of OBJECTIVES).
        penalties: weight of each term on D's input gradient, as in --penalties.r1 10: r1 (rows of
            PENALTIES).
        penalty_every: D updates between two penalised ones; the weight is multiplied by it, so
            its mean effect stays (lazy regularisation, Karras et al. 2020).
        steps: length of the run in updates of G.
        d_steps: updates of D per update of G.
        batch_size: images of one update, over all processes and microbatches.
        precision: fp32, or bf16 (autocast; weights, sums and losses stay fp32).
        seed: start of all randomness.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    sigma0: Sigma0Config = field(default_factory=Sigma0Config)
    objective: str = "hinge"
    penalties: dict[str, float] = field(default_factory=dict)
    penalty_every: int = 1
    regularizers: RegularizersConfig = field(default_factory=RegularizersConfig)
    generator: PlayerConfig = field(default_factory=lambda: PlayerConfig(lr=5e-5))
    discriminator: PlayerConfig = field(default_factory=lambda: PlayerConfig(lr=2e-4))
    ema: EMAConfig = field(default_factory=EMAConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logs: LogsConfig = field(default_factory=LogsConfig)
    steps: int = 150_000
    d_steps: int = 2
    batch_size: int = 2048
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "d_steps", "batch_size", "penalty_every"):
            value = getattr(self, name)
            _require(value > 0, f"{name} must be positive, got {value}")
        _require(self.seed >= 0, f"seed must be 0 or more, got {self.seed}")
        _require(
            self.precision in PRECISIONS,
            f"precision must be one of {PRECISIONS}, got {self.precision!r}",
        )
        self.generator.check("generator")
        self.discriminator.check("discriminator")
        for name, weight in self.penalties.items():
            _require(weight >= 0, f"penalties.{name} must be 0 or more, got {weight}")

    def microbatch(self, side: str, num_processes: int) -> int:
        """Images of one forward pass of `side` (generator or discriminator) on each process.

        Raises:
            ValueError: batch_size is not a multiple of num_processes x microbatch.
        """
        share, rest = divmod(self.batch_size, num_processes)
        _require(
            rest == 0,
            f"batch_size {self.batch_size} is not divisible by {num_processes} processes",
        )
        player: PlayerConfig = getattr(self, side)
        microbatch = player.microbatch or share
        _require(
            share % microbatch == 0,
            f"batch_size {self.batch_size} is not divisible by {num_processes} processes x "
            f"{side}.microbatch {microbatch}",
        )
        return microbatch

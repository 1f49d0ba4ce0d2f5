"""Every knob of a run: frozen dataclasses, checked on construction, without importing torch.

A section is a component; its fields are that component's knobs. Defaults are those of BigGAN
(Brock, Donahue, Simonyan 2019) where the paper states one. A section given in part keeps the
other defaults of that section.
"""

from dataclasses import dataclass, field, replace

from biggan_sn.config.checks import require, require_not_negative, require_positive
from biggan_sn.config.control import (
    LipschitzConfig,
    RegularizersConfig,
    Sigma0Config,
    SpectrumConfig,
)
from biggan_sn.config.few import AugmentConfig, ConsistencyConfig, LeCamConfig, TopKConfig
from biggan_sn.config.finetune import FinetuneConfig
from biggan_sn.config.keeping import CheckpointConfig, CollapseConfig, MonitorConfig
from biggan_sn.config.matching import FeatureMatchingConfig
from biggan_sn.config.model import ModelConfig
from biggan_sn.config.reporting import EvaluationConfig, LogsConfig
from biggan_sn.config.speed import SpeedConfig

RESOLUTIONS = (32, 64, 128, 256, 512)
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "CollapseConfig",
    "Config",
    "ConsistencyConfig",
    "DataConfig",
    "EMAConfig",
    "EvaluationConfig",
    "FeatureMatchingConfig",
    "FinetuneConfig",
    "LeCamConfig",
    "LipschitzConfig",
    "LogsConfig",
    "LrDecayConfig",
    "ModelConfig",
    "MonitorConfig",
    "PlayerConfig",
    "RegularizersConfig",
    "Sigma0Config",
    "SpectrumConfig",
    "SpeedConfig",
    "TopKConfig",
]


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and what is done to them.

    Args:
        path: folder of the index; the shards lie beside it, or at the URL in it.
        resolution: side of the square images, pixels.
        num_classes: number of labels; must be that of the data, or of `classes`.
        classes: names of the classes to take, numbered in this order; empty takes all.
        images: how many images to take, of every class the same share; 0 takes all. Whatever the
            seed, and those of a smaller number are among those of a larger one.
        balanced: every class equally often, however many images it has.
        chunk: images that are read at one go, for shards at a URL and slow file systems: every
            place of a batch walks through a chunk of its own. A process holds 1.5 x chunk x
            batch_size / processes encoded images in memory. 0 takes each image from anywhere.
        connections: chunks that a process reads at the same time.
        command: program that reads shards at a URL, instead of fsspec: its words, in which {url},
            {first} and {last} stand for a shard and for the first and last byte of a range.
        damaged: what happens where an image cannot be read: fail, or skip (rows of POLICIES), which
            puts another image of its class in its place.
        damaged_share: most of the images, as a part of all, that one process may skip.
        flip: mirror every second image at random. Never for digits or text.
        shift: largest random translation of an image, pixels.
        threads: decode threads of each process.
        prefetch: microbatches decoded ahead.
        heldout: folder of shards with images of the same classes that are never trained on. What D
            thinks of them tells when it has learnt its images by heart; empty, nobody asks.
    """

    path: str = ""
    resolution: int = 128
    num_classes: int = 1000
    classes: tuple[str, ...] = ()
    images: int = 0
    balanced: bool = False
    chunk: int = 0
    connections: int = 8
    command: str = ""
    damaged: str = "fail"
    damaged_share: float = 0.001
    flip: bool = False
    shift: int = 0
    threads: int = 2
    prefetch: int = 4
    heldout: str = ""

    def __post_init__(self) -> None:
        require(
            self.resolution in RESOLUTIONS,
            f"data.resolution must be one of {RESOLUTIONS}, got {self.resolution}",
        )
        require_positive("data", self, "num_classes", "threads", "prefetch", "connections")
        require_not_negative("data", self, "images", "chunk")
        require(
            0 <= self.damaged_share < 1,
            f"data.damaged_share must lie in [0, 1), got {self.damaged_share}",
        )
        require(
            0 <= self.shift < self.resolution,
            f"data.shift must be from 0 to {self.resolution - 1} pixels, got {self.shift}",
        )

    def held_out(self) -> "DataConfig":
        """The same for the images that are held out: all of them."""
        return replace(self, path=self.heldout, heldout="", images=0, balanced=False)


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
        require_positive(side, self, "lr", "eps")
        require_not_negative(side, self, "microbatch")
        require(
            all(0 <= beta < 1 for beta in self.betas),
            f"{side}.betas must lie in [0, 1), got {self.betas}",
        )


@dataclass(frozen=True)
class LrDecayConfig:
    """How the learning rates of both sides end: along a straight line to 0.

    As in the recipes of WGAN-GP and SNGAN.

    Args:
        start: step from which on they fall.
        end: step at which they are 0, and no run is longer; 0: they never fall.
    """

    start: int = 0
    end: int = 0

    def __post_init__(self) -> None:
        require_not_negative("lr_decay", self, "start", "end")
        require(
            self.end == 0 or self.start < self.end,
            f"lr_decay.end must come after lr_decay.start {self.start}, got {self.end}",
        )

    def share(self, step: int) -> float:
        """The part of the rates that is left at a step, from 1 to 0."""
        if self.end == 0:
            return 1.0
        return min(1.0, max(0.0, (self.end - step) / (self.end - self.start)))


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
        require(0 <= self.decay < 1, f"ema.decay must lie in [0, 1), got {self.decay}")
        require_not_negative("ema", self, "start")


@dataclass(frozen=True)
class Config:
    """One run. Sections are components; scalars belong to the training loop.

    Args:
        objective: adversarial losses of both sides, a row of OBJECTIVES: hinge, minimax,
            nonsaturating, lsgan, wgan; f-GAN's by their divergence, fgan_kl, fgan_reverse_kl,
            fgan_pearson, fgan_squared_hellinger, fgan_jensen_shannon, fgan_total_variation,
            fgan_gan; relativistic_paired_nonsaturating, relativistic_paired_hinge,
            relativistic_paired_lsgan, in which real images are judged against fake ones one by
            one, and relativistic_average_nonsaturating, relativistic_average_hinge,
            relativistic_average_lsgan, against the mean of them.
        real_label: what D shall say of real images, where 1 means real and 0 fake: 0.9, say, for
            one-sided label smoothing. For minimax, nonsaturating and lsgan.
        fgan_saturating: in an fgan_ objective, G minimises the bound on the divergence that D
            maximises, and not what Nowozin et al. 2016, section 3.2, put in its place.
        penalties: weight of each term on the slope of D, as in --penalties.r1 10: r1 and r2 (at
            real and at fake images), wgan_gp and zero_centred_gp (between them), dragan (near real
            ones): rows of PENALTIES.
        penalty_every: D updates between two penalised ones; the weight is multiplied by it, so
            its mean effect stays (lazy regularisation, Karras et al. 2020).
        steps: length of the run in updates of G.
        d_steps: updates of D per update of G.
        batch_size: images of one update, over all processes and microbatches.
        precision: fp32, bf16 or fp16 (rows of PRECISIONS): by autocast; weights, sums and losses
            stay fp32. fp16 scales each player's gradients up by a factor of its own. auto is bf16
            on a GPU that computes with it, else fp32.
        seed: start of all randomness.
        timeout: seconds that one thing may keep the job waiting: another process, images, an
            evaluation, a checkpoint. Then the job ends and says which, instead of hanging.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    sigma0: Sigma0Config = field(default_factory=Sigma0Config)
    objective: str = "hinge"
    real_label: float = 1.0
    fgan_saturating: bool = False
    penalties: dict[str, float] = field(default_factory=dict)
    penalty_every: int = 1
    regularizers: RegularizersConfig = field(default_factory=RegularizersConfig)
    feature_matching: FeatureMatchingConfig = field(default_factory=FeatureMatchingConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    lecam: LeCamConfig = field(default_factory=LeCamConfig)
    top_k: TopKConfig = field(default_factory=TopKConfig)
    generator: PlayerConfig = field(default_factory=lambda: PlayerConfig(lr=5e-5))
    discriminator: PlayerConfig = field(default_factory=lambda: PlayerConfig(lr=2e-4))
    lr_decay: LrDecayConfig = field(default_factory=LrDecayConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logs: LogsConfig = field(default_factory=LogsConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    steps: int = 150_000
    d_steps: int = 2
    batch_size: int = 2048
    precision: str = "auto"
    seed: int = 0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        for name in ("steps", "d_steps", "batch_size", "penalty_every", "timeout"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be positive, got {value}")
        require(self.seed >= 0, f"seed must be 0 or more, got {self.seed}")
        require(
            self.lr_decay.end == 0 or self.steps <= self.lr_decay.end,
            f"steps {self.steps}: learning rates are 0 from lr_decay.end {self.lr_decay.end} on",
        )
        require(
            self.precision in PRECISIONS,
            f"precision must be one of {PRECISIONS}, got {self.precision!r}",
        )
        require(
            0 < self.real_label <= 1,
            f"real_label must lie in (0, 1], got {self.real_label}",
        )
        self.generator.check("generator")
        self.discriminator.check("discriminator")
        for name, weight in self.penalties.items():
            require(weight >= 0, f"penalties.{name} must be 0 or more, got {weight}")

    def norm_batch(self, side: str, num_processes: int) -> int:
        """Images that share the statistics of a batch norm in a pass of `side`."""
        return self.model.norm_batch or self.microbatch(side, num_processes) * num_processes

    def microbatch(self, side: str, num_processes: int) -> int:
        """Images of one forward pass of `side` (generator or discriminator) on each process.

        Raises:
            ValueError: batch_size is not a multiple of num_processes x microbatch.
        """
        share, rest = divmod(self.batch_size, num_processes)
        require(
            rest == 0,
            f"batch_size {self.batch_size} is not divisible by {num_processes} processes",
        )
        player: PlayerConfig = getattr(self, side)
        microbatch = player.microbatch or share
        require(
            share % microbatch == 0,
            f"batch_size {self.batch_size} is not divisible by {num_processes} processes x "
            f"{side}.microbatch {microbatch}",
        )
        return microbatch

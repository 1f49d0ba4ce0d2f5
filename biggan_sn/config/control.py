"""Sections that hold the networks in bounds: spectra, constraints, regularizers."""

from dataclasses import dataclass, field

from biggan_sn.config.checks import require, require_positive


@dataclass(frozen=True)
class SpectrumConfig:
    """The top singular triplets of every weight of both networks.

    They are renewed after each update where a constraint or regularizer reads them, else when the
    monitor does.

    Args:
        values: how many of each weight, from the largest.
        depth: of block Lanczos; a weight is read 2 * depth times. RESULTS.md says what each is
            good for. Where sigma_0 is clamped or regularised it is 3 at least.
    """

    values: int = 3
    depth: int = 1

    def __post_init__(self) -> None:
        require(2 <= self.values <= 8, f"spectrum.values must be 2 to 8, got {self.values}")
        require(1 <= self.depth <= 8, f"spectrum.depth must be 1 to 8, got {self.depth}")


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
        conv_gain: norm that conv_spectral_norm gives a convolution of more than one pixel, as a
            map between images; all else gets norm 1. Under spectral_norm that map has about 2.
        clip: weight_clipping keeps every parameter between -clip and clip.
    """

    generator: tuple[str, ...] = ("spectral_norm",)
    discriminator: tuple[str, ...] = ("spectral_norm",)
    power_iterations: int = 1
    eps: float = 1e-6
    conv_gain: float = 2.0
    clip: float = 0.01

    def __post_init__(self) -> None:
        require_positive("lipschitz", self, "power_iterations", "eps", "conv_gain", "clip")


@dataclass(frozen=True)
class Sigma0Config:
    """Where the largest singular value of a raw weight is held.

    By the clamps among the rows of LIPSCHITZ or by the regularizers sigma0 and sigma0_ratio (Brock
    et al. 2019, section 4.1).

    Args:
        sigma_reg: the value itself, for sigma0_clamp and sigma0. A clamp takes spectrum.values
            singular values down after each step; where more exceed, their turn comes later.
        ratio: to sigma_1, for sigma0_ratio_clamp and sigma0_ratio.
        only_first: clamp sigma_0 alone, as the paper writes it, though others may exceed too.
        two_sided: pull a smaller sigma_0 up too, as the paper writes it; it inflates spectra.
    """

    sigma_reg: float = 3.0
    ratio: float = 1.5
    only_first: bool = False
    two_sided: bool = False

    def __post_init__(self) -> None:
        require_positive("sigma0", self, "sigma_reg")
        require(
            self.ratio >= 1,
            f"sigma0.ratio must be 1 or more, got {self.ratio}: a smaller one makes sigma_1 the "
            "largest and shrinks the whole spectrum step by step",
        )


@dataclass(frozen=True)
class RegularizersConfig:
    """Terms on the weights, by name with their weight: rows of REGULARIZERS.

    As in --regularizers.generator.orthogonal 1e-4. There are orthogonal, orthonormal, sigma0,
    sigma0_ratio and historical_averaging (Salimans et al. 2016).

    Args:
        generator: terms on G.
        discriminator: terms on D.
    """

    generator: dict[str, float] = field(default_factory=dict)
    discriminator: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for side in ("generator", "discriminator"):
            for name, weight in getattr(self, side).items():
                require(weight >= 0, f"regularizers.{side}.{name} must be 0 or more, got {weight}")

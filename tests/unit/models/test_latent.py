"""Latents: distribution, independence of how they are drawn, and the four truncations."""

import pytest
import torch

from biggan_sn.models.latent import TRUNCATIONS, Latents

LATENTS = Latents(seed=3, z_dim=20, num_classes=7, purpose="test")


def test_z_is_standard_normal():
    z = LATENTS.z(range(5000)).double()
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs(z.pow(4).mean() - 3) < 0.1
    correlations = torch.corrcoef(z.mT) - torch.eye(20)
    assert correlations.abs().max() < 0.06


def test_classes_are_uniform():
    counts = torch.bincount(LATENTS.y(range(7000)), minlength=7)
    assert len(counts) == 7
    assert (counts - 1000).abs().max() < 120


def test_a_position_draws_alike_in_any_company():
    whole = LATENTS.z(range(100, 120))
    parts = [LATENTS.z(range(start, start + 5)) for start in range(100, 120, 5)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, LATENTS.z(range(101, 121)))
    assert not torch.equal(whole, Latents(4, 20, 7, "test").z(range(100, 120)))
    assert not torch.equal(whole, Latents(3, 20, 7, "other").z(range(100, 120)))


def moments_of_truncated_normal(bound):
    """Variance of N(0, 1) given |z| <= bound."""
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0)
    bound = torch.tensor(bound).double()
    mass = normal.cdf(bound) - normal.cdf(-bound)
    return (1 - 2 * bound * normal.log_prob(bound).exp() / mass).item()


@pytest.mark.parametrize("bound", [0.1, 0.5, 1.0, 2.0])
def test_truncations_have_their_moments_and_bounds(bound):
    z = {mode: LATENTS.z(range(5000), bound, mode).double() for mode in TRUNCATIONS}
    assert z["resample"].abs().max() <= bound
    assert z["resample"].var().item() == pytest.approx(moments_of_truncated_normal(bound), rel=0.02)
    assert z["scaled_resample"].abs().max() <= 2 * bound
    expected = bound**2 * moments_of_truncated_normal(2.0)
    assert z["scaled_resample"].var().item() == pytest.approx(expected, rel=0.02)
    assert z["scale"].var().item() == pytest.approx(bound**2, rel=0.02)
    assert z["scale"].abs().max() > 2 * bound
    torch.testing.assert_close(z["clamp"], LATENTS.z(range(5000)).double().clamp(-bound, bound))


def test_wide_truncation_is_none():
    plain = LATENTS.z(range(50))
    for mode in ("resample", "clamp"):
        torch.testing.assert_close(LATENTS.z(range(50), 9.0, mode), plain)


def test_unknown_mode_names_its_neighbour():
    with pytest.raises(ValueError, match="did you mean 'resample'"):
        LATENTS.z(range(2), 0.5, "resampel")

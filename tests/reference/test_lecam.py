"""LeCam against numpy: its moving means, its value and its gradient."""

import numpy as np
import pytest
import torch

from biggan_sn.config import LeCamConfig
from biggan_sn.losses.lecam import LeCam

CPU = torch.device("cpu")


def lecam(weight=0.3, decay=0.9, start=0, shared=lambda x: x):
    torch.set_default_dtype(torch.float64)
    made = LeCam(LeCamConfig(weight, decay, start), shared, CPU)
    torch.set_default_dtype(torch.float32)
    return made


def batches(number):
    generator = torch.Generator().manual_seed(number)
    real, fake = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    return real + 1, fake - number


def test_against_the_formula():
    """Means of the updates before, the first of which they begin with."""
    term, means = lecam(), None
    for number in range(4):
        real, fake = (x.requires_grad_() for x in batches(number))
        found = term(real, fake, number)
        r, f = real.detach().numpy(), fake.detach().numpy()
        if means is None:
            assert found == 0
        else:
            a_r, a_f = means
            expected = 0.3 * (np.mean((r - a_f) ** 2) + np.mean((f - a_r) ** 2))
            assert found.item() == pytest.approx(expected, rel=1e-12)
            found.backward()
            np.testing.assert_allclose(real.grad, 0.3 * 2 * (r - a_f) / 6)
            np.testing.assert_allclose(fake.grad, 0.3 * 2 * (f - a_r) / 6)
        now = np.array([r.mean(), f.mean()])
        means = now if means is None else 0.9 * means + 0.1 * now
        term.note(real, fake)
        term.follow()


def test_passes_and_processes_count_as_one_batch():
    whole, pieces = lecam(), lecam()
    there = torch.tensor([5.0, 7.0], dtype=torch.float64)
    shared = lecam(shared=lambda here: (here + there) / 2)
    real, fake = batches(1)
    for term in (whole, shared):
        term.note(real, fake)
        term.follow()
    for part in (slice(3), slice(3, 6)):
        pieces.note(real[part], fake[part])
    pieces.follow()
    torch.testing.assert_close(pieces.state()["means"], whole.state()["means"])
    expected = (torch.stack([real.mean(), fake.mean()]) + there) / 2
    torch.testing.assert_close(shared.state()["means"], expected)


def test_it_has_a_start_but_follows_from_the_beginning():
    term = lecam(start=3)
    for step in range(5):
        real, fake = batches(step)
        assert (term(real, fake, step) == 0) == (step < 3)
        term.note(real, fake)
        term.follow()
    assert int(term.state()["count"]) == 5


def test_off_it_keeps_nothing():
    term = lecam(weight=0.0)
    for step in range(3):
        term.note(*batches(step))
        term.follow()
        assert term(*batches(step), step) == 0
    assert term.state() == {}


def test_the_state_is_all_of_it():
    one, other = lecam(), lecam()
    for step in range(3):
        one.note(*batches(step))
        one.follow()
    other.load_state({name: value.clone() for name, value in one.state().items()})
    for step in range(3, 6):
        assert one(*batches(step), step) == other(*batches(step), step) > 0
        for term in (one, other):
            term.note(*batches(step))
            term.follow()
    with pytest.raises(ValueError, match="not the means"):
        other.load_state({"means": torch.zeros(3), "count": torch.tensor(1)})
    begun = lecam()
    begun.load_state({})
    assert begun(*batches(0), 0) == 0

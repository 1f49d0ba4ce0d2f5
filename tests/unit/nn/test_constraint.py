"""Nothing but an optimizer step changes what holds a network, and that goes on after a restart."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from biggan_sn.nn.lipschitz import (
    unconstrain,
)
from biggan_sn.nn.matrices import as_matrix, matrix_layers, raw_weight
from biggan_sn.nn.spectral import TopSingularTriplets
from biggan_sn.nn.spectrum import Spectrum
from tests.unit.nn.networks import (
    QUIET_ROWS,
    WEIGHT_ROWS,
    assert_same,
    everything,
    held,
    images,
    mixed_network,
    norm_on,
    shake,
)


@pytest.mark.parametrize("row", QUIET_ROWS)
def test_looking_changes_nothing(row):
    network = mixed_network()
    constraint = held(network, row)
    shake(network, 0)
    constraint.after_step()
    before, spectrum = everything(network), constraint.spectrum.state()
    network(images()).sum().backward()
    with torch.no_grad():
        network(images())
    checkpoint(network, images(), use_reentrant=False).sum().backward()
    network.eval()(images())
    network.train()
    twin = copy.deepcopy(network)
    twin(images()).sum().backward()
    for layer in matrix_layers(network).values():
        _ = layer.weight
    assert_same(before, everything(network))
    assert_same(before, everything(twin))
    assert_same(spectrum, constraint.spectrum.state())


@pytest.mark.parametrize("row", QUIET_ROWS)
def test_a_copy_is_on_its_own(row):
    network = mixed_network()
    constraint = held(network, row)
    twin = copy.deepcopy(network)
    before = everything(twin)
    shake(network, 0)
    constraint.after_step()
    assert_same(before, everything(twin))


@pytest.mark.parametrize("row", QUIET_ROWS)
def test_training_is_the_same_with_extra_forwards_looks_and_checkpointing(row):
    def train(extra):
        network = mixed_network()
        constraint = held(network, row)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2, betas=(0.0, 0.999))
        for _ in range(5):
            optimizer.zero_grad()
            if extra:
                network.eval()(images())
                network.train()(images())
                copy.deepcopy(network)(images())
                logits = checkpoint(network, images(), use_reentrant=False)
            else:
                logits = network(images())
            logits.square().mean().backward()
            optimizer.step()
            constraint.after_step()
        return everything(network) | constraint.spectrum.state()

    assert_same(train(extra=False), train(extra=True))


def test_the_rows_that_look_inside_forward_are_known():
    """torch's own: here to be compared with."""
    network = mixed_network()
    held(network, "torch_spectral_norm")
    shake(network, 0)
    before = everything(network)
    network(images())
    after = everything(network)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("row", WEIGHT_ROWS)
def test_a_plain_copy_computes_the_same(row):
    network = mixed_network().eval()  # torch's own row iterates in every forward pass else
    held(network, row)
    plain = copy.deepcopy(network)
    unconstrain(plain)
    assert plain.state_dict().keys() == mixed_network().state_dict().keys()
    assert torch.equal(plain(images()), network(images()))


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_norms_of_a_weight_without_triplets_keep_their_vectors(value):
    network = mixed_network()
    constraint = held(network, "spectral_norm")
    lost, other = norm_on(network, "0"), norm_on(network, "4")
    before, others = (lost.u.clone(), lost.v.clone()), (other.u.clone(), other.v.clone())
    shake(network, 0)
    raw_weight(network[0]).detach().fill_(value)
    constraint.after_step()
    assert torch.equal(lost.u, before[0]) and torch.equal(lost.v, before[1])
    torch.testing.assert_close(lost.sigma.item(), value, equal_nan=True)
    assert not torch.equal(other.u, others[0]) and not torch.equal(other.v, others[1])


def test_a_restored_spectrum_goes_on_to_the_last_bit():
    def search(spectrum, network, updates):
        for update in updates:
            shake(network, update)
            spectrum.refresh()
        return spectrum.state()

    network = mixed_network()
    spectrum = Spectrum(network, 3)
    middle = search(spectrum, network, range(3))
    weights = everything(network)
    expected = search(spectrum, network, range(3, 6))

    other = mixed_network(seed=9)
    restored = Spectrum(other, 3)
    other.load_state_dict(weights)
    restored.load_state(middle)
    assert_same(restored.state(), middle)
    assert_same(search(restored, other, range(3, 6)), expected)


def test_a_state_is_a_copy():
    network = mixed_network()
    spectrum = Spectrum(network, 3)
    state = spectrum.state()
    before = {name: value.clone() for name, value in state.items()}
    shake(network, 0)
    spectrum.refresh()
    assert_same(before, state)
    later = spectrum.state()
    kept = {name: value.clone() for name, value in later.items()}
    spectrum.load_state(state)
    assert_same(kept, later)
    shake(network, 1)
    spectrum.refresh()
    assert_same(before, state)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("2/u"), "2/u"),
        (lambda state: state.update({"9/u": state["2/u"]}), "9/u"),
        (lambda state: state.update({"4/v": state["2/v"]}), "4/v"),
    ],
)
def test_the_spectra_of_another_network_are_refused_by_name(change, named):
    spectrum = Spectrum(mixed_network(), 3)
    before, state = spectrum.state(), spectrum.state()
    change(state)
    with pytest.raises(ValueError, match=f"not the spectra of this network: '{named}'"):
        spectrum.load_state(state)
    assert_same(before, spectrum.state())


@pytest.mark.parametrize("row", ["weight_norm", "spectral_norm"])
def test_the_spectrum_is_that_of_the_weights_as_the_last_step_left_them(row):
    network = mixed_network()
    constraint = held(network, row)
    shake(network, 0, size=1.0)
    before = constraint.spectrum.triplets.sigmas
    constraint.after_step()
    for found, old, layer in zip(
        constraint.spectrum.known().sigmas, before, matrix_layers(network).values(), strict=True
    ):
        true = torch.linalg.svdvals(as_matrix(raw_weight(layer).detach()))[:3]
        torch.testing.assert_close(found, true, rtol=2e-2, atol=0)
        assert not torch.allclose(old, true, rtol=2e-2)


@pytest.mark.parametrize(
    ("row", "searches"),
    [("spectral_norm", 2), ("weight_norm", 0), ("power_iteration_norm", 0), ("sigma0_clamp", 2)],
)
def test_steps_search_the_spectrum_only_where_somebody_reads_it(row, searches, monkeypatch):
    network = mixed_network()
    constraint = held(network, row)
    done = []
    refresh = TopSingularTriplets.refresh
    monkeypatch.setattr(
        TopSingularTriplets, "refresh", lambda *given: done.append(given) or refresh(*given)
    )
    for update in range(2):
        shake(network, update)
        constraint.after_step()
    assert len(done) == searches
    for _ in range(2):  # whoever looks searches, once
        constraint.spectrum.known()
    assert len(done) == max(searches, 1)

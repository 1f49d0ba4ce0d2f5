"""Processes that share the work on spectra: each does its part, and all hold the same bits."""

import multiprocessing
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.lipschitz import constrain
from biggan_sn.nn.matrices import matrix_layers, raw_weight
from biggan_sn.nn.replicas import Ownership
from biggan_sn.nn.spectral import DEPTH, TopSingularTriplets
from biggan_sn.nn.spectrum import Spectrum

WORLDS = (2, 3)
ROWS = {
    "searched": ("spectral_norm",),
    "iterated": ("power_iteration_norm",),
    "convolved": ("conv_spectral_norm",),
    "clamped": ("spectral_norm", "sigma0_ratio_clamp"),
}
SHAPES = [(8, 20), (20, 8), (1, 6), (5, 5), (12, 30)]
SINGLE, DOUBLE = [(2, 3), (4,), (1, 2, 2), (), (0, 3)], [(3,), (5, 2), (), (2, 1), (1,)]
PRODUCTS = {torch.Tensor.matmul, torch.Tensor.mv, torch.conv2d, torch.conv_transpose2d}


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Products(TorchFunctionMode):
    """Counts products with matrices and convolutions."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in PRODUCTS
        return func(*args, **(kwargs or {}))


def own_bits(rank):
    """What a rank found: numbers that no other has, with some that are not finite."""
    single = [gaussian(*shape, seed=10 * rank + i) for i, shape in enumerate(SINGLE)]
    double = [
        gaussian(*shape, seed=10 * rank + i + 5).double() / 3 for i, shape in enumerate(DOUBLE)
    ]
    single[0].view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    double[1].view(-1)[:3] = torch.tensor([torch.inf, 1e-300, torch.nan])
    single[1][0], single[2].view(-1)[0] = 1e-45, 3e38  # the ends of fp32
    return single, double


def exchanged(rank, ranks):
    single, double = own_bits(rank)
    Ownership([1, 2, 3, 4, 5], rank, ranks).exchange(single, double)
    return [*single, *double]


def drifted(tensors, drift, rank):
    """Weights of one model on machines that round differently."""
    return [t + drift * gaussian(*t.shape, seed=99 + rank) for t in tensors]


def searched(rank, ranks, drift=0.0):
    """All triplets of three searches."""
    tracker, found = TopSingularTriplets(SHAPES, None, rank, ranks), []
    for seed in range(3):
        matrices = [gaussian(*shape, seed=10 * seed + i) for i, shape in enumerate(SHAPES)]
        matrices = drifted(matrices, drift, rank)
        triplets = tracker.refresh(matrices)
        found += [triplets.sigmas.clone()]
        found += [vectors.clone() for vectors in (*triplets.lefts, *triplets.rights)]
    return found + [basis.clone() for basis in tracker.bases]


def searched_own_only(rank, ranks):
    """As `searched`, but what a rank does not own is nan there."""
    tracker = TopSingularTriplets(SHAPES, None, rank, ranks)
    matrices = [
        gaussian(*shape, seed=i) if owner == rank else torch.full(shape, torch.nan)
        for i, (shape, owner) in enumerate(zip(SHAPES, tracker.ownership.owners, strict=True))
    ]
    return [tracker.refresh(matrices).sigmas.clone()]


def network_of():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 5, 1), nn.Linear(16, 3)
    )


def trained(rank, ranks, rows, drift=0.0):
    """What the constraint holds after each of three steps."""
    network = network_of()
    config, sides = LipschitzConfig(), {"0": 6, "1": 6, "2": 4}
    constrain(network, rows, config, True, sides)
    spectrum = Spectrum(network, 3, DEPTH, rank, ranks)
    sigma0 = Sigma0Config(ratio=1.0)
    constraint = Constraint(network, rows, config, sigma0, spectrum, True)
    found = []
    for update in range(3):
        for number, layer in enumerate(matrix_layers(network).values()):
            weight = raw_weight(layer)
            with torch.no_grad():
                weight += 0.1 * gaussian(*weight.shape, seed=10 * update + number)
                weight += drift * gaussian(*weight.shape, seed=99 + rank)
        constraint.after_step()
        found += [buffer.clone() for buffer in network.buffers()]
        found += spectrum.state().values()
    if not drift:
        found += [raw_weight(layer).detach().clone() for layer in matrix_layers(network).values()]
    return found


def experiments(rank, ranks):
    """Everything by name: tensors, and how many products it took."""
    jobs = {"exchanged": lambda: exchanged(rank, ranks)}
    jobs["own only"] = lambda: searched_own_only(rank, ranks)
    for kind, drift in (("equal", 0.0), ("drifted", 1e-6)):
        jobs[f"search, {kind}"] = lambda drift=drift: searched(rank, ranks, drift)
        for name, rows in ROWS.items():
            jobs[f"{name}, {kind}"] = lambda rows=rows, drift=drift: trained(
                rank, ranks, rows, drift
            )
    results = {}
    for name, job in jobs.items():
        with Products() as products:
            results[name] = job(), products.count
    return results


def _process(rank, folder):
    torch.set_num_threads(1)
    for ranks in WORLDS:
        if rank < ranks:
            meet = f"file://{folder}/meet{ranks}"
            dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=ranks)
            torch.save(experiments(rank, ranks), f"{folder}/{rank}of{ranks}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Number of processes -> what each of them has."""
    folder = tmp_path_factory.mktemp("ranks")
    # Processes of a server that has imported torch start in no time.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", __name__])
    mp.start_processes(_process, (str(folder),), max(WORLDS), start_method="forkserver")
    return {n: [torch.load(folder / f"{rank}of{n}.pt") for rank in range(n)] for n in WORLDS}


@pytest.fixture(scope="module")
def alone():
    return experiments(0, 1)


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("ranks", WORLDS)
def test_exchange_gives_every_rank_the_bits_of_the_owner(jobs, ranks):
    owners = Ownership([1, 2, 3, 4, 5], 0, ranks).owners
    parts = [[*own_bits(rank)[0], *own_bits(rank)[1]] for rank in range(ranks)]
    expected = [parts[owner][number] for number, owner in enumerate((*owners, *owners))]
    assert set(owners) == set(range(ranks))
    for job in jobs[ranks]:
        assert_same(job["exchanged"][0], expected)


def test_one_process_exchanges_nothing():
    found = exchanged(0, 1)
    single, double = own_bits(0)
    assert_same(found, [*single, *double])


SPECTRAL = ["search", *ROWS]


@pytest.mark.parametrize("ranks", WORLDS)
@pytest.mark.parametrize("name", SPECTRAL)
def test_ranks_whose_weights_drifted_apart_hold_the_same_bits(jobs, name, ranks):
    first, *others = (job[f"{name}, drifted"][0] for job in jobs[ranks])
    for other in others:
        assert_same(first, other)


def test_drift_would_be_seen():
    """Each for itself, the ranks would hold different bits: so the test above can fail."""
    for one, other in (
        (searched(0, 1, 1e-6), searched(1, 1, 1e-6)),
        *((trained(0, 1, rows, 1e-6), trained(1, 1, rows, 1e-6)) for rows in ROWS.values()),
    ):
        assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("ranks", WORLDS)
@pytest.mark.parametrize("name", SPECTRAL)
def test_ranks_of_equal_weights_find_what_one_process_finds(jobs, alone, name, ranks):
    for job in jobs[ranks]:
        assert_same(job[f"{name}, equal"][0], alone[f"{name}, equal"][0])


@pytest.mark.parametrize("ranks", WORLDS)
def test_results_come_from_the_owner_alone(jobs, alone, ranks):
    for job in jobs[ranks]:
        assert_same(job["own only"][0], alone["own only"][0])


@pytest.mark.parametrize("ranks", WORLDS)
@pytest.mark.parametrize("name", SPECTRAL)
def test_no_product_is_computed_twice(jobs, alone, name, ranks):
    counts = [job[f"{name}, equal"][1] for job in jobs[ranks]]
    total = alone[f"{name}, equal"][1]
    # Everyone clamps its own weights, with one small product each after three steps, and works out
    # the slope of its two convolutions after these and at the start.
    by_all = {"clamped": 3 * len(network_of()), "convolved": (3 + 1) * 2}.get(name, 0)
    assert sum(counts) == total + (ranks - 1) * by_all
    assert all(by_all < count < total for count in counts)


def best(costs, ranks):
    """The smallest load that the busiest process can have."""
    splits = product(range(ranks), repeat=len(costs))
    return min(
        max(sum(c for c, o in zip(costs, owners, strict=True) if o == r) for r in range(ranks))
        for owners in splits
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 3))
@example([1, 1, 2], 2)
@example([1, 2, 3, 4, 5], 2)
def test_every_task_has_one_owner_and_loads_are_balanced(costs, ranks):
    shares = [Ownership(costs, rank, ranks).mine for rank in range(ranks)]
    assert sorted(task for share in shares for task in share) == list(range(len(costs)))
    loads = [sum(costs[task] for task in share) for share in shares]
    assert max(loads) <= sum(costs) / ranks + max(costs)
    assert max(loads) <= (4 / 3 - 1 / (3 * ranks)) * best(costs, ranks), "Graham 1969, theorem 2"

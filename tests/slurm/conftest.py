"""A cluster for the tests of a module, once under either way to keep track of processes."""

import pytest

from tests.slurm.cluster import TRACKERS, Cluster, reason_to_skip


@pytest.fixture(scope="module", params=TRACKERS)
def tracker(request):
    if reason := reason_to_skip(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture(scope="module")
def cluster(tracker, tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm"), tracker=tracker) as cluster:
        yield cluster

"""Nodes that are not alike are named."""

from dataclasses import replace

import pytest

from biggan_sn.preflight import nodes
from biggan_sn.preflight.findings import FAILS, NOTE, OK
from biggan_sn.preflight.nodes import Facts, check_clocks, check_devices, check_versions
from biggan_sn.training.world import World

ONE = Facts("n1", {"torch": "2.11", "python": "3.12"}, "H200", 140 * 10**9, 32)
OTHER = replace(ONE, host="n2")


def test_nodes_that_are_alike():
    assert check_versions([ONE, OTHER]).verdict == OK
    devices = check_devices([ONE, ONE, OTHER])
    assert devices.verdict == OK
    assert devices.text == "3 processes on 2 nodes: H200, 140 GB each, 32 CPU cores"


def test_another_version_is_named_with_its_node():
    found = check_versions([ONE, replace(OTHER, versions={"torch": "2.10", "python": "3.12"})])
    assert found.verdict == FAILS
    assert "torch 2.11 (rank 0 on n1), 2.10 (rank 1 on n2)" in found.text
    assert "python" not in found.text


def test_a_package_that_one_lacks():
    found = check_versions([ONE, replace(OTHER, versions={"torch": "2.11"})])
    assert found.verdict == FAILS
    assert "python 3.12 (rank 0 on n1), none (rank 1 on n2)" in found.text


@pytest.mark.parametrize("change", [{"device": "A100"}, {"memory": 80 * 10**9}])
def test_another_device_is_worth_a_note(change):
    found = check_devices([ONE, replace(OTHER, **change)])
    assert found.verdict == NOTE
    assert "rank 1 on n2" in found.text


class Apart(World):
    """Two processes, the second with a clock that is so many seconds behind."""

    behind = 0.0

    def gather(self, *numbers):
        (now,) = numbers
        return [[now], [now - self.behind]]


@pytest.mark.parametrize(("behind", "verdict"), [(0.5, OK), (5.0, NOTE)])
def test_clocks(monkeypatch, behind, verdict):
    monkeypatch.setattr(Apart, "behind", behind)
    found = check_clocks(Apart(), [ONE, OTHER])
    assert found.verdict == verdict
    if verdict == NOTE:
        assert "5.0 s apart, rank 1 on n2 is the most behind" in found.text


def test_facts_of_this_machine():
    (facts,) = nodes.facts_of_all(World())
    assert facts.versions["torch"] != "none"
    assert facts.memory > 10**8
    assert facts.cores >= 1

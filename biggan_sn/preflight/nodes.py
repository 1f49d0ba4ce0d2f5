"""Whether all processes are of one kind: versions, devices, clocks."""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass

import torch

from biggan_sn.preflight.findings import FAILS, NOTE, OK, Finding, by_value, counted, size
from biggan_sn.training.environment import device_name, versions
from biggan_sn.training.world import World

APART = 1.0  # seconds that clocks may differ: logs of two nodes can still be read together


@dataclass(frozen=True)
class Facts:
    """What a process knows of itself.

    Args:
        host: its node.
        versions: of the packages, by name.
        device: name of what its tensors live on.
        memory: bytes of that.
        cores: CPU cores that it may use.
    """

    host: str
    versions: dict[str, str]
    device: str
    memory: int
    cores: int


def facts_of_all(world: World) -> list[Facts]:
    """The facts of every process, by rank. Every process must call it."""
    mine = json.dumps(asdict(_facts(world.device)))
    return [Facts(**json.loads(text)) for text in world.tell(mine)]


def _facts(device: torch.device) -> Facts:
    on_gpu = device.type == "cuda"
    memory = (
        torch.cuda.get_device_properties(device).total_memory if on_gpu else memory_of_machine()
    )
    cores = len(os.sched_getaffinity(0))
    return Facts(socket.gethostname(), versions(device), device_name(device), memory, cores)


def memory_of_machine() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_versions(facts: list[Facts]) -> Finding:
    """Another version on one node is another model, or none."""
    hosts = [fact.host for fact in facts]
    different = []
    for name in facts[0].versions:
        values = [fact.versions.get(name, "none") for fact in facts]
        if len(set(values)) > 1:
            different.append(f"{name} {by_value(values, hosts)}")
    if different:
        text = f"{'; '.join(different)}: make the environments of all nodes alike"
        return Finding("versions", FAILS, text)
    told = ", ".join(f"{name} {value}" for name, value in facts[0].versions.items())
    return Finding("versions", OK, told)


def check_devices(facts: list[Facts]) -> Finding:
    """One slower device slows all; one smaller decides for all how much fits."""
    hosts = [fact.host for fact in facts]
    values = [f"{fact.device}, {size(fact.memory)}" for fact in facts]
    nodes = len(set(hosts))
    told = f"{counted(len(facts), 'process', 'es')} on {counted(nodes, 'node')}"
    if len(set(values)) > 1:
        return Finding("devices", NOTE, f"{told}, not alike: {by_value(values, hosts)}")
    return Finding("devices", OK, f"{told}: {values[0]} each, {facts[0].cores} CPU cores")


def check_clocks(world: World, facts: list[Facts]) -> Finding:
    """Every process must call it."""
    world.wait()  # all leave it within a fraction of a millisecond
    now = time.time()
    times = [row[0] for row in world.gather(now)]
    apart = max(times) - min(times)
    if apart <= APART:
        return Finding("clocks", OK, f"within {apart * 1e3:.1f} ms of each other")
    late = times.index(min(times))
    text = (
        f"{apart:.1f} s apart, rank {late} on {facts[late].host} is the most behind: "
        "synchronise them (NTP)"
    )
    return Finding("clocks", NOTE, text)

"""Whether a run fits in memory: counted before anything is played, and then as it was."""

from biggan_sn.bench.counts import count_memory
from biggan_sn.config import Config
from biggan_sn.preflight.findings import FAILS, NOTE, OK, Finding, size
from biggan_sn.preflight.nodes import Facts
from biggan_sn.preflight.trial import Trial, remedy
from biggan_sn.training.engines import PARTITIONED
from biggan_sn.training.world import World

CROWDED = 0.95  # of a device's memory


def check_tensors(world: World, config: Config, facts: list[Facts]) -> Finding:
    """What the tensors of a step take, which is the least that its device must have (under ZeRO
    less, which is not counted). Every process must call it."""
    counted = 0
    if world.leads:
        with world.pulse.busy("counting the memory of a step"):
            counted = count_memory(config, world.ranks)
    needed = int(world.most(counted)[0])
    text = f"a step of a process needs {size(needed)} for its tensors alone, {_part(needed, facts)}"
    if needed * _together(facts) > _room(facts):
        advice = remedy(config, world.ranks)
        if world.engine in PARTITIONED:
            return Finding("tensors", NOTE, f"{text}, where ZeRO needs less; else {advice}")
        return Finding("tensors", FAILS, f"{text}: {advice}")
    return Finding("tensors", OK, text)


def check_memory(trial: Trial, facts: list[Facts]) -> Finding:
    """How full the device is that has least room."""
    text = f"peak {size(trial.memory)} of a process, {_part(trial.memory, facts)}"
    if trial.memory * _together(facts) > CROWDED * _room(facts):
        return Finding(
            "memory", NOTE, f"{text}: little is left for evaluations; lower microbatches"
        )
    return Finding("memory", OK, text)


def _part(memory: int, facts: list[Facts]) -> str:
    whole = "its node, with the others there" if _on_cpu(facts) else "its device"
    return f"{memory * _together(facts) / _room(facts):.0%} of {whole}"


def _room(facts: list[Facts]) -> int:
    """Bytes of the device that has least."""
    return min(fact.memory for fact in facts)


def _together(facts: list[Facts]) -> int:
    """How many processes share that."""
    return max(sum(f.host == fact.host for f in facts) for fact in facts) if _on_cpu(facts) else 1


def _on_cpu(facts: list[Facts]) -> bool:
    return facts[0].device.startswith("CPU")

"""Whether every node can read the shards, and the run be kept on disk."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np

from biggan_sn.checkpoint import Checkpoints
from biggan_sn.config import CheckpointConfig, Config, DataConfig
from biggan_sn.data.loader import open_dataset
from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import ShardError
from biggan_sn.data.stores import open_store
from biggan_sn.preflight.findings import FAILS, NOTE, OK, Finding, by_value, size
from biggan_sn.preflight.trial import Trial
from biggan_sn.run_folder import CHECKPOINTS
from biggan_sn.training.world import World

SAMPLED = 64  # images that every node reads
TRACE = ".preflight"


def check_shards(world: World, config: DataConfig, hosts: list[str]) -> Finding:
    """Index, shards and images spread over all of them, read on each node by one process; all must
    see the same. Every process must call it."""
    found = world.tell(_read(config) if leads_node() else "")
    asked = [rank for rank, text in enumerate(found) if text]
    texts, there = [found[rank] for rank in asked], [hosts[rank] for rank in asked]
    if complaints := {
        t.removeprefix("!"): h for t, h in zip(texts, there, strict=True) if t[0] == "!"
    }:
        told = "; ".join(f"{text} (on {host})" for text, host in complaints.items())
        return Finding("shards", FAILS, told)
    if len(set(texts)) > 1:
        return Finding("shards", FAILS, f"not the same everywhere: {by_value(texts, there)}")
    return Finding(
        "shards", OK, f"{texts[0]}, on each of {len(asked)} nodes" if asked[1:] else texts[0]
    )


def leads_node() -> bool:
    """Whether this is the process that looks at what all of a node share."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _read(config: DataConfig) -> str:
    """What there is, or, after an exclamation mark, what is wrong with it."""
    try:
        told = _digest(config)
        heldout = f"; held out: {_digest(config.held_out())}" if config.heldout else ""
    except ShardError as error:
        return f"!{error}"
    return told + heldout


def _digest(config: DataConfig) -> str:
    index = open_dataset(config)
    images = np.unique(np.linspace(0, len(index) - 1, SAMPLED).astype(int))
    pixels = np.empty((config.resolution, config.resolution, 3), np.uint8)
    digest = hashlib.sha256(index.fingerprint.encode())
    reader = Reader(index, config.resolution, open_store(index, config.command))
    try:
        for image in images:
            reader.read_into(int(image), pixels)
            digest.update(pixels.tobytes())
    finally:
        reader.close()
    return (
        f"{len(index)} images of {len(index.classes)} classes in {len(index.names)} shards, "
        f"{len(images)} of them read (SHA-256 {digest.hexdigest()[:8]})"
    )


def check_folder(world: World, folder: Path, hosts: list[str]) -> Finding:
    """Whether what one node writes there is seen by all. Every process must call it."""
    trace, wrong = folder / TRACE, ""
    if world.leads:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trace.write_text(hosts[0])
        except OSError as error:
            wrong = f"cannot be written on {hosts[0]}: {error}"
    wrong = world.tell(wrong)[0]
    seen = world.tell("" if wrong or _sees(trace, hosts[0]) else "no")
    world.wait()
    if world.leads and not wrong:
        trace.unlink()
    if blind := [hosts[rank] for rank, text in enumerate(seen) if text]:
        nodes = ", ".join(dict.fromkeys(blind))
        wrong = f"what {hosts[0]} writes there, {nodes} does not see: all nodes must share it"
    if wrong:
        return Finding("folder", FAILS, f"{folder}: {wrong}")
    return Finding("folder", OK, f"{folder}: written by rank 0, seen by all")


def _sees(trace: Path, text: str, patience: float = 10.0) -> bool:
    """Network file systems may take some seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if trace.read_text() == text:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def most_kept(config: CheckpointConfig, steps: int) -> int:
    """The most checkpoints that lie on disk at once: those kept, and the one being written."""
    there = 1 + steps // config.every + (steps % config.every > 0)  # that of step 0, and the last
    return min(there, config.keep + config.keep_best + 2 * config.keep_spaced + 1)


def check_room(world: World, folder: Path, trial: Trial, config: Config) -> Finding:
    """Whether the checkpoints of the run fit on the disk. Every process must call it."""
    kept = most_kept(config.checkpoint, config.steps)
    need, free, there = trial.checkpoint * kept, 0, 0
    if world.leads:
        free = shutil.disk_usage(folder).free
        checkpoints = Checkpoints(folder / CHECKPOINTS).all()
        there = sum(file.stat().st_size for path in checkpoints for file in path.iterdir())
    free, there = map(int, world.most(free, there))
    text = (
        f"a checkpoint is {size(trial.checkpoint)}, written in {trial.writing:.1f} s; at most "
        f"{kept} at once, {size(need)}; {size(free)} free in {folder}"
    )
    if need - there > free:
        remedy = "keep fewer (checkpoint.keep, keep_spaced), or another --run_dir"
        return Finding("disk", FAILS, f"{text}: {remedy}")
    return Finding("disk", NOTE if need - there > free / 2 else OK, text)

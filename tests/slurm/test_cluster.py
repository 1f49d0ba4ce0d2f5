"""The cluster is one: several machines, Slurm's own signals and failures, nothing left behind."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.cluster import REPOSITORY, Cluster, reason_to_skip
from tests.slurm.machine import FREEZER

LISTENER = """\
trap 'echo "$1"' USR1
[ "$1" = below ] || bash "$0" below &
touch "$1"
for ((i = 0; i < 100; i++)); do sleep 0.1; [ ! -e stop ] || exit 0; done
"""

OWNER = """\
import sys, time
from pathlib import Path
from tests.slurm.cluster import Cluster
with Cluster(Path(sys.argv[1]), nodes=1, tracker=sys.argv[2]) as cluster:
    cluster.submit(sys.argv[3])
    print(cluster.name, flush=True)
    time.sleep(60)
"""


def job(folder, line, *headers):
    script = folder / "job.sbatch"
    script.write_text("\n".join(["#!/bin/bash", *(f"#SBATCH {h}" for h in headers), line, ""]))
    return script


def traces(cluster, folder):
    """What there is of a cluster outside its folder."""
    found = [str(path) for path in FREEZER.glob(f"slurm_{cluster}-*")]
    found += [mount for mount in Path("/proc/mounts").read_text().splitlines() if folder in mount]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            found += [f"{process}: {said!r}"] if folder.encode() in said else []
    return found


def come(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_machines_have_names_and_addresses_of_their_own(cluster):
    said = cluster.srun("--nodes=2", "bash", "-c", "echo $(hostname) $(hostname -I)").stdout
    names, addresses = zip(*map(str.split, said.splitlines()), strict=True)
    assert set(names) == set(cluster.nodes[:2])
    assert len(set(addresses)) == 2


def test_production_headers_are_accepted(cluster, tmp_path):
    headers = ("--nodes=2", "--gpus-per-node=8", "--cpus-per-task=32", "--mem=0")
    python = Path(sys.executable)
    line = f'echo "$(command -v {python.name}) $CUDA_VISIBLE_DEVICES"'
    number = cluster.submit(job(tmp_path, line, *headers, "--time=24:00:00"), cwd=tmp_path)
    assert cluster.wait(number) == "COMPLETED"
    said = (tmp_path / f"slurm-{number}.out").read_text().split()
    assert said == [str(python), "0,1,2,3,4,5,6,7"]


def test_whom_a_signal_reaches(cluster, tracker, tmp_path):
    (tmp_path / "listener.sh").write_text(LISTENER)
    number = cluster.submit(job(tmp_path, "srun bash listener.sh top"), cwd=tmp_path)
    come(lambda: (tmp_path / "top").exists() and (tmp_path / "below").exists())
    cluster.signal(number, "USR1", batch=False)
    reached = {"cgroup": {"top"}, "linuxproc": {"top", "below"}}[tracker]
    out = tmp_path / f"slurm-{number}.out"
    come(lambda: reached <= set(out.read_text().split()))
    (tmp_path / "stop").touch()
    assert cluster.wait(number) == "COMPLETED"
    assert reached == {"top", "below"} & set(out.read_text().split())
    come(lambda: not cluster.leftovers())


def test_a_lost_node_requeues_its_job(cluster, tmp_path):
    number = cluster.submit(job(tmp_path, "sleep 60"), cwd=tmp_path)
    cluster.wait(number, "RUNNING")
    lost = cluster.show(number)["BatchHost"]
    cluster.kill(lost)
    cluster.set_down(lost)
    cluster.wait(number, "PENDING")
    assert [run[1:] for run in cluster.ended() if run.job == number] == [("NODE_FAIL", lost)]
    cluster.cancel(number)
    cluster.start(lost)
    cluster.srun(f"--nodelist={lost}", "true")


def test_nothing_is_left(tracker, tmp_path):
    with Cluster(tmp_path / "slurm", nodes=1, tracker=tracker) as cluster:
        cluster.submit(job(tmp_path, "srun sleep 60"))
        assert traces(cluster.name, str(cluster.folder))
    assert not traces(cluster.name, str(cluster.folder))


def test_nothing_is_left_when_the_owner_is_killed(tracker, tmp_path):
    folder = str(tmp_path / "slurm")
    script = job(tmp_path, "srun sleep 60")
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, folder, tracker, script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    cluster = owner.stdout.readline().strip()
    assert traces(cluster, folder)
    owner.kill()
    owner.communicate()
    come(lambda: not traces(cluster, folder))


def test_unpacked_packages_do(tmp_path):
    if reason := reason_to_skip(unpacked=True):
        pytest.skip(reason)
    with Cluster(tmp_path / "slurm", nodes=1, tracker="linuxproc", unpacked=True) as cluster:
        said = cluster.login("findmnt", "--noheadings", "--output=FSTYPE", "/usr").stdout
        assert said.strip() == "overlay"
        cluster.srun("true")

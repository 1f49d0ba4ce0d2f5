"""A real Slurm cluster of several machines, on one: to try what only a cluster shows."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tests.slurm import packages
from tests.slurm.machine import FREEZER, NAMESPACES, Machine

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = Path(__file__).with_name("slurm.conf")
NETWORK = "10.123.0"  # exists only between the machines of a cluster
GPUS = 8  # per node, and none of them real
FOLDERS = ("log", "state", "spool", "gpus")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL")
TRACKERS = ("cgroup", "linuxproc")
LOST_CONNECTION = "io error with slurmstepd"
USABLE = ("idle", "mixed", "allocated", "completing")


class Run(NamedTuple):
    """How a run of a job ended: PENDING if the job was requeued, and will have another."""

    job: int
    state: str
    nodes: str


def reason_to_skip(tracker: str = "linuxproc", unpacked: bool | None = None) -> str:
    """Why there can be no such cluster here, in one line; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm cluster takes Linux, and root"
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"a Slurm cluster takes {program}"
    if tracker == "cgroup" and not os.access(FREEZER / "cgroup.procs", os.W_OK):
        return f"{FREEZER} cannot be written"
    trial = ["unshare", *NAMESPACES, "--fork", "ip", "link", "add", "br0", "type", "bridge"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no namespaces: {done.stderr.strip()}"
    try:
        if _wants_unpacked(unpacked):
            packages.unpacked()
    except packages.UnavailableError as error:
        return f"no Slurm: {error}"
    return ""


class Cluster:
    """Slurm on a login node and several nodes, up inside `with`. Everything ends with it, or with
    this process. The file system is shared; the CPUs, the memory and the GPUs are invented.

    Args:
        folder: where it keeps its state. It must be empty.
        nodes: how many.
        tracker: who belongs to a job. With `cgroup`, as on most clusters, a signal other than
            KILL reaches only the top process of a task and nothing outlives a job; with
            `linuxproc` it reaches all, and orphans survive.
        grace: seconds that the partition `urgent` leaves to jobs of `main` which it preempts.
        user_signal: whether they then get the signal they asked for with --signal, not TERM.
        unpacked: whether to take Slurm from packages that are not installed, by default only
            where the host has none.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        tracker: str = "cgroup",
        grace: int = 30,
        user_signal: bool = True,
        unpacked: bool | None = None,
    ) -> None:
        self.folder = folder
        self.first_job = secrets.randbelow(60000) + 1
        self.name = f"c{self.first_job}"  # control groups of nodes are named after nodes
        self.nodes = [f"{self.name}-node{number}" for number in range(1, nodes + 1)]
        self._tracker = tracker
        self._grace = grace
        self._user_signal = user_signal
        self._unpacked = _wants_unpacked(unpacked)
        self._machines: dict[str, Machine] = {}
        self._cables = 0

    def __enter__(self) -> Self:
        self._write()
        try:
            self._start_controller()
            for node in self.nodes:
                self._start_node(node)
            self._wait_for_nodes(self.nodes)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switches all machines off."""
        while self._machines:
            self._machines.popitem()[1].switch_off()

    def environment(self, **more: str) -> dict[str, str]:
        """That of a plain shell on the login node whose python is this one."""
        foreign = ("SLURM", "SBATCH", "SRUN", "SQUEUE", "SINFO", "ACCELERATE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = f"{Path(sys.executable).parent}:{kept['PATH']}:/usr/sbin:/usr/bin:/sbin:/bin"
        ours = {
            "PATH": path,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }
        return kept | ours | more

    def login(
        self,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the login node."""
        return self._run("ctl", *command, env=env, cwd=cwd, check=check)

    def srun(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a step on nodes and waits for it; once more where Slurm lost the connection to it,
        as it has once, on a busy host."""
        done = self.login("srun", *words, env=env, cwd=cwd, check=False)
        if LOST_CONNECTION in done.stderr:
            done = self.login("srun", *words, env=env, cwd=cwd, check=False)
        assert not (check and done.returncode), f"srun {words}: {done.stdout}{done.stderr}"
        return done

    def submit(
        self,
        script: str | Path,
        *arguments: str | Path,
        options: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> int:
        """The number of a new job, which gets the environment of its submission."""
        command = ("sbatch", "--parsable", *options, script, *arguments)
        return int(self.login(*command, env=env, cwd=cwd).stdout)

    def show(self, job: int) -> dict[str, str]:
        """What Slurm says of a job: JobState, Restarts, BatchHost, NodeList, ExitCode..."""
        words = self.login("scontrol", "--oneliner", "show", "job", str(job)).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: int) -> str:
        return self.show(job)["JobState"]

    def wait(self, job: int, *states: str, seconds: float = 120) -> str:
        """Waits until a job is in one of the states, any final one if none is given; which?"""
        wanted = states or OVER
        self._wait(lambda: self.state(job) in wanted, f"job {job} to be {wanted}", seconds)
        return self.state(job)

    def signal(self, job: int, name: str, batch: bool = True) -> None:
        """Sends a signal to the batch script of a job, or else to its steps."""
        target = ["--batch"] if batch else []
        self.login("scancel", f"--signal={name}", *target, str(job))

    def cancel(self, job: int) -> None:
        self.login("scancel", str(job))

    def kill(self, node: str) -> None:
        """Power loss. Slurm learns of it after 10 to 35 s."""
        self._machines.pop(node).switch_off()

    def set_down(self, node: str) -> None:
        """Tells Slurm that a node is lost."""
        self.login("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def start(self, node: str) -> None:
        """Switches a node on again."""
        self._start_node(node)
        self.login("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self._wait_for_nodes([node])

    def ended(self) -> list[Run]:
        """All runs that have ended, in order."""
        written = self.folder / "log" / "runs.txt"
        runs = []
        for line in written.read_text().splitlines() if written.exists() else ():
            said = dict(word.split("=", 1) for word in line.split() if "=" in word)
            runs.append(Run(int(said["JobId"]), said["JobState"], said["NodeList"]))
        return runs

    def leftovers(self) -> list[str]:
        """Processes on the nodes that belong to no job."""
        there = [self._machines[node] for node in self.nodes if node in self._machines]
        return [stray for machine in there for stray in machine.strays()]

    def _write(self) -> None:
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        addresses = {node: f"{NETWORK}.{10 + number}" for number, node in enumerate(self.nodes)}
        hosts = ["127.0.0.1 localhost", f"{NETWORK}.1 ctl"]
        hosts += [f"{address} {node}" for node, address in addresses.items()]
        # torch looks up the names of mapped addresses, and there is no DNS to say no
        hosts += [f"::ffff:{address} {node}-mapped" for node, address in addresses.items()]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        for number in range(GPUS):  # any character device will do
            (self.folder / "gpus" / f"gpu{number}").symlink_to("/dev/null")
        files = f"/run/cluster/gpus/gpu[0-{GPUS - 1}]"
        (self.folder / "gres.conf").write_text(f"Name=gpu File={files}\n")
        # no mounting: the mounts of the host are seen in the machines
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        lines = [f"NodeName={node} NodeAddr={address}" for node, address in addresses.items()]
        (self.folder / "slurm.conf").write_text(self._configuration(lines))

    def _configuration(self, nodes: list[str]) -> str:
        return CONFIGURATION.read_text().format(
            name=self.name,
            network=NETWORK,
            tracker=self._tracker,
            first_job=self.first_job,
            user_signal="SlurmctldParameters=preempt_send_user_signal" if self._user_signal else "",
            gpus=GPUS,
            nodes="\n".join(nodes),
            grace=self._grace,
        )

    def _start_controller(self) -> None:
        self._boot("ctl")
        self.login("ip", "link", "add", "br0", "type", "bridge")
        self.login("ip", "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
        self.login("ip", "link", "set", "br0", "up")
        self.login(
            "munged",
            "--force",  # for the folder may not be open to all
            "--key-file=/run/cluster/munge.key",
            "--log-file=/run/cluster/log/munged.log",
            "--seed-file=/run/cluster/munge.seed",
            "--pid-file=/run/cluster/munged.pid",
            "--socket=/run/cluster/munge.sock",
        )
        self.login("slurmctld")

    def _start_node(self, node: str) -> None:
        self._boot(node)
        self._plug_in(node)
        self._run(node, "slurmd", "-N", node)

    def _boot(self, name: str) -> None:
        mount = packages.mount_command(packages.unpacked()) if self._unpacked else ""
        self._machines[name] = Machine(name, self.folder, mount)

    def _plug_in(self, node: str) -> None:
        """A cable from a node to the bridge. That of a lost node stays for a moment, so each has
        a name of its own."""
        self._cables += 1
        plug, machine, controller = f"v{self._cables}", self._machines[node], self._machines["ctl"]
        ends = (plug, "netns", controller.init, "type", "veth", "peer", "eth0", "netns")
        command = ["ip", "link", "add", *map(str, ends), str(machine.init)]
        subprocess.run(command, check=True, capture_output=True)
        self.login("ip", "link", "set", plug, "master", "br0", "up")
        address = f"{NETWORK}.{10 + self.nodes.index(node)}/24"
        self._run(node, "ip", "addr", "add", address, "dev", "eth0")
        self._run(node, "ip", "link", "set", "eth0", "up")

    def _run(
        self,
        machine: str,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        return self._machines[machine].run(
            *map(str, command),
            env=self.environment(**(env or {})),
            cwd=cwd or self.folder,
            check=check,
        )

    def _wait_for_nodes(self, nodes: Iterable[str]) -> None:
        def ready() -> bool:
            said = self.login("sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
            states = dict(line.split() for line in said.stdout.splitlines())
            return all(states.get(node) in USABLE for node in nodes)

        self._wait(ready, "the nodes", seconds=30)

    def _wait(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"waited for {what}\n{self._account()}"
            time.sleep(0.1)

    def _account(self) -> str:
        """What there is to say when something did not come."""
        queue = self.login("squeue", "--long", check=False).stdout
        logs = sorted((self.folder / "log").glob("slurm*.log"))
        tails = [f"{log.name}:\n" + "\n".join(_tail(log, 15)) for log in logs]
        return "\n".join([queue, *tails])


def _wants_unpacked(asked: bool | None) -> bool:
    return not packages.on_host() if asked is None else asked


def _tail(path: Path, lines: int) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-lines:]

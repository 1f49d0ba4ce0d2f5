"""launch/local.sh and launch/node.sh start what they say, or say in one line why not."""

import itertools
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from biggan_sn.config import PlayerConfig
from biggan_sn.config_io import to_dict
from biggan_sn.training.launching import STAGES

HERE = Path(__file__).parents[2]
TOPOLOGIES = sorted((HERE / "launch" / "topology").glob("*.yaml"))


def environment(**more):
    """That of a plain shell whose python is this one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "SLURM_"))}
    python = Path(sys.executable).parent
    return {**kept, "PATH": f"{python}:{kept['PATH']}", "PYTHONPATH": str(HERE), **more}


def start(script, *arguments, **variables):
    return subprocess.Popen(
        ["bash", str(HERE / "launch" / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        cwd=HERE,
    )


def end(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return str(door.getsockname()[1])


@pytest.fixture
def given(small_config, tmp_path):
    path = tmp_path / "given.yaml"
    side = PlayerConfig(microbatch=1)
    config = replace(small_config, steps=2, generator=side, discriminator=side)
    path.write_text(yaml.safe_dump(to_dict(config)))
    return "--config", str(path), "--run_dir", str(tmp_path / "run")


def steps(folder):
    lines = (folder / "run" / "scalars.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"PROCESSES": "1"}, "1 x cpu, ddp"),
        ({"PROCESSES": "2"}, "2 x cpu, ddp"),
        ({"PROCESSES": "2", "TOPOLOGY": "zero2"}, "2 x cpu, zero2"),
    ],
)
def test_local_trains_one_run(given, tmp_path, variables, told):
    code, out, err = end(start("local.sh", *given, CUDA_VISIBLE_DEVICES="", **variables))
    assert code == 0, err[-3000:]
    assert told in out
    assert steps(tmp_path) == [1, 2]


def test_two_nodes_train_one_run(given, tmp_path):
    meeting = {"NODES": "2", "HEAD": "127.0.0.1", "PORT": free_port(), "PROCESSES": "1"}
    nodes = [
        start("node.sh", "train", *given, NODE_RANK=str(n), TOPOLOGY="cpu", **meeting)
        for n in range(2)
    ]
    ends = [end(node) for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0], ends[0][2][-3000:]
    assert "2 x cpu" in ends[0][1]
    assert ends[1][1] == "", "one voice for the job"
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"TOPOLOGY": "ring"}, "no topology ring: there are cpu gpus one_gpu zero1 zero2"),
        ({"NODES": "2"}, "HEAD is not set"),
        ({"PROCESSES": "0"}, "PROCESSES must be a whole number from 1 on, got '0'"),
        ({"PROCESSES": "two"}, "PROCESSES must be a whole number from 1 on, got 'two'"),
        ({"RESTARTS": "x"}, "RESTARTS must be a whole number from 0 on, got 'x'"),
        ({"TOPOLOGY": "gpus", "CUDA_VISIBLE_DEVICES": ""}, "TOPOLOGY=gpus, but there is no GPU"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(given, tmp_path, variables, told):
    code, _, err = end(start("node.sh", "train", *given, **variables))
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_topology_that_needs_deepspeed_says_so(given, tmp_path):
    """Where it is not installed, before any process starts."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['deepspeed'] = None\n")
    variables = {"PROCESSES": "2", "TOPOLOGY": "zero1", "PYTHONPATH": f"{tmp_path}:{HERE}"}
    code, _, err = end(start("local.sh", *given, CUDA_VISIBLE_DEVICES="", **variables))
    assert code == 2
    assert err.startswith(
        "launch: this topology needs DeepSpeed: pip install 'biggan_sn[deepspeed]'"
    )
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_slurm_says_who_a_node_is(given, tmp_path):
    """The head is the first of the job's nodes; a job that starts again meets at another port."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "scontrol").write_text("#!/bin/sh\necho head7\necho tail8\n")
    (fake / "python").write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n'
                                 'echo "$BIGGAN_SN_PROCESSES" "$@"\n')  # fmt: skip
    for program in fake.iterdir():
        program.chmod(0o755)
    asked = {}
    for restart in ("0", "1"):
        node = subprocess.run(
            ["bash", str(HERE / "launch" / "node.sh"), "train", *given],
            check=True,
            capture_output=True,
            text=True,
            env=environment(
                PATH=f"{fake}:{os.environ['PATH']}",
                SLURM_NNODES="2",
                SLURM_NODEID="1",
                SLURM_JOB_ID="4711",
                SLURM_JOB_NODELIST="head7,tail8",
                SLURM_RESTART_COUNT=restart,
                PROCESSES="4",
            ),
        )
        words = node.stdout.split()
        asked[restart] = dict(itertools.pairwise(words))
        assert words[0] == "8"
    for options in asked.values():
        assert options["--main_process_ip"] == "head7"
        assert options["--machine_rank"] == "1"
        assert options["--num_machines"] == "2"
        assert options["--num_processes"] == "8"
    assert asked["0"]["--main_process_port"] != asked["1"]["--main_process_port"]


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_accelerate_reads_every_topology(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no", "the config of a run says it"
    stage = config.to_dict().get("deepspeed_config", {}).get("zero_stage")
    engine = path.stem if path.stem in STAGES.values() else "ddp"
    assert STAGES.get(str(stage), "ddp") == engine


def test_scripts_run_from_anywhere(given, tmp_path):
    done = subprocess.run(
        ["bash", str(HERE / "launch" / "local.sh"), *given],
        check=False,
        capture_output=True,
        text=True,
        env=environment(CUDA_VISIBLE_DEVICES="", PROCESSES="1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]

"""A launch that fell apart is an error that says who meant more processes and what to do."""

import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biggan_sn.training.launching import (
    LaunchError,
    check_processes,
    meant_engine,
    parent_command,
)

# torchrun and accelerate, launch/, srun, Open MPI, MPICH and Intel MPI.
SPOKESMEN = ("WORLD_SIZE", "BIGGAN_SN_PROCESSES", "SLURM_STEP_NUM_TASKS",
             "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # fmt: skip
REMEDIES = ("launch/local.sh", "launch/node.sh", "torchrun")
OF_ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}  # what every accelerate launch sets


def complaint(found, environment, parent=()):
    """What is said about a launch; nothing where it is right."""
    try:
        check_processes(found, environment, parent)
    except LaunchError as error:
        return str(error)
    return ""


def accelerate_asked(parent, found=1):
    """The processes an accelerate launch is found to have meant; `found` where no more."""
    said = re.match(r"(\d+) processes were meant \(accelerate launch\)",
                    complaint(found, OF_ACCELERATE, parent))  # fmt: skip
    return int(said[1]) if said else found


@pytest.mark.parametrize("name", SPOKESMEN)
def test_more_than_found_is_an_error_that_says_who_and_what_to_do(name):
    alone = complaint(1, {name: "3"})
    assert alone.startswith(f"3 processes were meant ({name}=3), but this one is alone")
    assert "only 2 found one another" in complaint(2, {name: "3"})
    for remedy in REMEDIES:
        assert remedy in alone
    assert "accelerate launch --cpu" in alone, "which looks right, and is not"
    assert "\n" not in alone


@pytest.mark.parametrize("name", SPOKESMEN)
@pytest.mark.parametrize("number", ["0", "1", "2", "3"])
def test_as_many_or_fewer_are_right(name, number):
    check_processes(3, {name: number}, [])


def test_a_launch_error_ends_in_one_line_and_no_traceback():
    """Which is what the command makes of a ValueError."""
    assert issubclass(LaunchError, ValueError)


@given(
    st.integers(1, 16),
    st.dictionaries(st.sampled_from(SPOKESMEN), st.integers(0, 20)),
    st.dictionaries(st.sampled_from(["SLURM_NTASKS", "LOCAL_WORLD_SIZE", "PATH"]), st.just("99")),
)
def test_any_of_them_may_complain_and_nobody_else(found, counts, others):
    said = complaint(found, others | {name: str(number) for name, number in counts.items()})
    assert bool(said) == any(number > found for number in counts.values())
    if said:
        number, name, same = re.match(r"(\d+) processes were meant \((\w+)=(\d+)\)", said).groups()
        assert number == same
        assert counts[name] == int(number) > found


def test_one_task_of_srun_per_node_and_more_processes_on_each_are_right():
    """As slurm/ starts them: srun runs a launcher on each of four nodes, which starts eight."""
    check_processes(32, {"SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "32"}, [])


def test_a_launcher_in_an_allocation_of_more_tasks_is_right():
    """SLURM_NTASKS counts what a job may start, not what srun started."""
    check_processes(2, {"SLURM_NTASKS": "8", "WORLD_SIZE": "2"}, [])


@given(st.sampled_from(SPOKESMEN), st.text(string.printable))
@example("WORLD_SIZE", "")
@example("WORLD_SIZE", "\u00b2")  # a digit, and no number
@example("SLURM_STEP_NUM_TASKS", "2(x3)")
@example("PMI_SIZE", "-3")
@example("PMI_SIZE", "2.5")
@example("WORLD_SIZE", "two")
def test_what_is_not_a_number_says_nothing(name, value):
    meant = int(value) if re.fullmatch("[0-9]+", value) else 0
    assert bool(complaint(1, {name: value})) == (meant > 1)


def command(*options):
    """How the kernel tells a command line: the last word ends with a zero byte as well."""
    python = ["python", "-m", "accelerate.commands.launch"]
    return [*python, *options, "-m", "biggan_sn", "train", "--run_dir", "runs/a", ""]


@pytest.mark.parametrize("option", ["processes", "machines"])
@pytest.mark.parametrize("spelling", ["--num_{}", "--num-{}"])
@pytest.mark.parametrize("joined", [True, False], ids=["=", "space"])
def test_accelerate_says_by_an_option_how_many(option, spelling, joined):
    name = spelling.format(option)
    options = ["--cpu", *([f"{name}=3"] if joined else [name, "3"])]
    assert accelerate_asked(command(*options)) == 3
    assert accelerate_asked(command(*options), found=2) == 3
    assert accelerate_asked(command(*options), found=3) == 3
    assert complaint(3, OF_ACCELERATE, command(*options)) == ""


def test_one_machine_and_one_process_are_right():
    assert complaint(1, OF_ACCELERATE, command("--num_processes", "1", "--num_machines", "1")) == ""
    assert complaint(1, OF_ACCELERATE, command()) == ""
    assert complaint(1, OF_ACCELERATE, []) == "", "where the parent is not known"


def test_the_parent_is_asked_only_if_accelerate_started_it_alone():
    two = command("--num_processes", "2")
    assert complaint(1, {}, two) == "", "the parent is not accelerate"
    launched = {**OF_ACCELERATE, "WORLD_SIZE": "1"}  # there was a launcher, that knows better
    assert complaint(1, launched, two) == ""
    assert "accelerate launch" in complaint(1, OF_ACCELERATE, two)


@pytest.mark.parametrize("joined", [True, False], ids=["=", "space"])
@pytest.mark.parametrize(
    ("file", "asked"),
    [
        ("num_processes: 4", 4),
        ("num_machines: 3", 3),
        ("num_processes: 2\nnum_machines: 5\nmachine_rank: 7", 5),
        ("num_processes: '4'", 4),
        ("num_processes: null\nnum_machines: 1", 1),
        ("use_cpu: true", 1),
    ],
)
def test_accelerate_says_by_its_file_how_many(tmp_path, joined, file, asked):
    path = tmp_path / "two words.yaml"
    path.write_text(file)
    options = [f"--config_file={path}"] if joined else ["--config_file", str(path)]
    assert accelerate_asked(command("--cpu", *options)) == asked


def test_the_config_of_the_run_is_not_taken_for_that_of_accelerate(tmp_path):
    """--config is an option of ours, and would be short for --config_file."""
    path = tmp_path / "given.yaml"
    path.write_text("num_processes: 4")
    line = command("--cpu")
    assert complaint(1, OF_ACCELERATE, [*line[:-1], "--config", str(path), ""]) == ""


def test_an_option_overrules_the_file(tmp_path):
    path = tmp_path / "four.yaml"
    path.write_text("num_processes: 4\nnum_machines: 2")
    named = ["--config_file", str(path)]
    assert accelerate_asked(command(*named, "--num_processes", "6")) == 6
    assert accelerate_asked(command(*named, "--num_processes", "1")) == 2
    assert accelerate_asked(command(*named, "--num_processes=1", "--num-machines=1")) == 1


@pytest.mark.parametrize("file", ["{", "a: b: c", "- [", "\t"])
def test_a_broken_or_missing_file_is_for_accelerate_to_complain_of(tmp_path, file):
    path = tmp_path / "broken.yaml"
    options = command("--config_file", str(path))
    assert complaint(1, OF_ACCELERATE, options) == "", "missing"
    path.write_text(file)
    assert complaint(1, OF_ACCELERATE, options) == ""


@pytest.mark.parametrize("spelling", ["--config_file", "--config-file"])
def test_a_file_is_read_by_either_name(tmp_path, spelling):
    path = tmp_path / "two.yaml"
    path.write_text("num_processes: 2\nuse_cpu: true\n")
    assert accelerate_asked(command(spelling, str(path))) == 2


def test_the_file_of_the_user_counts_as_accelerate_reads_it(tmp_path, monkeypatch):
    """Where no file is named, but not with --cpu."""
    from accelerate.commands.config import config_args

    path = tmp_path / "default_config.yaml"
    path.write_text("num_processes: 3\n")
    monkeypatch.setattr(config_args, "default_config_file", str(path))
    assert accelerate_asked(command()) == 3
    assert accelerate_asked(command("--num_processes", "2")) == 2
    assert accelerate_asked(command("--cpu")) == 1


@pytest.mark.parametrize("text", ["", "null", "[1]", "num_processes: two", "num_processes: [2]"])
def test_odd_files_are_for_accelerate_to_complain_of(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    assert complaint(1, OF_ACCELERATE, command("--config_file", str(path))) == ""
    path.write_bytes(b"\xff\xfe\x00")
    assert complaint(1, OF_ACCELERATE, command("--config_file", str(path))) == ""


@pytest.mark.parametrize("options", [["--num_processes", "two"], ["--num_machines="]])
def test_options_that_are_no_numbers_are_for_accelerate_to_complain_of(options):
    assert complaint(1, OF_ACCELERATE, command(*options)) == ""


@pytest.fixture(scope="module")
def accelerates_own():
    """The parser of accelerate launch."""
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser()


number_options = st.builds(
    lambda name, dash, number, joined: (
        [f"--num{dash}{name}={number}"] if joined else [f"--num{dash}{name}", str(number)]
    ),
    st.sampled_from(["processes", "machines"]),
    st.sampled_from("_-"),
    st.integers(0, 9),
    st.booleans(),
)
other_options = st.sampled_from(
    [["--cpu"], ["--mixed_precision", "no"], ["--main_process_port=0"], ["--machine_rank", "1"],
     ["--main_process_ip", "127.0.0.1"], ["--num_cpu_threads_per_process", "8"]]
)  # fmt: skip


@settings(deadline=None)
@given(options=st.lists(number_options | other_options, max_size=6))
def test_options_are_read_as_accelerate_reads_them(accelerates_own, options):
    line = command(*(word for option in options for word in option))
    read = accelerates_own.parse_args(line[3:-1])
    assert accelerate_asked(line) == max(1, read.num_processes or 1, read.num_machines or 1)


ON = {"ACCELERATE_USE_DEEPSPEED": "true"}


def with_deepspeed(**settings):
    return ON | {f"ACCELERATE_DEEPSPEED_{name}": value for name, value in settings.items()}


@pytest.mark.parametrize(
    "environment",
    [{}, {"ACCELERATE_USE_DEEPSPEED": "false"}, {"ACCELERATE_USE_DEEPSPEED": "False"},
     {"ACCELERATE_USE_DEEPSPEED": ""}],
)  # fmt: skip
def test_without_deepspeed_every_process_holds_all(environment):
    """Whatever else is left over in the environment."""
    for stage in ("3", "nonsense"):
        leftover = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": stage,
                    "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}  # fmt: skip
        assert meant_engine(leftover | environment) == "ddp"


@pytest.mark.parametrize("on", ["true", "True", "TRUE"])
@pytest.mark.parametrize(("stage", "row"), [("0", "ddp"), ("1", "zero1"), ("2", "zero2")])
def test_a_stage_is_an_engine(stage, row, on):
    environment = with_deepspeed(ZERO_STAGE=stage) | {"ACCELERATE_USE_DEEPSPEED": on}
    assert meant_engine(environment) == row
    none = {"OFFLOAD_OPTIMIZER_DEVICE": "none", "OFFLOAD_PARAM_DEVICE": "None", "CONFIG_FILE": ""}
    assert meant_engine(environment | with_deepspeed(ZERO_STAGE=stage, **none)) == row


def test_a_stage_needs_deepspeed(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert meant_engine(with_deepspeed(ZERO_STAGE="0")) == "ddp"
    for stage in "12":
        with pytest.raises(LaunchError, match=r"pip install 'biggan_sn\[deepspeed\]'"):
            meant_engine(with_deepspeed(ZERO_STAGE=stage))


def test_stage_3_is_refused_with_the_reason():
    with pytest.raises(LaunchError, match=r"^zero_stage: stage 3 splits the weights.*second deriv"):
        meant_engine(with_deepspeed(ZERO_STAGE="3"))
    with pytest.raises(LaunchError, match=r"take 1 or 2 \(launch/topology/\)"):
        meant_engine(with_deepspeed(ZERO_STAGE="3"))


@given(st.text().filter(lambda text: text not in {"0", "1", "2", "3"}))
@example("")
@example("02")
def test_other_stages_are_refused_by_their_name(stage):
    with pytest.raises(LaunchError, match=r"^zero_stage: ") as refused:
        meant_engine(with_deepspeed(ZERO_STAGE=stage))
    said = f"there is no stage {stage!r}" if stage else "it is not given"
    assert f"{said}; take 1 or 2" in str(refused.value)
    assert "second derivatives" not in str(refused.value)


def test_a_missing_stage_is_refused():
    with pytest.raises(LaunchError, match="take 1 or 2"):
        meant_engine(ON)


@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_a_config_file_of_deepspeed_is_refused_by_name(stage):
    settings = with_deepspeed(ZERO_STAGE=stage, CONFIG_FILE="conf/ds_z2.json")
    with pytest.raises(LaunchError, match=r"^conf/ds_z2\.json: .*zero_stage: 1 or 2"):
        meant_engine(settings)


@pytest.mark.parametrize("part", ["OPTIMIZER", "PARAM"])
@pytest.mark.parametrize("device", ["cpu", "nvme", "CPU"])
def test_offloading_is_refused(part, device):
    settings = with_deepspeed(ZERO_STAGE="2", **{f"OFFLOAD_{part}_DEVICE": device})
    with pytest.raises(LaunchError, match=f"^offload_{part.lower()}_device: {device}: .*say none"):
        meant_engine(settings)


def environment_of(parser, monkeypatch, *options):
    """What accelerate itself makes of options, without starting anything."""
    from accelerate.commands.launch import _validate_launch_command
    from accelerate.utils import launch

    monkeypatch.setattr(launch, "is_port_in_use", lambda port: False)
    engine = [] if "--config_file" in options else ["--use_deepspeed", "--mixed_precision", "no"]
    args, _, _ = _validate_launch_command(
        parser.parse_args([*options, *engine, "--num_processes", "2", "--num_machines", "1",
                           "--main_process_port", "1", "-m", "biggan_sn"])
    )  # fmt: skip
    assert args.use_deepspeed
    args.deepspeed_fields_from_accelerate_config = ""
    return launch.prepare_deepspeed_cmd_env(args)[1]


def test_accelerates_environment_is_understood(accelerates_own, monkeypatch):
    """The names of its variables are not documented: here they come from accelerate itself."""
    for stage, row in (("0", "ddp"), ("1", "zero1"), ("2", "zero2")):
        found = environment_of(accelerates_own, monkeypatch, "--zero_stage", stage)
        assert meant_engine(found) == row
    topology = Path(__file__).parents[3] / "launch" / "topology"
    for row in ("zero1", "zero2"):
        file = ["--config_file", str(topology / f"{row}.yaml")]
        assert meant_engine(environment_of(accelerates_own, monkeypatch, *file)) == row
    for refused, word in (
        (["--zero_stage", "3"], "second derivatives"),
        (["--deepspeed_config_file", "ds.json"], "ds.json"),
        (["--zero_stage", "2", "--offload_optimizer_device", "cpu"], "offload_optimizer_device"),
        (["--zero_stage", "2", "--offload_param_device", "nvme"], "offload_param_device"),
    ):
        found = environment_of(accelerates_own, monkeypatch, *refused)
        with pytest.raises(LaunchError, match=word):
            meant_engine(found)


ASK = "import json; from biggan_sn.training import launching as l; "
TELLS = ASK + "print(json.dumps(l.parent_command()))"
CHECKS = ASK + "l.check_processes(1, {'ACCELERATE_MIXED_PRECISION': 'no'}, l.parent_command())"
PARENT = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {!r}]).returncode)"

linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc here")


def run(*words):
    return subprocess.run(
        [sys.executable, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )


@linux
def test_the_parent_is_the_one_that_started_this_process():
    words = ["-c", PARENT.format(TELLS), "--config_file", "two words.yaml", "", "ü"]
    done = run(*words)
    assert json.loads(done.stdout) == [sys.executable, *words, ""], done.stderr


@linux
def test_words_that_are_no_text_do_not_hide_the_others():
    words = ["-c", PARENT.format(CHECKS), b"\xff\xfe", "--num_processes", "2"]
    done = run(*words)
    assert done.returncode != 0
    assert "LaunchError: 2 processes were meant (accelerate launch)" in done.stderr


def test_a_parent_that_cannot_be_known_says_nothing(monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 2**31 - 1)
    assert parent_command() == []
    check_processes(1, OF_ACCELERATE, parent_command())

"""What people read: lines, curves, heat-maps, and the record behind them."""

import io
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from biggan_sn.evaluation.pictures import ALARM, RAMP
from biggan_sn.models.bound import LipschitzBound
from biggan_sn.nn.matrices import as_matrix, named_weights
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.training import records
from biggan_sn.training.logs import GAME, Logs
from biggan_sn.training.monitor import MARGIN, Measured, measure, worst_layers
from biggan_sn.training.pace import Speed

SPEED = Speed(123.4, 20.0, 0.25, 3, 0.5, 0.0)

ALARM_OF_G = {
    "attempt": 0, "step": 15, "sign": "explosion", "channel": "explosion", "action": "warn",
    "reason": "G conv: sigma_0 grew from 100 to 200", "since": 10, "levels": {"explosion": 1.2},
}  # fmt: skip


def log_a_few(folder):
    logs = Logs(folder, 0, 100, {})
    for step in (10, 20):
        logs.scalars(step, {"d_loss": 1.0 / step, "g_loss": -0.5}, SPEED, {"contrast": 0.5})
        sigmas = {
            "G": {"linear": [1.0, 0.9, 0.8], "conv": [10.0 * step, 1.0, 0.5]},
            "D": {"linear": [3.0, 0.0, 0.0], "embed": [2.0, 1.0, 1.0]},
        }
        lengths = {network: dict.fromkeys(sigmas[network], 2.0) for network in sigmas}
        logs.spectra(step, Measured(sigmas, lengths), LipschitzBound({"head": 4.0}, 1000.0))
        logs.signs(step, {"explosion": step / 20})
    logs.alarm(ALARM_OF_G)
    logs.scores(20, {"fid": 3.5})
    logs.close()


def test_lines_have_step_speed_eta_and_losses(tmp_path, capsys):
    log_a_few(tmp_path)
    line = (tmp_path / "log.txt").read_text().splitlines()[0]
    for word in ("step", "10/100", "123.4 images/s", "ETA", "d_loss +0.100", "g_loss -0.500"):
        assert word in line
    assert "data 20 ms  comm 25%  rank 3 +50%" in line
    assert line in capsys.readouterr().out, "without a terminal the lines go to the output"


def test_curves_and_record_agree(tmp_path):
    log_a_few(tmp_path)
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance=sizes).Reload()
    curve = [(event.step, event.value) for event in events.Scalars("train/d_loss")]
    assert curve == [(10, np.float32(0.1)), (20, np.float32(0.05))]
    assert [event.value for event in events.Scalars("train/contrast")] == [0.5, 0.5]
    assert [event.value for event in events.Scalars("speed/slowest_rank")] == [3.0, 3.0]
    lines = (tmp_path / "scalars.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["speed"] == SPEED.record()
    assert [event.value for event in events.Scalars("sigma0/G/conv")] == [100.0, 200.0]
    assert [event.value for event in events.Scalars("sigma2/G/linear")] == [np.float32(0.8)] * 2
    assert [event.value for event in events.Scalars("evaluation/fid")] == [3.5]
    records = [json.loads(line) for line in (tmp_path / "spectra.jsonl").read_text().splitlines()]
    assert records[1]["step"] == 20
    assert records[1]["G"]["conv"] == [200.0, 1.0, 0.5]


def board(folder):
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=sizes).Reload()


def text(event):
    return event.tensor_proto.string_val[0].decode()


def test_board_has_three_lines_per_layer_and_margins_that_exist(tmp_path):
    """A chart whose expression fits no tag, or one too many, shows nothing, or a wrong line."""
    networks = {"G": torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Conv2d(3, 8, 3))}
    networks["G"].add_module("00", torch.nn.Linear(3, 3))  # "0" must not fit it too
    networks["D"] = torch.nn.Sequential(torch.nn.Embedding(10, 4))
    spectra = {short: Spectrum(network, 3) for short, network in networks.items()}
    logs = Logs(tmp_path, 0, 100, spectra)
    logs.spectra(10, measure(spectra), LipschitzBound({"head": 4.0}, 1000.0))
    logs.close()
    events = board(tmp_path)
    tags = events.Tags()["scalars"]
    layout = Layout.FromString(
        events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    charts = {(c.title, chart.title): chart for c in layout.category for chart in c.chart}
    lines = charts["G: layer by layer", "0"].multiline.tag
    fitting = [[tag for tag in tags if re.search(line, tag)] for line in lines]
    assert fitting == [["sigma0/G/0"], ["sigma1/G/0"], ["sigma2/G/0"]]
    assert len(charts) == len(GAME) + 2 * 2 + 4 + 1
    for (category, _), chart in charts.items():
        for series in chart.margin.series:
            assert {series.value, series.lower, series.upper} <= set(tags)
        for line in chart.multiline.tag if category != "the game" else ():
            assert sum(bool(re.search(line, tag)) for tag in tags) == 1, line


def test_board_begins_with_the_game(tmp_path):
    """As a run names its values; those of a whole one are here."""
    losses = dict.fromkeys(("d_loss", "g_loss", "d_real", "d_fake"), 1.0)
    probed = ("d_on_train", "d_on_heldout", "d_on_fake")
    logs = Logs(tmp_path, 0, 100, {})
    logs.scalars(10, losses, SPEED, dict.fromkeys((*probed, "d_lr", "diversity"), 1.0))
    logs.scores(10, {"fid": 9.0, "class_fid": 9.0, "precision": 0.5, "recall": 0.5})
    logs.signs(10, {"explosion": 0.5, "d_loss": 0.5})
    logs.close()
    tags = board(tmp_path).Tags()["scalars"]
    shown = [
        {tag for tag in tags if any(re.match(line, tag) for line in lines)}
        for _, lines in GAME.values()
    ]
    assert shown == [
        {"train/d_loss", "train/g_loss"},
        {"train/d_real", "train/d_fake"},
        {f"train/{name}" for name in probed},
        {"evaluation/fid"},
        {"evaluation/precision", "evaluation/recall"},
        {"collapse/explosion", "collapse/d_loss"},
    ]


def test_board_has_margins_table_alarms_and_their_marks(tmp_path):
    log_a_few(tmp_path)
    events = board(tmp_path)
    margin = {part: events.Scalars(f"margin/G/log10_sigma0_{part}")[1].value for part in MARGIN}
    expected = [np.log10(200) / 2, 0.0, np.log10(200)]
    np.testing.assert_allclose([margin[part] for part in MARGIN], expected, rtol=1e-6)
    assert events.Scalars("lipschitz/log10_total")[0].value == 3.0
    assert events.Scalars("lipschitz/D/head")[0].value == 4.0
    table = text(events.Tensors("spectra/worst_layers/text_summary")[-1])
    assert table.splitlines()[2] == "| G | conv | 200 | 200 | 1 |"
    (alarm,) = events.Tensors("collapse/alarms/text_summary")
    assert alarm.step == 15
    line = "explosion: G conv: sigma_0 grew from 100 to 200; to do: warn"
    assert text(alarm).splitlines() == [line, "", "- explosion at 120%"]
    assert [event.value for event in events.Scalars("collapse/explosion")] == [0.5, 1.0]
    line = "ALARM, explosion: G conv: sigma_0 grew from 100 to 200; calm until step 10; to do: warn"
    assert line in (tmp_path / "log.txt").read_text()
    (record,) = records.read(tmp_path / "collapse.jsonl")
    assert record == {"event": "alarm", **ALARM_OF_G}
    for network in "GD":
        for name in ("log10_sigma0", "log10_ratio"):
            *before, after = events.Images(f"spectra/{network}_{name}")
            red = [column_of_alarms(picture.encoded_image_string) for picture in before]
            assert red == [None, None]
            assert column_of_alarms(after.encoded_image_string) is not None, "drawn at the alarm"


def column_of_alarms(png):
    """The column that is in the colour of alarms for most of the height, if there is one."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    red = (pixels == ALARM).all(-1).sum(0)
    return red.argmax() if red.max() >= 13 else None  # the height of one row


def test_alarms_of_steps_that_will_be_played_again_are_dropped_those_of_other_attempts_not(
    tmp_path,
):
    log_a_few(tmp_path)
    logs = Logs(tmp_path, 12, 100, {}, attempt=1)
    logs.close()
    assert records.alarms(tmp_path) == [{"event": "alarm", **ALARM_OF_G}]
    logs = Logs(tmp_path, 12, 100, {}, attempt=0)
    logs.close()
    assert records.alarms(tmp_path) == []


def test_alarms_before_a_rollback_stand_where_the_run_is_past_them(tmp_path):
    alarm = {"event": "alarm", **ALARM_OF_G}
    events = [alarm | {"step": 10}, alarm | {"step": 30}, {"event": "rollback", "to": 20}]
    for event in [*events, alarm | {"step": 25}]:
        records.append(tmp_path / records.COLLAPSE, event)
    assert [record["step"] for record in records.alarms(tmp_path)] == [10, 25]
    assert records.rollbacks(tmp_path) == [events[2]]


def test_heat_map_shows_the_layer_that_explodes(tmp_path):
    log_a_few(tmp_path)
    path = tmp_path / "pictures" / "spectra_G_log10_sigma0.png"
    pixels = np.asarray(Image.open(path)).reshape(-1, 3).astype(int)
    brightest, darkest = ((pixels == RAMP[i].astype(int)).all(1).sum() for i in (-1, 0))
    assert brightest > 500, "conv at step 20"
    assert darkest > 500, "linear"


def test_a_line_cut_short_by_a_kill_is_dropped_and_later_steps_too(tmp_path):
    log_a_few(tmp_path)
    with (tmp_path / "scalars.jsonl").open("a") as file:
        file.write('{"step": 30, "d_l')
    logs = Logs(tmp_path, 10, 100, {})
    logs.close()
    steps = [json.loads(x)["step"] for x in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert steps == [10]
    assert "20/100" not in (tmp_path / "log.txt").read_text()


def test_monitor_measures_raw_weights_by_layer_name():
    torch.manual_seed(0)
    networks = {
        "G": torch.nn.Sequential(torch.nn.Linear(5, 40), torch.nn.Conv2d(3, 8, 3)),
        "D": torch.nn.Sequential(torch.nn.Embedding(10, 4)),
    }
    now = measure({short: Spectrum(network, 3) for short, network in networks.items()})
    sizes = now.sizes()
    for short, network in networks.items():
        weights = named_weights(network)
        assert list(now.sigmas[short]) == list(weights)
        for layer, weight in weights.items():
            true = torch.linalg.svdvals(as_matrix(weight.detach()))[:3]
            found = torch.tensor(now.sigmas[short][layer])
            torch.testing.assert_close(found, true, rtol=1e-3, atol=0)
            assert sizes[f"{short} {layer}: sigma_0"] == found[0]
            ratio = sizes[f"{short} {layer}: sigma_0 / sigma_1"]
            assert ratio == pytest.approx(found[0] / found[1])
            length = weight.detach().norm().item()
            assert sizes[f"{short} {layer}: Frobenius norm"] == pytest.approx(length, rel=1e-6)


def test_weights_that_are_not_finite_are_named_and_the_others_measured():
    networks = {"G": torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))}
    with torch.no_grad():
        networks["G"][0].weight[1, 2] = torch.nan
    now = measure({"G": Spectrum(networks["G"], 3)})
    assert now.not_finite() == ["G 0"]
    assert math.isfinite(now.sigmas["G"]["1"][0])


def test_table_puts_what_is_not_finite_first_then_the_largest_ratio():
    now = {"G": {"a": [2.0, 1.0], "b": [9.0, 1.0]}, "D": {"c": [math.nan] * 2, "d": [5.0, 0.0]}}
    layers = [line.split(" | ")[1] for line in worst_layers(now).splitlines()[2:]]
    assert layers == ["c", "b", "a"], "a weight of one row has no ratio"


def test_the_board_keeps_every_rollback_though_it_forgets_later_steps(tmp_path):
    for number, (start, end) in enumerate(((50, 40), (45, 30)), 1):
        line = {"event": "rollback", "from": start, "to": end, "attempt": number, "reason": "why"}
        records.append(tmp_path / records.COLLAPSE, line)
        logs = Logs(tmp_path, end, 100, {}, attempt=number)
        logs.decision(end, "went back")
        logs.close()
    newest = board(tmp_path).Tensors("collapse/rollbacks/text_summary")[-1]
    assert newest.step == 30
    assert text(newest) == "- from step 50 to 40: why\n- from step 45 to 30: why"

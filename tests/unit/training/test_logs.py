"""What people read: lines, curves, heat-maps, and the record behind them."""

import json

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biggan_sn.evaluation.pictures import RAMP
from biggan_sn.nn.spectral import as_matrix, named_weights
from biggan_sn.training.logs import Logs
from biggan_sn.training.monitor import Spectra, SpectrumMonitor


def log_a_few(folder):
    logs = Logs(folder, 0, 100)
    for step in (10, 20):
        logs.scalars(step, {"d_loss": 1.0 / step, "g_loss": -0.5}, 123.4)
        sigmas = torch.tensor([[1.0, 0.9, 0.8], [10.0 * step, 1.0, 0.5]])
        logs.spectra(step, {"G": Spectra(("linear", "conv"), sigmas)})
    logs.scores(20, {"fid": 3.5})
    logs.close()


def test_lines_have_step_speed_eta_and_losses(tmp_path, capsys):
    log_a_few(tmp_path)
    line = (tmp_path / "log.txt").read_text().splitlines()[0]
    for word in ("step", "10/100", "123.4 images/s", "ETA", "d_loss +0.100", "g_loss -0.500"):
        assert word in line
    assert line in capsys.readouterr().out, "without a terminal the lines go to the output"


def test_curves_and_record_agree(tmp_path):
    log_a_few(tmp_path)
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance=sizes).Reload()
    curve = [(event.step, event.value) for event in events.Scalars("train/d_loss")]
    assert curve == [(10, np.float32(0.1)), (20, np.float32(0.05))]
    assert [event.value for event in events.Scalars("sigma0/G/conv")] == [100.0, 200.0]
    assert [event.value for event in events.Scalars("sigma2/G/linear")] == [np.float32(0.8)] * 2
    assert [event.value for event in events.Scalars("evaluation/fid")] == [3.5]
    records = [json.loads(line) for line in (tmp_path / "spectra.jsonl").read_text().splitlines()]
    assert records[1]["step"] == 20
    assert records[1]["G"]["conv"] == [200.0, 1.0, 0.5]


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
    logs = Logs(tmp_path, 10, 100)
    logs.close()
    steps = [json.loads(x)["step"] for x in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert steps == [10]
    assert "20/100" not in (tmp_path / "log.txt").read_text()


def test_monitor_that_has_not_measured_has_nothing_to_restore():
    """Random bases must not pass for found ones: the first measurement would be worse."""
    torch.manual_seed(0)
    network = torch.nn.Linear(30, 20)
    fresh, resumed = (SpectrumMonitor({"G": network}, values=3) for _ in range(2))
    assert fresh.state() == {}
    resumed.load_state({})
    assert torch.equal(resumed.measure()["G"].sigmas, fresh.measure()["G"].sigmas)
    assert set(fresh.state()) == {"G/"}


def test_monitor_measures_raw_weights_by_layer_name():
    torch.manual_seed(0)
    networks = {
        "G": torch.nn.Sequential(torch.nn.Linear(5, 40), torch.nn.Conv2d(3, 8, 3)),
        "D": torch.nn.Sequential(torch.nn.Embedding(10, 4)),
    }
    spectra = SpectrumMonitor(networks, values=3).measure()
    assert spectra["G"].layers == ("0", "1")
    assert spectra["D"].layers == ("0",)
    for short, network in networks.items():
        for found, weight in zip(
            spectra[short].sigmas, named_weights(network).values(), strict=True
        ):
            true = torch.linalg.svdvals(as_matrix(weight.detach()).double())[:3]
            torch.testing.assert_close(found, true, rtol=1e-3, atol=0)

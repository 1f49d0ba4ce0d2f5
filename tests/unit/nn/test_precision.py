"""What precision a device computes with if nobody says."""

import pytest
import torch

from biggan_sn.nn.precision import PRECISIONS, chosen


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_asked_for_is_taken(name, device):
    assert chosen(name, torch.device(device)) == name


def test_auto_is_bf16_where_a_gpu_computes_with_it(monkeypatch):
    assert chosen("auto", torch.device("cpu")) == "fp32"
    for computes, wanted in ((True, "bf16"), (False, "fp32")):

        def answer(including_emulation, computes=computes):
            return computes or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
        assert chosen("auto", torch.device("cuda")) == wanted
        assert chosen("auto", torch.device("cpu")) == "fp32"

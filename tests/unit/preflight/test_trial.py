"""What of a network counts for the model on paper."""

import pytest
from torch import nn

from biggan_sn.nn.norm import BatchNorm2d
from biggan_sn.nn.replicas import Sharing
from biggan_sn.preflight.trial import _crosses_processes


@pytest.mark.parametrize(
    ("sharing", "crosses"),
    [
        (None, False),
        ({4: Sharing(2, None)}, False),
        ({4: Sharing(1, object())}, True),
        ({4: Sharing(1, None), 2: Sharing(1, object())}, True),
    ],
)
def test_only_norms_of_several_processes_cost_exchanges(sharing, crosses):
    norm = BatchNorm2d(3)
    norm.sharing = sharing
    assert _crosses_processes(norm) is crosses
    assert not _crosses_processes(nn.BatchNorm2d(3))

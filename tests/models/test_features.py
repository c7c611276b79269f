import torch
from torch import nn

from bksdm.models.features import tap


def test_outputs_are_collected_and_hooks_come_off() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    with tap(net, ["0"]) as seen:
        net(torch.ones(1, 2))
    assert torch.equal(seen["0"], net[0](torch.ones(1, 2)))
    seen.clear()
    net(torch.ones(1, 2))
    assert not seen
    assert not net[0]._forward_hooks


def test_hooks_come_off_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(2, 3))
    try:
        with tap(net, ["0"]):
            raise RuntimeError
    except RuntimeError:
        assert not net[0]._forward_hooks


def test_of_a_tuple_the_first_element_is_taken() -> None:
    net = nn.LSTM(2, 3)
    with tap(nn.ModuleDict({"lstm": net}), ["lstm"]) as seen:
        output, _ = net(torch.ones(1, 1, 2))
    assert torch.equal(seen["lstm"], output)

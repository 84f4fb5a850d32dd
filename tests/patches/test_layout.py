"""Where a network lies, whatever it is made of."""

from __future__ import annotations

import torch
from torch import nn

from medanomaly.patches.layout import device_of


def test_a_network_without_parameters_is_where_its_buffers_are():
    network, patches = nn.Module(), torch.zeros(1)
    assert device_of(network, patches) == patches.device
    network.mean = nn.Buffer(torch.zeros(3))
    assert device_of(network.to("meta"), patches) == torch.device("meta")
    network.weight = nn.Parameter(torch.zeros(3))
    assert device_of(network, patches) == torch.device("cpu")

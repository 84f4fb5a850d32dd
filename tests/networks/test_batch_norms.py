"""Batch norms get the statistics of what they are shown."""

from __future__ import annotations

import torch
from torch import nn

from medanomaly.networks.batch_norms import settle


def test_mean_and_variance_are_those_of_the_inputs_whatever_they_were():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for _ in range(5):
        network(100 * torch.randn(8, 3))
    weights = [p.clone() for p in network.parameters()]
    inputs = torch.randn(256, 3)
    settle(network, inputs)
    with torch.no_grad():
        features = network[0](inputs)
        made = network(inputs)
    assert not network.training and network[1].momentum == 0.1
    assert torch.allclose(network[1].running_mean, features.mean(dim=0), atol=1e-5)
    assert torch.allclose(network[1].running_var, features.var(dim=0), rtol=0.05)
    assert torch.allclose(made.mean(dim=0), torch.zeros(4), atol=1e-4)
    assert all(map(torch.equal, weights, network.parameters()))

"""Running averages of weights: what they follow, and batch norm for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.networks.averages import average_of, follow, measure_batch_norm, settle, warming_up
from medanomaly.networks.pairs import with_spectral_norm


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def test_an_average_goes_its_share_of_the_way_and_copies_buffers():
    kept, new = average_of(network()), network(1)
    new(torch.randn(8, 3))
    before = [p.clone() for p in kept.parameters()]
    follow(kept, new, decay=0.75)
    for was, now, other in zip(before, kept.parameters(), new.parameters(), strict=True):
        assert torch.allclose(now, 0.75 * was + 0.25 * other) and not now.requires_grad
    assert torch.equal(kept[1].running_mean, new[1].running_mean)


@torch.no_grad()
def test_an_average_follows_the_weights_that_a_network_with_spectral_norm_works_with():
    learning = network()
    kept = average_of(learning)
    with_spectral_norm(learning)
    learning.eval()  # so that the estimate of the norm rests
    follow(kept, learning, decay=0.0)
    assert torch.linalg.matrix_norm(kept[3].weight, ord=2) == pytest.approx(1.0, abs=0.02)
    x = torch.randn(8, 3)
    assert torch.allclose(kept.eval()(x), learning(x), atol=1e-6)
    assert list(kept.state_dict()) == list(network().state_dict())


def test_batch_norm_is_measured_on_the_first_batches_and_all_are_given_back():
    kept = average_of(network()).eval()
    batches = [torch.randn(16, 3) for _ in range(6)]
    kept[1].running_mean.fill_(100.0)
    rest = measure_batch_norm(kept, iter(batches), n=4)
    before_norm = [kept[0](batch) for batch in batches[:4]]
    assert torch.allclose(kept[1].running_mean, torch.cat(before_norm).mean(dim=0), atol=1e-6)
    variance = torch.stack([values.var(dim=0) for values in before_norm]).mean(dim=0)
    assert torch.allclose(kept[1].running_var, variance, atol=1e-6)
    assert not kept.training and not kept[1].training and kept[1].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(rest, batches, strict=True))


@pytest.mark.parametrize(("step", "expected"), [(1, 2 / 11), (20, 0.7), (10**6, 0.999)])
def test_the_decay_warms_up(step, expected):
    assert warming_up(0.999, step) == pytest.approx(expected)


def test_mean_and_variance_are_those_of_the_inputs_whatever_they_were():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for _ in range(5):
        network(100 * torch.randn(8, 3))
    weights = [p.clone() for p in network.parameters()]
    inputs = torch.randn(256, 3)
    settle(network, inputs.split(128))
    with torch.no_grad():
        features = network[0](inputs)
        made = network(inputs)
    assert not network.training and network[1].momentum == 0.1
    assert torch.allclose(network[1].running_mean, features.mean(dim=0), atol=1e-5)
    assert torch.allclose(network[1].running_var, features.var(dim=0), rtol=0.05)
    assert torch.allclose(made.mean(dim=0), torch.zeros(4), atol=1e-4)
    assert all(map(torch.equal, weights, network.parameters()))

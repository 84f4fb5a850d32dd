"""The search for codes against known answers, and that each sample is on its own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medanomaly.detectors import AnoGAN, RandGAN
from medanomaly.networks.dcgan import dcgan_decoder, init_he
from medanomaly.networks.search import in_blocks, search_codes


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def square_distance(targets, seen=None):
    def loss(codes, samples):
        if seen is not None:
            seen.append(samples)
        return (codes - targets[samples]).square().sum(dim=1)

    return loss


def test_it_finds_the_minimum_of_a_bowl():
    targets = normal(40, 5).clamp(-3, 3)
    codes, lowest = search_codes(square_distance(targets), torch.zeros(40, 1, 5), steps=400, check_every=400)
    assert torch.allclose(codes, targets, atol=0.01) and lowest.max() < 1e-3


def test_steps_are_those_of_adam():
    targets, start = normal(3, 5), normal(3, 5, seed=1)
    code = start.clone().requires_grad_()
    adam, losses = torch.optim.Adam([code], lr=0.1), []
    for _ in range(30):
        loss = (code - targets).abs().sum(dim=1)
        losses.append(loss.detach())
        adam.zero_grad()
        torch.autograd.backward(loss.sum())
        adam.step()
    found = search_codes(
        lambda codes, samples: (codes - targets[samples]).abs().sum(dim=1), start[:, None], 30, 0.1, 9.0, tolerance=0
    )
    assert torch.allclose(found[1], torch.stack(losses).min(dim=0).values, rtol=1e-4)


def test_codes_stay_within_the_limit():
    codes, _ = search_codes(square_distance(torch.full((2, 5), 7.0)), torch.full((2, 1, 5), 9.0), limit=2.0)
    assert codes.max() == 2.0


def test_the_best_of_several_starts_is_taken():
    def two_valleys(codes, samples):  # at -1 and at 1, which is the deeper one
        return torch.minimum((codes + 1).square() + 0.5, (codes - 1).square()).sum(dim=1)

    starts = torch.tensor([[[-1.2], [1.5]], [[1.5], [-1.2]], [[-1.2], [-0.5]]])
    codes, lowest = search_codes(two_valleys, starts, steps=300, tolerance=0)
    assert torch.allclose(codes[:, 0], torch.tensor([1.0, 1, -1]), atol=0.02)
    assert torch.allclose(lowest, torch.tensor([0, 0, 0.5]), atol=1e-3)


def test_a_sample_that_no_longer_improves_is_left_as_it_is():
    targets, seen = torch.stack([torch.zeros(5), torch.full((5,), 2.5)]), []

    def loss(codes, samples):
        return 1 + square_distance(targets, seen)(codes, samples)

    search_codes(loss, torch.zeros(2, 1, 5), 1000, 0.05, check_every=10, block=2)
    assert 50 < len(seen) < 500  # both are done
    assert all(1 in samples for samples in seen) and all(0 not in samples for samples in seen[20:])


@torch.no_grad()
def test_a_row_comes_out_the_same_bit_for_bit_whatever_is_beside_it():
    torch.manual_seed(0)
    decoder = dcgan_decoder(1, 16, 2, 8, 8).eval()
    decoder.apply(init_he)

    def found(images):
        def loss(codes, samples):
            return F.l1_loss(decoder(codes), images[samples], reduction="none").flatten(1).mean(dim=1)

        starts = normal(2, 8, seed=3).expand(len(images), -1, -1)
        return in_blocks(decoder, normal(14, 8)[: len(images)]), *search_codes(loss, starts, steps=60, block=8)

    images = torch.rand(11, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    made, codes, lowest = found(images)
    assert made.shape == images.shape
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    for rows in (order, torch.tensor([7]), torch.arange(3)):
        _, codes_of_rows, lowest_of_rows = found(images[rows])
        assert torch.equal(codes_of_rows, codes[rows]) and torch.equal(lowest_of_rows, lowest[rows])
    beside = found(torch.cat([100 * images[:3], images]))
    assert torch.equal(beside[2][3:], lowest) and torch.equal(found(images[:3])[0], made[:3])
    assert all(parameter.grad is None for parameter in decoder.parameters()) and not codes.requires_grad


@pytest.mark.parametrize(("detector", "drawing"), [(AnoGAN, "average"), (RandGAN, "generator")])
def test_a_film_that_comes_alone_is_not_searched_for_in_a_block_of_32(detector, drawing):
    network = detector(patch_size=64, features=8, bank_size=4, restarts=1, search_steps=2).eval()
    rows = []
    getattr(network, drawing).register_forward_hook(lambda module, arguments, made: rows.append(len(made)))
    network.score(torch.rand(1, 1, 64, 64))
    assert 0 < max(rows) <= 4

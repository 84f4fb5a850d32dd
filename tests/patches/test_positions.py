"""Stretches of positions against the list of all."""

from __future__ import annotations

import pytest
import torch

from medanomaly.patches.positions import Positions


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 6), (1, 40, 40)], ids=str)
def test_they_are_those_of_nonzero(shape, share):
    allowed = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share
    expected = torch.nonzero(allowed.flatten())[:, 0]
    positions = Positions(allowed)
    assert len(positions) == len(expected)
    picks = torch.randint(max(len(expected), 1), (50 * (len(expected) > 0),))
    assert torch.equal(positions[picks], expected[picks])
    assert torch.equal(positions[torch.arange(len(expected))], expected)


def test_a_block_takes_little_memory():
    allowed = torch.zeros(20, 50, 50, dtype=torch.bool)
    allowed[2:18, 5:45, 5:45] = True
    assert len(Positions(allowed).first) == 16 * 40

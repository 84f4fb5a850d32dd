"""The shortcut against the inferer, which scores every patch of every version."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.detectors import Detector
from medanomaly.errors import ConfigError, TrainingError
from medanomaly.experiments.slab_scores import SlabScores
from medanomaly.patches import PatchScoreInferer, PatchSpec


def slab(seed=0, shape=(43, 38, 4)):
    """A textured slab and a ragged brain in it."""
    generator = torch.Generator().manual_seed(seed)
    brain = torch.rand(shape, generator=generator) < 0.02
    brain[9:31, 6:33] |= torch.rand(22, 27, shape[2], generator=generator) < 0.9
    return torch.rand((1, *shape), generator=generator) * brain, brain


class Scorer(Detector):
    """A score that depends on the place of every voxel in the patch; ``kind`` is "patch" or "voxel"."""

    def __init__(self, kind="patch"):
        super().__init__(patch_size=16)
        self.kind = kind
        self.weight = nn.Parameter(torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(3)) - 0.3)

    def forward(self, patches):
        if self.kind == "voxel":
            return torch.sin(3 * patches * self.weight)
        return torch.sin((patches * self.weight).flatten(1).sum(dim=1, keepdim=True))


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize("stride", [4, 5])
def test_every_version_equals_the_inferer(kind, stride):
    volume, brain = slab()
    detector = Scorer(kind)
    inferer = PatchScoreInferer(PatchSpec(16, stride=stride))
    scores = SlabScores(volume, brain, detector, PatchSpec(16, stride=stride), batch_size=32)
    for corner, size in (((0, 0), 0), ((12, 9), 1), ((8, 20), 12), ((0, 0), 43)):
        changed = torch.zeros_like(brain)
        changed[corner[0] : corner[0] + size, corner[1] : corner[1] + size, 1:] = True
        version = torch.where(changed, 1.0, volume)
        expected = inferer(version[None], detector, mask=brain[None, None])[0, 0]
        heatmap = scores.heatmap(version, changed)
        torch.testing.assert_close(heatmap, expected, rtol=0, atol=1e-5, equal_nan=True)
        assert torch.isfinite(heatmap[brain]).all()
        if size > 1:  # the change shows
            unchanged = scores.heatmap(volume, torch.zeros_like(brain))
            assert float((heatmap - unchanged)[brain].abs().max()) > 0.1


def test_only_the_patches_that_a_change_touches_are_scored_again():
    volume, brain = slab()
    detector, seen = Scorer(), []
    scores = SlabScores(volume, brain, detector, PatchSpec(16, stride=4), batch_size=4)
    detector.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    scores.heatmap(volume, torch.zeros_like(brain))
    assert seen == []
    changed = torch.zeros_like(brain)
    changed[20, 20, 2] = True
    scores.heatmap(torch.where(changed, 1.0, volume), changed)
    assert sum(seen) == 16  # of 4 x 4 starts, 4 apart, the windows hold the voxel


def test_small_volumes_and_scores_that_are_not_finite_are_errors():
    volume, brain = slab()
    with pytest.raises(ConfigError, match="holds no patch"):
        SlabScores(volume[:, :10], brain[:10], Scorer(), PatchSpec(16, stride=4), 32)
    detector = Scorer()
    nn.init.constant_(detector.weight, torch.nan)
    with pytest.raises(TrainingError, match="not finite"):
        SlabScores(volume, brain, detector, PatchSpec(16, stride=4), 32)

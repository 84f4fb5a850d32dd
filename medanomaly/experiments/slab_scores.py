"""Heatmaps of one volume with many small changes: each patch is scored once, and again only where it has changed."""

from __future__ import annotations

import torch
from torch import Tensor

from medanomaly.detectors import Detector
from medanomaly.errors import TrainingError
from medanomaly.patches import PatchScoreInferer, PatchSpec
from medanomaly.patches.grid import PatchGrid, slice_axis_first
from medanomaly.patches.layout import channels_last, device_of, prepare_network


class SlabScores:
    """The heatmap of a volume, and of versions of it, by axial patches; equal to that of ``PatchScoreInferer``.

    A patch that no changed voxel lies in keeps its scores: of patches of 16 voxels and a disk of 35 mm, nine in ten do.

    Args:
        volume: (C, H, W, D) in RAS; H and W are at least those of a patch.
        brain: (H, W, D); the patches that touch it are scored.
        network: a trained detector for 2-D patches, in eval mode. The layout of its weights changes, their values stay.
        spec: what a patch is: axial, of one slice.
        batch_size: patches a forward pass.

    Raises:
        ConfigError: if the volume is smaller than a patch.
        TrainingError: if a score is not finite.
    """

    def __init__(self, volume: Tensor, brain: Tensor, network: Detector, spec: PatchSpec, batch_size: int) -> None:
        prepare_network(network)
        self.network, self.batch_size = network, batch_size
        self.inferer = PatchScoreInferer(spec, batch_size=batch_size)
        self.device = device_of(network, volume)
        self.brain = brain
        volume, brain = slice_axis_first(volume, "axial"), slice_axis_first(brain[None], "axial")[0]
        self.grid = PatchGrid(brain.shape, spec.window, spec.steps)
        self.visited = self.grid.touching(brain)
        self.count = self.grid.sum_of_covering(self.visited)
        with torch.inference_mode():
            probe = network(torch.zeros(1, len(volume), *spec.window[1:], device=self.device))
        # of the unchanged volume: one score for each patch, or one for each of its voxels
        self.scores = torch.zeros(len(self.grid), probe[0].numel())
        self._score(volume.contiguous(), self.visited, self.scores)

    def heatmap(self, volume: Tensor, changed: Tensor) -> Tensor:
        """Scores (H, W, D) of a version (C, H, W, D) of the volume; NaN where no visited patch lies.

        Args:
            changed: (H, W, D), true at least where ``volume`` differs from the first one.
        """
        scores = self.scores.clone()
        touched = self.visited & self.grid.touching(slice_axis_first(changed[None], "axial")[0])
        self._score(slice_axis_first(volume, "axial").contiguous(), touched, scores)
        total = self._sum_of_covering(scores)
        return torch.where(self.count > 0.5, total / self.count, torch.nan).float().movedim(0, 2)

    def _sum_of_covering(self, scores: Tensor) -> Tensor:
        """For each voxel (D, H, W), the sum of the scores of the visited patches that cover it."""
        if scores.shape[1] == 1:
            return self.grid.sum_of_covering(scores.view(self.grid.shape))
        total = torch.zeros(self.grid.image_size, dtype=torch.float64)
        for patches in torch.nonzero(self.visited.flatten())[:, 0].split(self.batch_size):
            total.view(-1).index_add_(0, self.grid.voxels(patches).flatten(), scores[patches].flatten().double())
        return total

    @torch.inference_mode()
    def _score(self, turned: Tensor, which: Tensor, scores: Tensor) -> None:
        """Write the scores of the patches ``which`` (n0, n1, n2) of a volume (C, D, H, W) to ``scores`` (N, n)."""
        index = torch.nonzero(which.flatten())[:, 0]
        for batch in index.split(self.batch_size) if len(index) else ():
            patches = self.grid.gather(turned, self.inferer.filled(batch, self.batch_size)).squeeze(2)
            result = self.network(channels_last(patches.to(self.device)))
            scores[batch] = result[: len(batch)].flatten(1).float().cpu()
        if not torch.isfinite(scores).all():
            raise TrainingError("the detector gave a score that is not finite: its training was not sound.")

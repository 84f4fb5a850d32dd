"""Volume in, voxel heatmap out: every patch that touches the brain is scored, and the scores are stitched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers.inferer import Inferer
from torch import Tensor, nn
from tqdm import tqdm

from medanomaly.errors import InputError
from medanomaly.patches.grid import (
    PLANES,
    PatchGrid,
    channels_last,
    pad_to_window,
    patch_window,
    plain,
    planes_of,
    slice_axis_first,
)


class PatchScoreInferer(Inferer):
    """Mean score of the patches that cover each voxel, called like any MONAI inferer: ``inferer(volume, network)``.

    Only patches that touch the brain are visited, in batches of fixed size. The result equals a loop over all patches
    and ``monai.inferers.sliding_window_inference`` (Madzia-Madzou & Kuijf, section 2.2.2: overlapping transversal
    patches, stride 4).

    Args:
        patch_size: voxels a side.
        stride: voxels between patches, in every direction of the patch; the last patch snaps to the border.
        spatial_dims: 2 for slices' patches, 3 for cubes.
        planes: for 2-D patches, "axial", "coronal", "sagittal" or several; several are averaged.
        batch_size: patches a forward pass.
        progress: show a bar.
    """

    def __init__(
        self,
        patch_size: int = 16,
        stride: int = 4,
        spatial_dims: int = 2,
        planes: Sequence[str] = ("axial",),
        batch_size: int = 256,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.window, self.stride = patch_window(patch_size, stride, spatial_dims)
        self.spatial_dims = spatial_dims
        self.planes = planes_of(planes, spatial_dims)
        self.batch_size, self.progress = batch_size, progress

    @torch.inference_mode()
    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        mask: Tensor | None = None,
        exclude: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Score volumes.

        Args:
            inputs: (B, C, H, W, D), in RAS if the planes' names are to hold.
            network: patches (N, C, p, p[, p]) to scores (N, 1), or to a map (N, 1, p, p[, p]).
            mask: brain (B, 1, H, W, D); if not given, the voxels that are not 0 in some channel.
            exclude: (B, 1, H, W, D); patches that touch it are not visited (lesions, where normal tissue is scored).

        Returns:
            (B, 1, H, W, D) float32 on the CPU; NaN where no visited patch lies.

        Raises:
            InputError: if ``inputs`` is not 5-D, its channels are not what the network takes, the mask has another
                shape, or a score is not finite.
        """
        if inputs.ndim != 5:
            raise InputError(f"the volume has shape {tuple(inputs.shape)}, but (batch, channel, H, W, D) is needed.")
        needed = getattr(network, "in_channels", inputs.shape[1])
        if needed != inputs.shape[1]:
            raise InputError(f"the volume has {inputs.shape[1]} channel(s), but the detector takes {needed}.")
        volumes = plain(inputs)
        masks = (volumes != 0).any(dim=1, keepdim=True) if mask is None else plain(mask) > 0
        excluded = torch.zeros_like(masks) if exclude is None else plain(exclude) > 0
        for name, given in (("mask", masks), ("region to exclude", excluded)):
            if given.shape != volumes[:, :1].shape:
                raise InputError(
                    f"the {name} has shape {tuple(given.shape)}, but {tuple(volumes[:, :1].shape)} is needed."
                )
        heatmaps = []
        for volume, *where in zip(volumes, masks, excluded, strict=True):
            maps = torch.stack([self._score_plane(volume, *where, network, p, *args, **kwargs) for p in self.planes])
            heatmaps.append(maps[0] if len(maps) == 1 else torch.nanmean(maps, dim=0))
        return torch.stack(heatmaps)[:, None]

    def _score_plane(
        self,
        volume: Tensor,
        brain: Tensor,
        excluded: Tensor,
        network: Callable[..., Tensor],
        plane: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Heatmap (H, W, D) of one volume (C, H, W, D) from the patches of one plane (or from cubes)."""
        size = slice_axis_first(volume, plane).shape[1:]
        volume, brain, excluded = (
            pad_to_window(slice_axis_first(v, plane), self.window) for v in (volume, brain, excluded)
        )
        volume = volume.contiguous()
        grid = PatchGrid(brain.shape[1:], self.window, self.stride)
        visited = grid.touching(brain[0].cpu()) & ~grid.touching(excluded[0].cpu())
        index = torch.nonzero(visited.flatten())[:, 0]

        weights = network.parameters() if isinstance(network, nn.Module) else iter(())
        device = next(weights, volume).device  # the volume may wait on the CPU while the network is on a GPU
        sums = torch.zeros(grid.image_size).flatten()
        scores = torch.zeros(grid.shape, dtype=torch.float64).flatten()
        batches = torch.split(index, self.batch_size) if len(index) else ()
        for batch in tqdm(batches, desc="scoring", unit="batch", leave=False, disable=not self.progress):
            patches = grid.gather(volume, batch)
            patches = channels_last(patches.squeeze(2) if self.spatial_dims == 2 else patches)
            result = network(patches.to(device), *args, **kwargs).float().cpu()
            if not torch.isfinite(result).all():
                raise InputError(
                    "the detector gave a score that is not finite: was its training sound, and is the volume?"
                )
            if result.ndim == 2:  # one score a patch
                scores[batch] = result[:, 0].double()
            else:  # one score a voxel
                sums.index_add_(0, grid.voxels(batch).flatten(), result.flatten())
        total = sums.view(grid.image_size) + grid.sum_of_covering(scores.view(grid.shape))
        count = grid.sum_of_covering(visited)
        heatmap = torch.where(count > 0.5, total / count, torch.nan).float()
        offset = [(padded - s) // 2 for padded, s in zip(heatmap.shape, size, strict=True)]
        for axis, (start, length) in enumerate(zip(offset, size, strict=True)):
            heatmap = heatmap.narrow(axis, start, length)
        return heatmap if plane is None else heatmap.movedim(0, PLANES[plane])

"""The ways from a volume (1, C, H, W, D) to its heatmap: a plain loop, MONAI's two, and ours. Patches are axial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from monai.inferers import AvgMerger, PatchInferer, SlidingWindowSplitter, sliding_window_inference
from torch import Tensor

from medanomaly.patches import PatchSpec
from medanomaly.patches.grid import PatchGrid, slice_axis_first
from medanomaly.patches.spec import PLANES

Network = Callable[[Tensor], Tensor]


def made_volume(shape: Sequence[int], seed: int = 0) -> Tensor:
    """A volume (1, 1, H, W, D) of noise."""
    return torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(seed))


def ellipse_mask(shape: Sequence[int], fraction: float = 0.3, axes: int = 3) -> Tensor:
    """A brain (1, 1, H, W, D), float32: an ellipsoid, or an ellipse in each slice (``axes=2``), of that share."""
    stretch = (1.09, 1 / 1.09, 1.0)[:axes]
    content = (torch.pi if axes == 2 else 4 / 3 * torch.pi) / 2**axes  # of the ellipse with the semi-axes 1/2
    scale = (fraction / content) ** (1 / axes)
    squares = torch.zeros(tuple(shape))
    for axis in range(axes):
        place = (torch.arange(shape[axis]) + 0.5) / shape[axis] * 2 - 1
        view = [1] * 3
        view[axis] = -1
        squares += (place / (scale * stretch[axis])).square().view(view)
    return (squares < 1).float()[None, None]


def grid_of(mask: Tensor, patch_size: int, stride: int, spatial_dims: int, plane: str = "axial") -> tuple[int, int]:
    """How many patches the grid over a mask (1, 1, H, W, D) has, and how many touch the mask."""
    spec = PatchSpec(patch_size, spatial_dims, stride=stride)
    turned = slice_axis_first(mask[0], plane if spatial_dims == 2 else None)[0]
    grid = PatchGrid(turned.shape, spec.window, spec.steps)
    return len(grid), sum(int(piece.touching(turned[rows] > 0).sum()) for rows, piece in grid.slabs(2**22))


def naive_loop(
    volume: Tensor,
    network: Network,
    patch_size: int,
    stride: int,
    spatial_dims: int,
    mask: Tensor | None = None,
    plane: str = "axial",
    limit: int | None = None,
) -> Tensor:
    """One patch at a time: the mean score of the patches that cover a voxel; NaN where none does.

    Args:
        mask: visit the patches that touch it; all if not given.
        limit: stop after so many patches (to time a part).
    """
    device = volume.device
    thin = PLANES[plane]
    window = [patch_size] * 3
    if spatial_dims == 2:
        window[thin] = 1
    axes = [
        [slice(start, start + w) for start in [*range(0, size - w, 1 if w == 1 else stride), size - w]]
        for size, w in zip(volume.shape[2:], window, strict=True)
    ]
    sums, counts = (torch.zeros(volume.shape[2:], device=device) for _ in range(2))
    visited = 0
    with torch.inference_mode():
        for where in product(*axes):
            if mask is not None and not mask[(0, 0, *where)].any():
                continue
            patch = volume[(slice(None), slice(None), *where)]
            sums[where] += network(patch.squeeze(2 + thin) if spatial_dims == 2 else patch)[0, 0]
            counts[where] += 1
            visited += 1
            if visited == limit:
                break
        return (sums / counts)[None, None].cpu()


def sliding_windows(
    volume: Tensor, network: Network, patch_size: int, stride: int, spatial_dims: int, window_batch: int = 4
) -> Tensor:
    """``monai.inferers.sliding_window_inference``, which shows every patch; MONAI's examples take 4 windows a batch."""
    window, overlap = _monai_window(patch_size, stride, spatial_dims)
    with torch.inference_mode():
        return sliding_window_inference(
            volume, window, window_batch, _per_voxel(network, window), overlap=overlap, mode="constant"
        ).cpu()


def patch_inferer(
    volume: Tensor,
    network: Network,
    patch_size: int,
    stride: int,
    spatial_dims: int,
    batch_size: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """``monai.inferers.PatchInferer`` with its AvgMerger; with a mask, its splitter's filter leaves the others out."""
    window, _ = _monai_window(patch_size, stride, spatial_dims)
    step = [1 if w == 1 else stride for w in window]
    keep = None
    if mask is not None:
        starts = [range(0, size - w + 1, s) for size, w, s in zip(mask.shape[2:], window, step, strict=True)]
        grid = PatchGrid(mask.shape[2:], window, step)
        touching = grid.touching(mask[0, 0] > 0).flatten().tolist()
        inside = {place for place, touches in zip(product(*starts), touching, strict=True) if touches}

        def keep(patch: Tensor, location: Sequence[int]) -> bool:
            return tuple(location) in inside

    splitter = SlidingWindowSplitter(window, overlap=[w - s for w, s in zip(window, step, strict=True)], filter_fn=keep)
    inferer = PatchInferer(splitter, AvgMerger, batch_size=batch_size, device=volume.device)
    with torch.inference_mode():
        return inferer(volume, _per_voxel(network, window)).cpu()


def _monai_window(patch_size: int, stride: int, spatial_dims: int) -> tuple[list[int], list[float]]:
    """MONAI's window and overlap for the same positions as ours."""
    window = [patch_size] * 3
    overlap = [1 - stride / patch_size - (1e-9 if stride < patch_size else 0)] * 3  # MONAI rounds the step down
    if spatial_dims == 2:
        window[2], overlap[2] = 1, 0.0
    return window, overlap


def _per_voxel(network: Network, window: Sequence[int]) -> Network:
    """MONAI stitches maps, and writes into them: a patch's score in each of its voxels, in memory of its own."""

    def predictor(patches: Tensor) -> Tensor:
        scores = network(patches.squeeze(4) if window[2] == 1 else patches)
        return scores.view(-1, 1, 1, 1, 1).expand(-1, 1, *window).clone()

    return predictor


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two heatmaps; infinite where only one has a score."""
    if not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    return float((a - b).abs().nan_to_num(0.0).max())

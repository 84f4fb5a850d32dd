"""What a heatmap is to be: a loop over patches in the volume's own axes; with volumes and a network to score them."""

from __future__ import annotations

from itertools import product

import torch
from monai.transforms import SpatialPad
from torch import nn

CLOSE = {"rtol": 0, "atol": 1e-5, "equal_nan": True}
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


class Scorer(nn.Module):
    """A score that depends on the place of every voxel and channel in the patch; ``kind`` is "patch" or "voxel"."""

    def __init__(self, kind, patch_size, spatial_dims, in_channels=2):
        super().__init__()
        self.kind, self.in_channels, self.batches = kind, in_channels, []
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.rand((in_channels,) + (patch_size,) * spatial_dims, generator=generator) - 0.3

    def forward(self, patches):
        assert patches.shape[1:] == self.weight.shape
        self.batches.append(len(patches))
        weighted = patches * self.weight
        if self.kind == "voxel":
            return torch.sin(3 * weighted).sum(dim=1, keepdim=True)
        return torch.sin(weighted.flatten(1).sum(dim=1, keepdim=True))


def made_volume(shape, channels=2, seed=0):
    return torch.rand((1, channels, *shape), generator=torch.Generator().manual_seed(seed)) + 0.1


def odd_mask(shape, seed=0):
    """A few lone voxels and one ragged blob: most patches miss it."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.01
    h, w, d = (size // 2 for size in shape)
    mask[h : h + 2, w:, d] = True
    return mask


def stack_of_slices(volume, where, axis, slices):
    """The slices around a window (all of one thickness) as channels, slice by slice; zeros beyond the border."""
    middle, stack = where[axis].start, []
    for number in range(middle - slices // 2, middle + slices // 2 + 1):
        there = [*where[:axis], slice(number, number + 1), *where[axis + 1 :]]
        inside = 0 <= number < volume.shape[1 + axis]
        stack.append(volume[(slice(None), *there)] if inside else torch.zeros_like(volume[(slice(None), *where)]))
    return torch.cat(stack).squeeze(1 + axis)


def loop_over_patches(volume, mask, network, patch_size, stride, spatial_dims, plane, slices=1, exclude=None):
    """Mean of the covering patches' scores, one patch at a time; volume (C, H, W, D), mask (H, W, D)."""
    window = [patch_size] * 3
    if spatial_dims == 2:
        window[AXES[plane]] = 1
    padded = SpatialPad([max(w, s) for w, s in zip(window, mask.shape, strict=True)])
    exclude = torch.zeros_like(mask) if exclude is None else exclude
    volume, mask, exclude, inside = (
        padded(x).as_tensor() for x in (volume, mask[None], exclude[None], torch.ones_like(mask)[None])
    )
    sums, counts = torch.zeros(mask.shape[1:]), torch.zeros(mask.shape[1:])
    steps = [stride if w == patch_size else 1 for w in window]
    axes = [
        [slice(start, start + w) for start in [*range(0, size - w, step), size - w]]
        for size, w, step in zip(mask.shape[1:], window, steps, strict=True)
    ]
    for where in product(*axes):
        if not mask[0][where].any():
            continue
        patch, lesion = volume[(slice(None), *where)], exclude[(slice(None), *where)]
        if spatial_dims == 2:
            patch, lesion = (stack_of_slices(x, where, AXES[plane], slices) for x in (volume, exclude))
        if lesion.any():
            continue
        score = network(patch[None])[0]
        if score.ndim > 1:
            score = score[0].unsqueeze(AXES[plane]) if spatial_dims == 2 else score[0]
        sums[where] += score
        counts[where] += 1
    heatmap = torch.where(counts > 0, sums / counts, torch.nan)
    return heatmap[inside[0] > 0].view(tuple(inside[0].sum(dim=d).max() for d in range(3)))

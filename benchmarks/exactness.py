"""Exactness: our heatmap against one patch at a time, on odd sizes and ragged masks."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.networks import made_detector
from benchmarks.tables import Section, Table, at_most, number
from benchmarks.timing import Run, say
from benchmarks.ways import largest_difference, made_volume, naive_loop
from medanomaly.patches import PatchScoreInferer, PatchSpec

# (patch_size, spatial_dims, stride, planes, volume)
SETTINGS = [
    (16, 2, 4, ("axial",), (37, 29, 3)),
    (16, 2, 3, ("coronal",), (41, 3, 27)),
    (32, 2, 7, ("sagittal",), (2, 53, 45)),
    (16, 2, 5, ("axial", "coronal", "sagittal"), (23, 19, 21)),
    (16, 3, 5, ("axial",), (27, 21, 25)),
]


def ragged_mask(shape: tuple[int, ...]) -> Tensor:
    """Lone voxels and one blob: most patches miss it, some voxels have no score."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.002
    h, w, d = (size // 2 for size in shape)
    mask[h : h + 5, w:, d] = True
    return mask.float()[None, None]


def run(settings: Run) -> Section:
    """The largest difference over all settings, and the gate on it."""
    rows, differences = [], []
    for patch_size, spatial_dims, stride, planes, shape in SETTINGS:
        say(f"[exactness] {patch_size} px, {spatial_dims}-D, {len(planes)} plane(s)")
        network = made_detector(patch_size, spatial_dims)
        volume, mask = made_volume(shape), ragged_mask(shape)
        each = [naive_loop(volume, network, patch_size, stride, spatial_dims, mask, plane) for plane in planes]
        expected = torch.nanmean(torch.stack(each), dim=0)
        network.to(settings.device)
        found = PatchScoreInferer(PatchSpec(patch_size, spatial_dims, planes, stride))(volume, network, mask=mask)
        differences.append(largest_difference(expected, found))
        what = f"{patch_size} px, {spatial_dims}-D, stride {stride}" + (f", {', '.join(planes)}" * (spatial_dims == 2))
        mean = number(float(found.nanmean()))
        rows.append((what, " x ".join(map(str, shape)), mean, number(differences[-1])))
    table = Table("Exactness", ("patches", "volume", "mean score", "largest difference to one patch at a time"), rows)
    gate = at_most("exactness: largest difference to brute force, fp32", 1e-5, max(differences), "")
    return Section(tables=[table], gates=[gate], raw={"differences": differences})

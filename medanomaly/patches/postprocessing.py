"""What may be done to a heatmap between scoring and reading it: named, chosen, and never hidden in a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import area_opening, local_maxima
from torch import Tensor

from medanomaly.errors import ConfigError, InputError
from medanomaly.patches.layout import plain, regions_of

Mask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
Step = Callable[[Floats, Mask], Floats]

AT_ONCE = 2**20  # neighbours of growing components that are worked on at a time: what suits a CPU's cache
MOST_GROWN = 200  # voxels of the largest component that is grown from its peak: beyond, growing would take longer
AROUND = np.ones((3, 3, 3), bool)


class Postprocessed(Inferer):
    """An inferer and the steps that follow it, called like the inferer: normals and patients go the same way.

    Args:
        inferer: volumes (B, C, H, W, D) to heatmaps (B, 1, H, W, D).
        steps: each takes a heatmap (H, W, D), NaN where there is no score, and the brain (H, W, D), and gives a heatmap
            on the same grid.
    """

    def __init__(self, inferer: Callable[..., Tensor], steps: Sequence[Step]) -> None:
        super().__init__()
        self.inferer, self.steps = inferer, tuple(steps)

    @property
    def names(self) -> list[str]:
        """The steps and their settings, in order, for reports."""
        return [repr(step) for step in self.steps]

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor] | None = None,
        *args: Any,
        mask: Tensor | None = None,
        exclude: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Score volumes, then take every step.

        Args:
            inputs: (B, C, H, W, D).
            network: as the inferer takes it.
            mask: brain (B, 1, H, W, D); if not given, the voxels that are not 0 in some channel.
            exclude: (B, 1, H, W, D), as the inferer takes it.

        Returns:
            (B, 1, H, W, D) float32 on the CPU; NaN wherever the inferer gave NaN.

        Raises:
            ConfigError: if a step changes the shape of a heatmap.
        """
        heatmaps = plain(self.inferer(inputs, network, *args, mask=mask, exclude=exclude, **kwargs)).cpu()
        masks = regions_of(inputs, mask)
        maps = [self._step(h[0].numpy(), b[0].numpy()) for h, b in zip(heatmaps, masks.cpu(), strict=True)]
        return torch.as_tensor(np.stack(maps)[:, None], dtype=torch.float32)

    def _step(self, heatmap: Floats, brain: Mask) -> Floats:
        missing = np.isnan(heatmap)
        for step in self.steps:
            stepped = step(heatmap, brain)
            if stepped.shape != brain.shape:
                raise ConfigError(
                    f"{step!r} gave a heatmap of shape {stepped.shape}, but a step keeps the grid {brain.shape}."
                )
            heatmap = np.where(missing, np.nan, stepped)
        return heatmap


@dataclass(frozen=True)
class Median:
    """Median of a cube of ``size`` voxels a side.

    Only scored brain voxels count: the others are first filled with the value of the nearest that does.
    """

    size: int = 3

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 != 1:
            raise ConfigError(f"the median's size is {self.size}, but an odd number of voxels is needed: 3, 5, ...")

    def __call__(self, heatmap: Floats, brain: Mask) -> Floats:
        """``heatmap`` and ``brain`` (H, W, D) to (H, W, D)."""
        scored = brain & np.isfinite(heatmap)
        if not scored.any():
            return heatmap
        nearest = ndimage.distance_transform_edt(~scored, return_distances=False, return_indices=True)
        filled = ndimage.median_filter(heatmap[tuple(nearest)], self.size, mode="nearest")
        return np.where(np.isnan(heatmap), np.nan, filled).astype(heatmap.dtype)


@dataclass(frozen=True)
class EdgeWeight:
    """Score times min(depth / ``width_mm``, 1): what lies at the brain's edge, where partial volume is, counts less.

    Depth is the distance in mm to the nearest voxel outside the brain; what lies beyond the volume is outside. So the
    mask must be a brain: the cut face of a part of one counts as an edge.
    """

    width_mm: float = 3.0
    spacing: Sequence[float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not self.width_mm > 0:
            raise ConfigError(f"the edge is {self.width_mm} mm wide, but more than 0 mm is needed.")
        _check_spacing(self.spacing)

    def __call__(self, heatmap: Floats, brain: Mask) -> Floats:
        """``heatmap`` and ``brain`` (H, W, D) to (H, W, D), 0 outside the brain.

        Raises:
            InputError: if a score is below 0, which a weight would raise.
        """
        lowest = np.min(heatmap, where=brain & np.isfinite(heatmap), initial=0)
        if lowest < 0:
            raise InputError(
                f"the lowest score in the brain is {lowest:.3g}, but the edge weight needs scores of at least 0: use a "
                "detector with residual or fusion scores, or leave the edge weight out."
            )
        depth = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=self.spacing)[1:-1, 1:-1, 1:-1]
        return np.asarray(heatmap * np.minimum(depth / self.width_mm, 1).astype(heatmap.dtype))


@dataclass(frozen=True)
class MinimumComponent:
    """At every threshold, what is above it and smaller than ``size_mm3`` vanishes: a grey-scale area opening.

    A peak is cut down to the highest score at which it belongs to a 26-connected component of at least that size, so no
    threshold is needed, and all other voxels keep their exact score (Vincent 1993, "Grayscale area openings and
    closings"). Only scored brain voxels count. Small components are grown from the peaks, highest neighbour first: the
    same as ``skimage.morphology.area_opening``, whose tree of the whole volume takes most of a minute for a brain.
    """

    size_mm3: float = 10.0
    spacing: Sequence[float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not self.size_mm3 > 0:
            raise ConfigError(f"the smallest component is {self.size_mm3} mm3, but more than 0 mm3 is needed.")
        _check_spacing(self.spacing)

    def __call__(self, heatmap: Floats, brain: Mask) -> Floats:
        """``heatmap`` and ``brain`` (H, W, D) to (H, W, D); the lowest score in the brain outside it."""
        scored = brain & np.isfinite(heatmap)
        n_voxels = int(np.ceil(self.size_mm3 / np.prod(self.spacing) - 1e-9))
        if not scored.any() or n_voxels == 1:
            return heatmap
        lowest, n_voxels = heatmap[scored].min(), min(n_voxels, heatmap.size)
        if n_voxels > MOST_GROWN:
            filled = np.where(scored, heatmap, lowest)
            opened = area_opening(filled, n_voxels, connectivity=3)  # type: ignore[no-untyped-call]
        else:
            values = np.pad(np.where(scored, heatmap, -np.inf), 1, constant_values=-np.inf)  # no index leaves it
            opened = np.maximum(_opened_from_peaks(values, n_voxels)[1:-1, 1:-1, 1:-1], lowest)
        return np.where(np.isnan(heatmap), np.nan, opened).astype(heatmap.dtype)


def _opened_from_peaks(values: Floats, n_voxels: int) -> Floats:
    """Area opening of ``values`` (H, W, D), whose outermost voxels are -inf."""
    opened: Floats = values.copy()
    peaks, _ = ndimage.label(local_maxima(values, connectivity=3), AROUND)  # type: ignore[no-untyped-call]
    seeds = np.unique(peaks, return_index=True)[1][1:]  # one voxel of each
    steps = [np.dot(step, values.strides) // values.itemsize for step in product((-1, 0, 1), repeat=3) if any(step)]
    for some in np.array_split(seeds, -(-len(seeds) * len(steps) * n_voxels // AT_ONCE)):
        _cut_down(values.ravel(), opened.ravel(), some, np.array(steps), n_voxels)
    return opened


def _cut_down(
    values: Floats, opened: Floats, seeds: NDArray[np.int64], offsets: NDArray[np.int64], n_voxels: int
) -> None:
    """Lower ``opened`` (V,) where the component of a seed (N,) is smaller than ``n_voxels``.

    Each component takes its highest neighbour. When that is below all that it has, the component is complete at its
    level: what it has then is cut down to the level at which it reaches its size.
    """
    width = len(offsets)
    members = np.zeros((len(seeds), n_voxels), np.int64)
    around = np.zeros((len(seeds), width * n_voxels), np.int64)
    height = np.full(around.shape, -np.inf, values.dtype)
    members[:, 0], level = seeds, values[seeds]
    first, highest = level.copy(), level.copy()
    complete = np.zeros(len(seeds), np.int64)  # members at the last drop
    for count in range(1, n_voxels):
        new = slice(width * (count - 1), width * count)
        around[:, new] = members[:, count - 1, None] + offsets
        known = (around[:, new, None] == members[:, None, :count]).any(axis=2)
        height[:, new] = np.where(known, -np.inf, values[around[:, new]])
        best = height[:, : new.stop].argmax(axis=1)
        rows = np.arange(len(best))
        members[:, count], value = around[rows, best], height[rows, best]
        height[:, : new.stop][around[:, : new.stop] == members[:, count, None]] = -np.inf
        drops = value < level
        complete[drops], level[drops] = count, value[drops]
        kept = ~(drops & (highest > first))  # a component with a higher peak is that peak's to cut down
        highest = np.maximum(highest, value)
        if not kept.all():
            members, around, height, level = members[kept], around[kept], height[kept], level[kept]
            first, highest, complete = first[kept], highest[kept], complete[kept]
    above = np.arange(n_voxels) < complete[:, None]
    opened[members[above]] = np.broadcast_to(level[:, None], above.shape)[above]


def _check_spacing(spacing: Sequence[float]) -> None:
    if len(spacing) != 3 or not all(s > 0 for s in spacing):
        raise ConfigError(f"spacing is {tuple(spacing)}, but three voxel sizes in mm above 0 are needed.")

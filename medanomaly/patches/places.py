"""Scores relative to what normal people show at the same place: where choroid plexus lies, bright is normal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medanomaly.data.writing import written_whole
from medanomaly.errors import InputError
from medanomaly.patches.layout import plain, regions_of
from medanomaly.terminal import progress

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

CELLS = (24, 28, 24)  # of the box of the brain, from left to right, back to front, low to high: about 6 mm
SMOOTH = 1.0  # cells, of the Gaussian over the table: people's anatomy differs by about as much
PRIOR_VOXELS = 20.0  # of the whole brain, that each cell is joined with: a cell that few voxels fill says little


class RelativeToPlace(Inferer):
    """An inferer whose scores are (score - mean) / spread of normal people at that place; called like the inferer.

    A place is where a voxel lies in the box of the brain, in parts of its sides, so nothing is registered. What people
    show there was tabulated by :func:`fit_places`, for each sign of the detector.

    Args:
        inferer: volumes (B, C, H, W, D), in RAS, to heatmaps (B, 1, H, W, D).
        file: that :func:`fit_places` wrote, read when the first volume is scored; None leaves scores as they are.
    """

    def __init__(self, inferer: Callable[..., Tensor], file: str | Path | None) -> None:
        super().__init__()
        self.inferer, self.file = inferer, None if file is None else Path(file)
        self._tables: dict[str, Floats] | None = None

    def __call__(
        self, inputs: Tensor, network: Any = None, *args: Any, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Scores (B, 1, H, W, D) float32 on the CPU; NaN wherever the inferer gave NaN.

        Raises:
            InputError: if there is no table, or none for the detector's sign.
        """
        heatmaps = self.inferer(inputs, network, *args, mask=mask, **kwargs)
        if self.file is None:
            return heatmaps
        heatmaps = plain(heatmaps).cpu()
        masks = regions_of(inputs, mask)
        table = self._table(str(getattr(network, "sign", "both")))
        maps = [relative(h[0].numpy(), b[0].numpy(), table) for h, b in zip(heatmaps, masks.cpu(), strict=True)]
        return torch.from_numpy(np.stack(maps)[:, None])

    def _table(self, sign: str) -> Floats:
        assert self.file is not None
        if self._tables is None:
            if not self.file.exists():
                raise InputError(f"there is no {self.file}: train again with places=true, or score without it.")
            with np.load(self.file) as found:
                self._tables = {name: found[name] for name in found.files}
        if sign not in self._tables:
            raise InputError(f"{self.file} has no table for the sign {sign!r}, but for {', '.join(self._tables)}.")
        return self._tables[sign]


def fit_places(
    dataset: Sequence[Mapping[str, Any]],
    inferer: Callable[..., Tensor],
    network: Any,
    file: str | Path,
    signs: Sequence[str] = ("both", "bright", "dark"),
) -> None:
    """Score normal cases with each sign that the detector has, and write what they show at each place to ``file``.

    Args:
        dataset: prepared cases in RAS with ``image`` and ``region``; what touches a ``label`` is left out.
        inferer: without :class:`RelativeToPlace` around it.
        network: the trained detector.
        file: a NumPy archive, ``places.npz``, with an array for each sign.
        signs: that a table is wanted of.
    """
    asked, tables = network.sign, {}
    for sign in signs if network.signed else ("both",):
        network.set_sign(sign)
        tables[sign] = tabulated(_heatmaps(dataset, inferer, network, sign))
    network.set_sign(asked)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **tables)  # type: ignore[arg-type]


def _heatmaps(
    dataset: Sequence[Mapping[str, Any]], inferer: Callable[..., Tensor], network: Any, sign: str
) -> Iterable[tuple[Floats, Mask]]:
    for number in progress(range(len(dataset)), f"what is normal where, {sign}"):
        case = dataset[number]
        image, region = plain(case["image"]), plain(case["region"])
        label = case.get("label")
        lesions = {} if label is None else {"exclude": plain(label)[None]}
        yield inferer(image[None], network, mask=region[None], **lesions)[0, 0].numpy(), region[0].numpy() > 0


def tabulated(heatmaps: Iterable[tuple[Floats, Mask]]) -> Floats:
    """Mean and spread (standard deviation) of scores at each place, (2, *CELLS), from heatmaps and brains (H, W, D)."""
    sums = np.zeros((3, *CELLS))  # of 1, score and its square
    for heatmap, brain in heatmaps:
        scored = brain & np.isfinite(heatmap)
        cells = tuple(np.floor(places_of(brain, scored) + 0.5).astype(np.intp))
        values = heatmap[scored].astype(np.float64)
        for row, weights in zip(sums, (np.ones_like(values), values, values**2), strict=True):
            np.add.at(row, cells, weights)
    if not sums[0].any():
        raise InputError("no normal voxel was scored: what is normal where cannot be said.")
    whole = sums.sum(axis=(1, 2, 3), keepdims=True) / sums[0].sum()
    near = np.stack([ndimage.gaussian_filter(row, SMOOTH, mode="nearest") for row in sums])
    count, total, squares = near + PRIOR_VOXELS * whole
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return np.stack([mean, spread]).astype(np.float32)


def relative(heatmap: Floats, brain: Mask, table: Floats) -> Floats:
    """(score - mean) / spread of a heatmap (H, W, D) in RAS, with the ``table`` (2, *CELLS) taken linearly."""
    scored = np.isfinite(heatmap)
    result = np.full(heatmap.shape, np.nan, np.float32)
    if scored.any():
        places = places_of(brain if brain.any() else scored, scored)
        mean, spread = (ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in table)
        result[scored] = (heatmap[scored] - mean) / spread
    return result


def places_of(brain: Mask, voxels: Mask) -> Floats:
    """Where voxels (N of them) lie in the box of a brain, in cells from 0 to CELLS - 1 along each axis: (3, N)."""
    inside, there = np.argwhere(brain), np.argwhere(voxels)
    low, high = inside.min(axis=0), inside.max(axis=0)
    part = np.clip((there - low) / np.maximum(high - low, 1), 0, 1)
    return np.asarray((part * (np.array(CELLS) - 1)).T)

"""Where the patches of a volume lie, which of them touch the region, and how their scores go back to voxels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from medanomaly.errors import ConfigError
from medanomaly.patches.spec import PLANES


def slice_axis_first(volume: Tensor, plane: str | None) -> Tensor:
    """View of ``volume`` (C, H, W, D) in RAS with the normal of ``plane`` as first spatial axis; None moves nothing."""
    return volume if plane is None else volume.movedim(1 + PLANES[plane], 1)


class PatchGrid:
    """The regular grid of windows over a volume; the last window of each axis snaps to the border.

    The positions are those of ``monai.inferers.sliding_window_inference`` with ``overlap = 1 - stride / window``.

    Args:
        image_size: (S0, S1, S2) of the volume, in voxels.
        window: (w0, w1, w2) of a patch, in voxels; nowhere larger than the volume.
        stride: steps between patches, in voxels.

    Raises:
        ConfigError: if the volume is smaller than the window along an axis.

    Examples:
        >>> grid = PatchGrid((3, 20, 22), window=(1, 16, 16), stride=(1, 4, 4))
        >>> grid.shape, len(grid)
        ((3, 2, 3), 18)
        >>> grid.starts[2].tolist()  # the last patch snaps to the border
        [0, 4, 6]
    """

    def __init__(self, image_size: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> None:
        self.image_size, self.window, self.stride = tuple(image_size), tuple(window), tuple(stride)
        if any(s < w for s, w in zip(self.image_size, self.window, strict=True)):
            raise ConfigError(
                f"a volume of {self.image_size} voxels holds no patch of {self.window}: pad it or use smaller patches."
            )
        self.starts = tuple(
            torch.arange(ceil((size - w) / step) + 1).mul_(step).clamp_(max=size - w)
            for size, w, step in zip(self.image_size, self.window, self.stride, strict=True)
        )
        self.shape = tuple(len(start) for start in self.starts)

    def __len__(self) -> int:
        return prod(self.shape)

    def slabs(self, max_voxels: int) -> Iterator[tuple[slice, PatchGrid]]:
        """The grid in pieces along the first axis: each patch is in one piece, with all of its voxels.

        Args:
            max_voxels: of a piece; a piece holds at least one position, however large its patches are.

        Yields:
            The rows of the volume that a piece covers (those of neighbours overlap where patches do), and its grid.
        """
        starts, w = self.starts[0], self.window[0]
        rows = max(max_voxels // prod(self.image_size[1:]), w)
        first = 0
        while first < len(starts):
            last = int(torch.searchsorted(starts, starts[first] + rows - w, right=True))
            begin, end = int(starts[first]), int(starts[last - 1]) + w
            piece = copy.copy(self)
            piece.image_size = (end - begin, *self.image_size[1:])
            piece.starts = (starts[first:last] - begin, *self.starts[1:])
            piece.shape = (last - first, *self.shape[1:])
            yield slice(begin, end), piece
            first = last

    def to(self, device: torch.device | str) -> PatchGrid:
        """The same grid for :meth:`gather` and :meth:`voxels` on ``device``, without a copy to it at each call."""
        there = copy.copy(self)
        there.starts = tuple(start.to(device) for start in self.starts)
        return there

    def touching(self, mask: Tensor, min_fraction: float = 0.0) -> Tensor:
        """Which patches hold a voxel of ``mask`` (S0, S1, S2), or that share of voxels: boolean (n0, n1, n2)."""
        counts = torch.as_tensor(mask, dtype=torch.bool).float()  # exact: counts stay far below 2^24
        for axis in range(3):
            counts = self._product(counts, axis, contract=1)
        return counts >= max(min_fraction * prod(self.window), 0.5)

    def gather(self, volume: Tensor, index: Tensor, slices: int = 1, before: int = 0) -> Tensor:
        """The patches with flat grid positions ``index`` (N,) of a volume (C, S0, S1, S2): (N, C, w0, w1, w2).

        Args:
            volume: where the patches lie.
            index: which patches.
            slices: of windows of one slice, how many neighbouring slices to take, with the window's own in the middle:
                (N, C, slices, w1, w2). Slices outside the volume are zeros.
            before: rows that ``volume`` has before the first row of the grid, to take neighbours from; it may have some
                behind the last one, too.
        """
        windows = volume
        for axis, w in enumerate(self.window):
            windows = windows.unfold(1 + axis, w, 1)
        i, j, k = self._starts_of(index)
        if slices == 1:
            return windows[:, i + before if before else i, j, k].transpose(0, 1).contiguous()
        rows = i[:, None] + torch.arange(before - slices // 2, before + slices // 2 + 1, device=index.device)
        outside = (rows < 0) | (rows >= volume.shape[1])
        stacks = windows[:, rows.clamp(0, volume.shape[1] - 1), j[:, None], k[:, None]].squeeze(3)
        return stacks.transpose(0, 1).masked_fill_(outside[:, None, :, None, None], 0.0).contiguous()

    def sum_of_covering(self, scores: Tensor) -> Tensor:
        """For each voxel, the sum of the numbers (n0, n1, n2) of the patches that cover it: (S0, S1, S2).

        In float64; of booleans it is their count, in float32.

        The sum is separable: each axis is one product with a 0/1 cover matrix (positions x voxels), so no loop over
        patches is needed, and snapped windows cost nothing extra.
        """
        sums = scores.float() if scores.dtype == torch.bool else scores.double()
        for axis in range(3):
            sums = self._product(sums, axis, contract=0)
        return sums

    def voxels(self, index: Tensor) -> Tensor:
        """The flat voxel numbers of the patches with flat grid positions ``index`` (N,): (N, w0 * w1 * w2)."""
        _, s1, s2 = self.image_size
        i, j, k = self._starts_of(index)
        x, y, z = (torch.arange(w, device=index.device) for w in self.window)
        offsets = ((x[:, None, None] * s1 + y[:, None]) * s2 + z).flatten()
        first: Tensor = (i * s1 + j) * s2 + k
        return first[:, None] + offsets

    def _starts_of(self, index: Tensor) -> list[Tensor]:
        """The first voxel along each axis of the patches ``index`` (N,)."""
        _, n1, n2 = self.shape
        row = index.div(n2, rounding_mode="floor")  # by hand: torch.unravel_index takes as long as the whole gather
        places = (row.div(n1, rounding_mode="floor"), row % n1, index % n2)
        return [start[n] for start, n in zip(self.starts, places, strict=True)]

    def _product(self, values: Tensor, axis: int, contract: int) -> Tensor:
        """``values`` times the cover matrix (positions, voxels) of ``axis``, summed over the first or the second."""
        if self.window[axis] == 1 and self.stride[axis] == 1:
            return values
        offset = torch.arange(self.image_size[axis]) - self.starts[axis][:, None]
        cover = ((offset >= 0) & (offset < self.window[axis])).to(values.dtype)
        product: Tensor = torch.tensordot(values, cover, dims=([axis], [contract]))
        return product.movedim(-1, axis)


def near(touching: Tensor, slices: int) -> Tensor:
    """Which patches (n0, n1, n2) touch something in any of the ``slices`` slices that they carry (see ``gather``)."""
    found = touching.clone()
    for step in range(1, min(slices // 2, len(touching) - 1) + 1):
        found[step:] |= touching[:-step]
        found[:-step] |= touching[step:]
    return found


def every(size: int, step: int) -> Tensor:
    """The first of ``size`` rows, every ``step`` after it, and the last: (n,).

    >>> every(8, 3).tolist()
    [0, 3, 6, 7]
    """
    rows = torch.arange(0, size, step)
    return rows if rows[-1] == size - 1 else torch.cat([rows, torch.tensor([size - 1])])


def gathered(mask: Tensor, rows: Tensor) -> Tensor:
    """For each of ``rows``, where ``mask`` (1, S0, S1, S2) has a voxel nearer than the next of them: (1, n, S1, S2)."""
    ends = rows.tolist()
    around = zip([ends[0], *(row + 1 for row in ends[:-1])], [*ends[1:], ends[-1] + 1], strict=True)
    return torch.stack([(mask[:, low:high] > 0).any(dim=1) for low, high in around], dim=1)


def between(scores: Tensor, rows: Tensor, size: int) -> Tensor:
    """Scores (C, n, S1, S2) of ``rows``, linear between them: (C, size, S1, S2). Beside a NaN, the other alone."""
    place = torch.arange(size)
    above = torch.searchsorted(rows, place)
    below = (above - (rows[above] != place).long()).clamp(min=0)
    step = (rows[above] - rows[below]).clamp(min=1)
    share = ((place - rows[below]) / step)[:, None, None]
    low, high = scores[:, below], scores[:, above]
    mean = torch.where(share == 0, low, torch.where(share == 1, high, (1 - share) * low + share * high))
    return torch.where(mean.isnan(), torch.where(low.isnan(), high, low), mean)


def pad_to_window(volume: Tensor, window: Sequence[int]) -> Tensor:
    """Zeros around a volume (C, S0, S1, S2) that is smaller than the window, as sliding_window_inference pads."""
    pads: list[int] = []
    for size, w in zip(reversed(volume.shape[1:]), reversed(window), strict=True):
        missing = max(w - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(volume, pads) if any(pads) else volume

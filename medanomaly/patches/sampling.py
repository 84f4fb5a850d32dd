"""Training patches: drawn at random from the brain, free of lesion, as one vectorised gather a case and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medanomaly.errors import ConfigError, InputError
from medanomaly.patches.grid import (
    PatchGrid,
    channels_last,
    pad_to_window,
    patch_window,
    plain,
    planes_of,
    slice_axis_first,
)


@dataclass(frozen=True)
class _Source:
    """One case in one plane: a volume (C, S0, S1, S2), its dense grid, and the flat positions that may be drawn."""

    volume: Tensor
    grid: PatchGrid
    positions: Tensor
    left_right: int | None  # the axis of its patches (B, C, ...) that runs from left to right


class PatchSampler:
    """Batches (B, C, p, p[, p]) of normal patches; an epoch is one pass.

    Every patch that holds brain is equally likely within a case, which is what scoring visits later, and every case is
    equally likely. A patch that holds a voxel of ``label`` is never drawn. The volumes are prepared once, at the first
    draw, and kept as plain tensors.

    The patches of an epoch depend on ``seed`` and the epoch alone, so training can be resumed exactly.

    Args:
        dataset: prepared cases with ``image`` (C, H, W, D), ``brain`` (1, H, W, D) and, maybe, ``label``.
        patch_size: voxels a side.
        spatial_dims: 2 for slices' patches, 3 for cubes.
        planes: for 2-D, the planes to cut, drawn equally often: "axial", "coronal", "sagittal".
        batch_size: patches a batch; each batch is full.
        patches_per_epoch: the epoch's subset, redrawn for each epoch (paper 003 draws 4,200).
        min_brain_fraction: least share of a patch's voxels that must be brain; 0 asks for one voxel.
        flip: mirror half of the patches left to right (where that axis lies in the plane).
        seed: of the draw.

    Raises:
        InputError: at the first draw, if the dataset is empty or a case has no patch to draw.
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        patch_size: int = 16,
        spatial_dims: int = 2,
        planes: Sequence[str] = ("axial",),
        batch_size: int = 128,
        patches_per_epoch: int = 4200,
        min_brain_fraction: float = 0.0,
        flip: bool = True,
        seed: int = 0,
    ) -> None:
        if patches_per_epoch < batch_size:
            raise ConfigError(f"patches_per_epoch={patches_per_epoch} must be at least batch_size={batch_size}.")
        self.dataset, self.batch_size, self.patches_per_epoch = dataset, batch_size, patches_per_epoch
        self.patch_size, self.spatial_dims = patch_size, spatial_dims
        self.window, self.stride = patch_window(patch_size, 1, spatial_dims)
        self.planes = planes_of(planes, spatial_dims)
        self.min_brain_fraction, self.flip, self.seed = min_brain_fraction, flip, seed
        self.epoch = 0
        self._sources: list[_Source] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches the next pass draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches_per_epoch // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        patches = self.draw(len(self) * self.batch_size)
        yield from (channels_last(batch) for batch in torch.split(patches, self.batch_size))

    def draw(self, n: int) -> Tensor:
        """``n`` patches of the current epoch, shuffled: (n, C, p, p[, p])."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self._sources is None:
            self._sources = self._prepare()
        chosen = torch.randint(len(self._sources), (n,), generator=generator)
        patches = []
        for number, source in enumerate(self._sources):
            count = int((chosen == number).sum())
            picks = torch.randint(len(source.positions), (count,), generator=generator)
            patches.append(self._cut(source, source.positions[picks].long(), generator))
        return torch.cat(patches)[torch.randperm(n, generator=generator)]

    def _cut(self, source: _Source, positions: Tensor, generator: torch.Generator) -> Tensor:
        patches = source.grid.gather(source.volume, positions)
        if self.spatial_dims == 2:
            patches = patches.squeeze(2)
        if self.flip and source.left_right is not None:
            mirrored = torch.rand(len(patches), generator=generator) < 0.5
            patches[mirrored] = patches[mirrored].flip(source.left_right)
        return patches

    def _prepare(self) -> list[_Source]:
        if len(self.dataset) == 0:
            raise InputError(
                "there are no training cases: set dataset_dir (or datalist) to a cohort with a 'training' list."
            )
        cases = (self.dataset[number] for number in range(len(self.dataset)))
        return [self._prepare_plane(case, plane) for case in cases for plane in self.planes]

    def _prepare_plane(self, case: Mapping[str, Any], plane: str | None) -> _Source:
        volume, brain, label = (
            None if case.get(key) is None else pad_to_window(slice_axis_first(plain(case[key]), plane), self.window)
            for key in ("image", "brain", "label")
        )
        assert volume is not None and brain is not None
        grid = PatchGrid(brain.shape[1:], self.window, self.stride)
        allowed = grid.touching(brain[0] > 0, self.min_brain_fraction)
        if label is not None:
            allowed &= ~grid.touching(label[0] > 0)
        positions = torch.nonzero(allowed.flatten())[:, 0].int()
        if len(positions) == 0:
            raise InputError(
                f"the case {case.get('case', '?')} has no patch of {self.patch_size} voxels in the brain that is free "
                "of lesion: use smaller patches, a finer spacing, or leave the case out."
            )
        # RAS axis 0 runs from left to right: the first of a cube's or patch's axes, but across sagittal slices
        left_right = None if plane == "sagittal" else 2
        return _Source(volume.contiguous(), grid, positions, left_right)

"""Training patches: drawn at random from the brain, free of lesion, by vectorised gathers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from medanomaly.errors import ConfigError, InputError, check_count
from medanomaly.patches.grid import PatchGrid, pad_to_window, slice_axis_first
from medanomaly.patches.layout import channels_last, plain
from medanomaly.patches.spec import PatchSpec

VOXELS_AT_ONCE = 2**25  # cut in one go: many batches of small patches, few of large cubes


@dataclass(frozen=True)
class _Source:
    """One case in one plane: a volume (C, S0, S1, S2), its dense grid, and the flat positions that may be drawn."""

    volume: Tensor
    grid: PatchGrid
    positions: Tensor
    has_left_right: bool  # whether the first axis of its patches, as the network sees them, runs from left to right


class PatchSampler:
    """Batches (B, C, p, p[, p]) of normal patches; an epoch is one pass.

    Every patch that holds brain is equally likely within a case, which is what scoring visits later, and every case is
    equally likely. A patch that holds a voxel of ``label`` is never drawn. The volumes are prepared once, at the first
    draw, and kept as plain tensors, on the GPU if ``device`` is one; there, patches are cut on the GPU.

    The patches of an epoch depend on ``seed`` and the epoch alone, so training can be resumed exactly.

    Args:
        dataset: prepared cases with ``image`` (C, H, W, D), ``brain`` (1, H, W, D) and, maybe, ``label``.
        spec: what a patch is; its planes are drawn equally often.
        batch_size: patches a batch; each batch is full.
        patches_per_epoch: the epoch's subset, redrawn for each epoch (Madzia-Madzou & Kuijf draws 4,200).
        min_region_fraction: least share of a patch's voxels that must be brain; 0 asks for one voxel.
        flip: mirror half of the patches left to right (where that axis lies in the plane).
        seed: of the draw.
        device: where the volumes are kept and patches are cut.

    Raises:
        ConfigError: if a number or a plane cannot work.
        InputError: at the first draw, if the dataset is empty or a case has no patch to draw.
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        spec: PatchSpec = PatchSpec(),
        batch_size: int = 128,
        patches_per_epoch: int = 4200,
        min_region_fraction: float = 0.0,
        flip: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("patches_per_epoch", patches_per_epoch)
        if patches_per_epoch < batch_size:
            raise ConfigError(f"patches_per_epoch={patches_per_epoch} must be at least batch_size={batch_size}.")
        self.dataset, self.batch_size, self.patches_per_epoch = dataset, batch_size, patches_per_epoch
        self.spec = spec
        self.min_region_fraction, self.flip, self.seed, self.device = min_region_fraction, flip, seed, device
        self.epoch = 0
        self._sources: list[_Source] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches the next pass draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches_per_epoch // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        batches_at_once = max(VOXELS_AT_ONCE // (self.batch_size * prod(self.spec.window)), 1)
        plan = self._plan(len(self) * self.batch_size)
        for part in zip(*(values.split(batches_at_once * self.batch_size) for values in plan), strict=True):
            yield from (channels_last(batch) for batch in self._cut(*part).split(self.batch_size))

    def draw(self, n: int) -> Tensor:
        """``n`` patches of the current epoch, shuffled: (n, C, p, p[, p])."""
        return self._cut(*self._plan(n))

    def _plan(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """The epoch's patches in their order: number of the source, flat position there, mirrored or not; (n,) each."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self._sources is None:
            self._sources = self._prepare()
        chosen = torch.randint(len(self._sources), (n,), generator=generator).sort().values
        positions, mirrored = torch.empty(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
        for number, source in enumerate(self._sources):
            here = chosen == number
            count = int(here.sum())
            picks = torch.randint(len(source.positions), (count,), generator=generator)
            positions[here] = source.positions[picks].long()
            if self.flip and source.has_left_right:
                mirrored[here] = torch.rand(count, generator=generator) < 0.5
        order = torch.randperm(n, generator=generator)
        return chosen[order], positions[order], mirrored[order]

    def _cut(self, chosen: Tensor, positions: Tensor, mirrored: Tensor) -> Tensor:
        """The patches (n, C, p, p[, p]) of a plan; one gather a source."""
        assert self._sources is not None
        channels = len(self._sources[0].volume)
        patches = torch.empty((len(chosen), channels, *self.spec.window), device=self.device)
        for number, source in enumerate(self._sources):
            here = torch.nonzero(chosen == number)[:, 0]
            patches[here.to(self.device)] = source.grid.gather(source.volume, positions[here].to(self.device))
        if self.spec.spatial_dims == 2:
            patches = patches.squeeze(2)
        at = torch.nonzero(mirrored)[:, 0].to(self.device)
        patches[at] = patches[at].flip(2)  # the axis from left to right, wherever there is one
        return patches

    def _prepare(self) -> list[_Source]:
        if len(self.dataset) == 0:
            raise InputError(
                "there are no training cases: set dataset_dir (or datalist) to a cohort with a 'training' list."
            )
        cases = (self.dataset[number] for number in range(len(self.dataset)))
        return [self._prepare_plane(case, plane) for case in cases for plane in self.spec.cuts]

    def _prepare_plane(self, case: Mapping[str, Any], plane: str | None) -> _Source:
        window = self.spec.window
        volume, region, label = (
            None if case.get(key) is None else pad_to_window(slice_axis_first(plain(case[key]), plane), window)
            for key in ("image", "region", "label")
        )
        assert volume is not None and region is not None
        grid = PatchGrid(region.shape[1:], window, (1, 1, 1))
        allowed = grid.touching(region[0] > 0, self.min_region_fraction)
        if label is not None:
            allowed &= ~grid.touching(label[0] > 0)
        positions = torch.nonzero(allowed.flatten())[:, 0].int()
        if len(positions) == 0:
            raise InputError(
                f"the case {case.get('case', '?')} has no patch of {self.spec.patch_size} voxels in the region that is "
                "free of lesion: use smaller patches, a finer spacing, or leave the case out."
            )
        # RAS axis 0 runs from left to right: the first of a cube's or patch's axes, but across sagittal slices
        return _Source(volume.contiguous().to(self.device), grid.to(self.device), positions, plane != "sagittal")

"""Training patches: drawn at random from the region, free of lesion, by vectorised gathers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from medanomaly.errors import ConfigError, InputError, check_count
from medanomaly.patches.grid import PatchGrid, near, pad_to_window, slice_axis_first
from medanomaly.patches.layout import channels_last, for_network, plain
from medanomaly.patches.positions import Positions
from medanomaly.patches.spec import PatchSpec
from medanomaly.patches.volumes import VolumeStore, large_arrays_apart
from medanomaly.preprocessing.arrays import ArrayOnDisk
from medanomaly.preprocessing.case_file import KEPT_IN

VOXELS_AT_ONCE = 2**25  # cut in one go: many batches of small patches, few of large cubes


@dataclass
class _Source:
    """One case in one plane: its number and id, its dense grid, the positions that may be drawn, and where it lies.

    ``volume`` is a tensor (C, S0, S1, S2) or its place on disk; if that is the case's own in the cache, it has the axes
    of the case (C, H, W, D) there.
    """

    number: int
    case: str
    plane: str | None
    grid: PatchGrid
    positions: Positions
    volume: Tensor | ArrayOnDisk
    in_cache: bool = False

    @property
    def has_left_right(self) -> bool:
        """Whether the first axis of its patches, as the network sees them, runs from left to right (RAS axis 0)."""
        return self.plane != "sagittal"


class PatchSampler:
    """Batches (B, C, p, p[, p]) of normal patches; an epoch is one pass.

    Every patch that touches the region is equally likely within a case, which is what scoring visits later, and every
    case is drawn equally often, in each plane: of n patches and s cases and planes, each gives n // s or one more;
    which give one more is random. A patch that holds a voxel of ``label``, in any of its slices, is never drawn. With
    ``spec.slices``, it is the middle slice that touches the region.

    The patches of an epoch depend on ``seed`` and the epoch alone, so training can be resumed exactly.

    A cohort may be larger than memory. The cases are prepared once, at the first draw. As many volumes as fit into
    ``held_bytes`` are held in memory, on the GPU if ``device`` is one, where their patches are cut, too. The others are
    mapped from the cache of prepared cases while they are cut, or, if they do not lie there, from a temporary file in
    ``$TMPDIR`` that the system removes with the process. Of each case, about 0.2 MB a plane are always held (the
    positions that may be drawn). The patches are the same wherever the volumes lie.

    Args:
        dataset: prepared cases with ``image`` (C, H, W, D), ``region`` (1, H, W, D) and, maybe, ``label``.
        spec: what a patch is; its planes are drawn equally often.
        batch_size: patches a batch; each batch is full.
        patches_per_epoch: the epoch's subset, redrawn for each epoch (Madzia-Madzou & Kuijf draws 4,200).
        min_region_fraction: least share of a patch's (middle slice's) voxels in the region; 0 asks for one voxel.
        flip: mirror half of the patches left to right (where that axis lies in the plane).
        seed: of the draw.
        device: where patches are wanted.
        held_bytes: what volumes may take in memory; if not given, 512 MB, and on a GPU a quarter of its memory.

    Raises:
        ConfigError: if a number or a plane cannot work.
        InputError: at the first draw, if the dataset is empty, a case has no patch to draw, or no disk takes the
            volumes that are not held.
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
        held_bytes: float | None = None,
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("patches_per_epoch", patches_per_epoch)
        if patches_per_epoch < batch_size:
            raise ConfigError(f"patches_per_epoch={patches_per_epoch} must be at least batch_size={batch_size}.")
        self.dataset, self.batch_size, self.patches_per_epoch = dataset, batch_size, patches_per_epoch
        self.spec = spec
        self.min_region_fraction, self.flip, self.seed, self.device = min_region_fraction, flip, seed, device
        self.held_bytes = held_bytes
        self.epoch = 0
        self._sources: list[_Source] | None = None
        self._store: VolumeStore | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches the next pass draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches_per_epoch // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        batches_at_once = max(VOXELS_AT_ONCE // (self.batch_size * prod(self._windows())), 1)
        plan = self._plan(len(self) * self.batch_size)
        for part in zip(*(values.split(batches_at_once * self.batch_size) for values in plan), strict=True):
            yield from (channels_last(batch) for batch in self._cut(*part).split(self.batch_size))

    def draw(self, n: int) -> Tensor:
        """``n`` patches of the current epoch, shuffled: (n, C, p, p[, p])."""
        return self._cut(*self._plan(n))

    def _windows(self) -> tuple[int, int, int]:
        """What is cut for a patch: its window, with the slices beside it."""
        return (self.spec.slices, *self.spec.window[1:]) if self.spec.spatial_dims == 2 else self.spec.window

    def _plan(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """The epoch's patches in their order: number of the source, flat position there, mirrored or not; (n,) each."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        sources = self._prepared()
        counts = torch.full((len(sources),), n // len(sources))
        counts[torch.randperm(len(sources), generator=generator)[: n % len(sources)]] += 1
        chosen = torch.arange(len(sources)).repeat_interleave(counts)
        there = torch.tensor([len(source.positions) for source in sources])[chosen]
        picks = (torch.rand(n, generator=generator, dtype=torch.float64) * there).long().minimum(there - 1)
        positions = torch.cat(
            [source.positions[some] for source, some in zip(sources, picks.split(counts.tolist()), strict=True)]
        )
        mirrored = torch.rand(n, generator=generator) < (0.5 if self.flip else 0.0)
        mirrored &= torch.tensor([source.has_left_right for source in sources])[chosen]
        order = torch.randperm(n, generator=generator)
        return chosen[order], positions[order], mirrored[order]

    def _cut(self, chosen: Tensor, positions: Tensor, mirrored: Tensor) -> Tensor:
        """The patches (n, C, p, p[, p]) of a plan; one gather a source."""
        sources = self._prepared()
        patches = torch.empty((len(chosen), sources[0].volume.shape[0], *self._windows()), device=self.device)
        in_order, places = chosen.sort(stable=True)
        numbers, counts = in_order.unique_consecutive(return_counts=True)
        for number, here in zip(numbers.tolist(), places.split(counts.tolist()), strict=True):
            volume = self._opened(sources[number])
            cut = sources[number].grid.gather(volume, positions[here].to(volume.device), self.spec.slices)
            patches[here.to(self.device)] = cut.to(self.device)
        patches = for_network(patches, self.spec.spatial_dims)
        at = torch.nonzero(mirrored)[:, 0].to(self.device)
        patches[at] = patches[at].flip(2)  # the axis from left to right, wherever there is one
        return patches

    def _opened(self, source: _Source) -> Tensor:
        """The volume (C, S0, S1, S2) of a source."""
        if isinstance(source.volume, Tensor):
            return source.volume
        try:
            volume = source.volume.mapped()
        except (OSError, ValueError):
            if not source.in_cache:
                raise
            # another process made room in the cache
            volume = slice_axis_first(plain(self.dataset[source.number]["image"]), source.plane)
            if volume.shape[1:] != source.grid.image_size:
                raise InputError(f"the case {source.case} was changed while it was trained on: train again.") from None
            assert self._store is not None
            source.volume, source.in_cache = self._store.spill(volume), False
            return volume
        return slice_axis_first(volume, source.plane) if source.in_cache else volume

    def _prepared(self) -> list[_Source]:
        if self._sources is None:
            if len(self.dataset) == 0:
                raise InputError(
                    "there are no training cases: set dataset_dir (or datalist) to a cohort with a 'training' list."
                )
            self._store = VolumeStore(self.held_bytes, self.device)
            sources: list[_Source] = []
            with large_arrays_apart():
                for number in range(len(self.dataset)):
                    sources += self._prepare(number, self.dataset[number])
            self._sources = sources
        return self._sources

    def _prepare(self, number: int, case: Mapping[str, Any]) -> list[_Source]:
        """The sources of a case, one a plane."""
        window, name = self.spec.window, str(case.get("case", "?"))
        sources, in_cache, store = [], None, self._store
        assert store is not None
        for plane in self.spec.cuts:
            volume, region, label = (
                None if case.get(key) is None else pad_to_window(slice_axis_first(plain(case[key]), plane), window)
                for key in ("image", "region", "label")
            )
            assert volume is not None and region is not None
            grid = PatchGrid(region.shape[1:], window, (1, 1, 1))
            allowed = grid.touching(region[0] > 0, self.min_region_fraction)
            if label is not None:
                allowed &= ~near(grid.touching(label[0] > 0), self.spec.slices)
            positions = Positions(allowed)
            if len(positions) == 0:
                raise InputError(
                    f"the case {name} has no patch of {self.spec.patch_size} voxels in the region that is free of "
                    "lesion: use smaller patches, a finer spacing, or leave the case out."
                )
            source = _Source(number, name, plane, grid, positions, volume)
            if store.has_room_for(volume):
                source.volume = store.hold(volume)
                source.grid = grid.to(self.device)
            else:
                is_padded = volume.numel() > case["image"].numel()
                in_cache = None if is_padded else in_cache or _in_cache(case["image"])
                source.volume, source.in_cache = in_cache or store.spill(volume), in_cache is not None
            sources.append(source)
        return sources


def _in_cache(image: Tensor) -> ArrayOnDisk | None:
    """Where a prepared image lies in the cache; None if it does not, or was changed since it was read from there."""
    place: ArrayOnDisk | None = getattr(image, KEPT_IN, None)
    try:
        return place if place is not None and torch.equal(place.mapped(), plain(image)) else None
    except (OSError, ValueError):
        return None

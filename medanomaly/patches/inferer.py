"""Volume in, voxel heatmap out: every patch that touches the region is scored, and the scores are stitched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers.inferer import Inferer
from torch import Tensor, nn

from medanomaly.errors import InputError, check_count
from medanomaly.patches.grid import PatchGrid, between, every, gathered, near, pad_to_window, slice_axis_first
from medanomaly.patches.layout import channels_last, device_of, for_network, plain, prepare_network
from medanomaly.patches.spec import PatchSpec
from medanomaly.terminal import bar

SLAB_VOXELS = 2**18  # of a volume that are worked on at a time: bounds the memory, whatever the volume
# of a batch of patches or of cubes: what suits a CPU's cache, what fills a GPU
BATCH_VOXELS = {"cpu": {2: 2**16, 3: 2**18}, "cuda": {2: 2**22, 3: 2**22}}


@dataclass(frozen=True)
class _Scorer:
    """What scores patches: ``score`` gives (N, n_maps), or maps (N, n_maps, p, p[, p]), of patches on ``device``."""

    score: Callable[[Tensor], Tensor]
    device: torch.device
    n_maps: int


class PatchScoreInferer(Inferer):
    """Mean score of the patches that cover each voxel, called like any MONAI inferer: ``inferer(volume, network)``.

    Only patches that touch the region are visited, in batches of fixed size. The result equals a loop over all patches
    and ``monai.inferers.sliding_window_inference`` (Madzia-Madzou & Kuijf, section 2.2.2: overlapping transversal
    patches, stride 4). The volume is worked on in slabs, so that the memory used hardly depends on its size, and may
    stay on the CPU while the network is on a GPU.

    Patches that carry neighbouring slices (``spec.slices``) are visited if their middle slice touches the region, and
    their score belongs to that slice.

    Args:
        spec: what a patch is; the last one of a row snaps to the border, and several planes are averaged.
        batch_size: patches a forward pass; if not given, what suits the device (on a CPU 256 patches of 16 x 16, 64 of
            32 x 32 or of 16 x 16 x 16; more on a GPU).
        amp: run the network in bfloat16 (autocast): faster where the processor has it; scores change in the third
            digit.
        compile: run the network through ``torch.compile``: a slow start, then somewhat faster.
        progress: show a bar.
    """

    def __init__(
        self,
        spec: PatchSpec = PatchSpec(),
        batch_size: int | None = None,
        amp: bool = False,
        compile: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if batch_size is not None:
            check_count("batch_size", batch_size)
        self.spec = spec
        self.batch_size, self.amp, self.compile, self.progress = batch_size, amp, compile, progress
        self._compiled: tuple[Any, Callable[..., Tensor]] | None = None

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        mask: Tensor | None = None,
        exclude: Tensor | None = None,
        signs: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Score volumes.

        Args:
            inputs: (B, C, H, W, D), in RAS if the planes' names are to hold.
            network: patches (N, C * slices, p, p) or (N, C, p, p, p) to scores (N, 1), or to a map (N, 1, p, p[, p]).
                The weights of a module are laid out channels_last, in place; their values stay.
            mask: region (B, 1, H, W, D); if not given, the voxels that are not 0 in some channel.
            exclude: (B, 1, H, W, D); patches that touch it in any of their slices are not visited (lesions, where
                normal tissue is scored).
            signs: a heatmap for each of them, in one pass, of a detector that tells them apart (see
                :meth:`Detector.score_signs`); whatever sign it was set to.

        Returns:
            (B, 1, H, W, D), or (B, len(signs), H, W, D), float32 on the CPU; NaN where no visited patch lies.

        Raises:
            InputError: if ``inputs`` is not 5-D, its channels are not what the network takes, the mask has another
                shape, or a score is not finite.
        """
        if inputs.ndim != 5:
            raise InputError(f"the volume has shape {tuple(inputs.shape)}, but (batch, channel, H, W, D) is needed.")
        channels = inputs.shape[1] * self.spec.slices
        needed = getattr(network, "in_channels", channels)
        if needed != channels:
            stacked = "" if self.spec.slices == 1 else f", {channels} in patches of {self.spec.slices} slices"
            raise InputError(f"the volume has {inputs.shape[1]} channel(s){stacked}, but the detector takes {needed}.")
        volumes = plain(inputs)
        masks = (volumes != 0).any(dim=1, keepdim=True) if mask is None else plain(mask)
        regions = {"mask": masks} if exclude is None else {"mask": masks, "region to exclude": plain(exclude)}
        for name, region in regions.items():
            if region.shape != volumes[:, :1].shape:
                raise InputError(
                    f"the {name} has shape {tuple(region.shape)}, but {tuple(volumes[:, :1].shape)} is needed."
                )
        # the layout is changed outside inference mode, or the weights could never be trained again
        predictor = self._prepare(network)
        device = device_of(network, volumes) if isinstance(network, nn.Module) else volumes.device
        # a network that searches for its score needs gradients, in which no tensor of inference mode can take part
        mode = torch.no_grad() if getattr(network, "searches", False) else torch.inference_mode()
        if signs is not None:
            kwargs["signs"] = list(signs)
        n_maps = 1 if signs is None else len(signs)
        scorer = _Scorer(lambda patches: predictor(patches, *args, **kwargs), device, n_maps)
        with mode, torch.autocast(device.type, torch.bfloat16, enabled=self.amp):
            heatmaps = [
                self._score_volume(volume, [region[number] for region in regions.values()], scorer)
                for number, volume in enumerate(volumes)
            ]
            return heatmaps[0][None] if len(heatmaps) == 1 else torch.stack(heatmaps)

    def _prepare(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if isinstance(network, nn.Module):
            prepare_network(network)
        if not self.compile:
            return network
        if self._compiled is None or self._compiled[0] is not network:
            self._compiled = (network, torch.compile(network, dynamic=False))
        return self._compiled[1]

    def _score_volume(self, volume: Tensor, regions: list[Tensor], scorer: _Scorer) -> Tensor:
        """Heatmaps (n_maps, H, W, D) of one volume (C, H, W, D): the mean over the planes that cover a voxel.

        ``regions``, each (1, H, W, D): the region of interest and, if there is one, the region to exclude.
        """
        if not self.spec.crop:
            return self._score_planes(volume, regions, scorer)
        box, heatmaps = _box(regions[0]), torch.full((scorer.n_maps, *volume.shape[1:]), torch.nan)
        volume, *regions = (v[:, box[0], box[1], box[2]] for v in (volume, *regions))
        heatmaps[:, box[0], box[1], box[2]] = self._score_planes(volume, regions, scorer)
        return heatmaps

    def _score_planes(self, volume: Tensor, regions: list[Tensor], scorer: _Scorer) -> Tensor:
        heatmaps = torch.full((scorer.n_maps, *volume.shape[1:]), torch.nan)
        planes = torch.zeros(1, *volume.shape[1:], dtype=torch.uint8) if len(self.spec.cuts) > 1 else None
        for plane in self.spec.cuts:
            turned, *where = (slice_axis_first(v, plane) for v in (volume, *regions))
            target = slice_axis_first(heatmaps, plane)
            for rows, scores in self._score_rows(turned, where, scorer):
                if planes is None:
                    target[:, rows] = scores
                else:
                    scored = torch.isfinite(scores[:1])
                    target[:, rows] = torch.where(scored, scores + torch.nan_to_num(target[:, rows]), target[:, rows])
                    slice_axis_first(planes, plane)[:, rows] += scored
        if planes is not None:
            heatmaps /= planes
        return heatmaps

    def _score_rows(self, volume: Tensor, regions: list[Tensor], scorer: _Scorer) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of a volume (C, S0, S1, S2) and scores (n_maps, rows, S1, S2): of every ``slice_step``-th slice.

        What lies between two of these counts for both, so that each voxel of the region has one beside it.
        """
        if self.spec.slice_step == 1:
            yield from self._score_plane(volume, regions, scorer)
            return
        size = volume.shape[1]
        chosen = every(size, self.spec.slice_step)
        found = torch.full((scorer.n_maps, len(chosen), *volume.shape[2:]), torch.nan)
        some = [gathered(region, chosen) for region in regions]
        for rows, scores in self._score_plane(volume[:, chosen], some, scorer):
            found[:, rows] = scores
        yield slice(0, size), between(found, chosen, size)

    def _score_plane(self, volume: Tensor, regions: list[Tensor], scorer: _Scorer) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of a volume (C, S0, S1, S2), maybe smaller than a patch, and scores (n_maps, rows, S1, S2)."""
        size = volume.shape[1:]
        volume, *regions = (pad_to_window(v, self.spec.window) for v in (volume, *regions))
        before = [(padded - length) // 2 for padded, length in zip(volume.shape[1:], size, strict=True)]
        for rows, scores in self._score_slabs(volume, regions, scorer):
            first, last = max(rows.start - before[0], 0), min(rows.stop - before[0], size[0])
            if first < last:
                scores = scores.narrow(1, first + before[0] - rows.start, last - first)
                yield slice(first, last), scores.narrow(2, before[1], size[1]).narrow(3, before[2], size[2])

    def _score_slabs(self, volume: Tensor, regions: list[Tensor], scorer: _Scorer) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of a volume (C, S0, S1, S2) and scores (n_maps, rows, S1, S2), NaN where no patch lies.

        Cubes reach into the next slab, so their sums and counts there are handed on until the row is complete. Of the
        neighbouring slices that patches carry, a slab is shown those beside it, too.
        """
        grid, beside = PatchGrid(volume.shape[1:], self.spec.window, self.spec.steps), self.spec.slices // 2
        slabs = list(grid.slabs(SLAB_VOXELS))
        ends = [rows.start for rows, _ in slabs[1:]] + [grid.image_size[0]]  # of the rows that no later slab touches
        handed_on = torch.zeros(scorer.n_maps + 1, 0, *grid.image_size[1:], dtype=torch.float64)
        with bar("scoring", grid.image_size[0], self.progress) as shown:
            for (rows, slab), end in zip(slabs, ends, strict=True):
                around = slice(max(rows.start - beside, 0), rows.stop + beside)
                before, (region, *excluded) = rows.start - around.start, regions
                visited = slab.touching(region[0, rows].cpu() > 0)
                for other in excluded:
                    touching = near(slab.touching(other[0, around].cpu() > 0), self.spec.slices)
                    visited &= ~touching[before : before + len(visited)]
                sums = torch.empty(scorer.n_maps + 1, *slab.image_size, dtype=torch.float64)
                sums[:-1] = self._sums_of_scores(slab, volume[:, around], before, visited, scorer)
                sums[-1] = slab.sum_of_covering(visited)
                sums[:, : handed_on.shape[1]] += handed_on
                complete, handed_on = sums.split([end - rows.start, rows.stop - end], dim=1)
                totals, count = complete[:-1], complete[-1:]
                yield slice(rows.start, end), torch.where(count > 0.5, totals / count, torch.nan).float()
                shown.advance(end - rows.start)

    def _sums_of_scores(self, grid: PatchGrid, volume: Tensor, before: int, visited: Tensor, scorer: _Scorer) -> Tensor:
        """For each voxel of a slab (S0, S1, S2), the sums of the scores of the visited patches that cover it.

        (n_maps, S0, S1, S2). ``volume`` (C, before + S0 + behind, S1, S2) has the slab and the neighbouring rows that
        its patches carry.
        """
        index, device = torch.nonzero(visited.flatten())[:, 0], scorer.device
        if len(index) == 0:
            return torch.zeros(scorer.n_maps, *grid.image_size)
        volume = _to_device(volume.contiguous(), device)
        scores, sums = torch.empty(scorer.n_maps, len(index), device=device), None
        first = 0
        there, batch_size = grid.to(device), self._chosen_batch_size(device)
        if not self.compile:  # a film is one patch: filling a batch up would cost more than the film
            batch_size = min(batch_size, len(grid))
        for batch in _to_device(index, device).split(batch_size):
            patches = there.gather(volume, self.filled(batch, batch_size), self.spec.slices, before)
            result = scorer.score(channels_last(for_network(patches, self.spec.spatial_dims)))
            result = result[: len(batch)].float()
            if result.ndim == 2:  # one score a patch
                scores[:, first : first + len(batch)] = result.T
            else:  # one score a voxel
                sums = torch.zeros(scorer.n_maps, *grid.image_size, device=device).flatten(1) if sums is None else sums
                voxels = there.voxels(batch).flatten()
                for own, found in zip(sums, result.unbind(1), strict=True):  # along one axis alone it is fast
                    own.index_add_(0, voxels, found.flatten())
            first += len(batch)
        if not torch.isfinite(scores if sums is None else sums).all():
            raise InputError("the detector gave a score that is not finite: was its training sound, and is the volume?")
        if sums is not None:
            return sums.view(-1, *grid.image_size).cpu()
        everywhere = torch.zeros(scorer.n_maps, len(grid))
        everywhere[:, index] = scores.cpu()
        return torch.stack([grid.sum_of_covering(own.view(grid.shape)) for own in everywhere])

    def _chosen_batch_size(self, device: torch.device) -> int:
        voxels = self.spec.patch_size**self.spec.spatial_dims
        at_once = BATCH_VOXELS.get(device.type, BATCH_VOXELS["cpu"])[self.spec.spatial_dims]
        return self.batch_size or max(at_once // voxels, 4)

    def filled(self, batch: Tensor, full: int) -> Tensor:
        """A batch (N,), filled up to a quarter of the full size or a multiple of it: every new size costs a set-up.

        For a compiled network, to the full size: it would be compiled anew.
        """
        step = full if self.compile else max(full // 4, 1)
        missing = -len(batch) % step
        return torch.cat([batch, batch[:1].expand(missing)]) if missing else batch


def _box(region: Tensor) -> tuple[slice, slice, slice]:
    """The smallest box (of H, W, D) that holds a region (1, H, W, D); of an empty one, the whole."""
    found = torch.nonzero(region[0] > 0)
    if len(found) == 0:
        return (slice(None), slice(None), slice(None))
    low, high = found.amin(0).tolist(), found.amax(0).tolist()
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; to a GPU from pinned memory, which does not hold up the queue."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

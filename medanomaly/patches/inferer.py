"""Volume in, voxel heatmap out: every patch that touches the brain is scored, and the scores are stitched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers.inferer import Inferer
from torch import Tensor, nn
from tqdm import tqdm

from medanomaly.errors import InputError
from medanomaly.patches.grid import (
    PatchGrid,
    channels_last,
    network_channels_last,
    pad_to_window,
    patch_window,
    plain,
    planes_of,
    slice_axis_first,
)

SLAB_VOXELS = 2**20  # of a volume that are worked on at a time: bounds the memory, whatever the volume
BATCH_VOXELS = {"cpu": 2**16, "cuda": 2**22}  # of a batch: what stays in a CPU's cache, what fills a GPU


class PatchScoreInferer(Inferer):
    """Mean score of the patches that cover each voxel, called like any MONAI inferer: ``inferer(volume, network)``.

    Only patches that touch the brain are visited, in batches of fixed size. The result equals a loop over all patches
    and ``monai.inferers.sliding_window_inference`` (Madzia-Madzou & Kuijf, section 2.2.2: overlapping transversal
    patches, stride 4). The volume is worked on in slabs, so that the memory used hardly depends on its size, and may
    stay on the CPU while the network is on a GPU.

    Args:
        patch_size: voxels a side.
        stride: voxels between patches, in every direction of the patch; the last patch snaps to the border.
        spatial_dims: 2 for slices' patches, 3 for cubes.
        planes: for 2-D patches, "axial", "coronal", "sagittal" or several; several are averaged.
        batch_size: patches a forward pass; if not given, what suits the device (256 patches of 16 x 16, 64 of 32 x 32
            or 16 of 16 x 16 x 16 on a CPU, 64 times as many on a GPU).
        amp: run the network in bfloat16 (autocast): faster where the processor has it; scores change in the third
            digit.
        compile: run the network through ``torch.compile``: a slow start, then somewhat faster.
        progress: show a bar.
    """

    def __init__(
        self,
        patch_size: int = 16,
        stride: int = 4,
        spatial_dims: int = 2,
        planes: Sequence[str] = ("axial",),
        batch_size: int | None = None,
        amp: bool = False,
        compile: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.window, self.stride = patch_window(patch_size, stride, spatial_dims)
        self.patch_size, self.spatial_dims = patch_size, spatial_dims
        self.planes = planes_of(planes, spatial_dims)
        self.batch_size, self.amp, self.compile, self.progress = batch_size, amp, compile, progress
        self._compiled: tuple[Any, Callable[..., Tensor]] | None = None

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        mask: Tensor | None = None,
        exclude: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Score volumes.

        Args:
            inputs: (B, C, H, W, D), in RAS if the planes' names are to hold.
            network: patches (N, C, p, p[, p]) to scores (N, 1), or to a map (N, 1, p, p[, p]). The weights of a module
                are laid out channels_last, in place; their values stay.
            mask: brain (B, 1, H, W, D); if not given, the voxels that are not 0 in some channel.
            exclude: (B, 1, H, W, D); patches that touch it are not visited (lesions, where normal tissue is scored).

        Returns:
            (B, 1, H, W, D) float32 on the CPU; NaN where no visited patch lies.

        Raises:
            InputError: if ``inputs`` is not 5-D, its channels are not what the network takes, the mask has another
                shape, or a score is not finite.
        """
        if inputs.ndim != 5:
            raise InputError(f"the volume has shape {tuple(inputs.shape)}, but (batch, channel, H, W, D) is needed.")
        needed = getattr(network, "in_channels", inputs.shape[1])
        if needed != inputs.shape[1]:
            raise InputError(f"the volume has {inputs.shape[1]} channel(s), but the detector takes {needed}.")
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
        device = next(network.parameters(), volumes).device if isinstance(network, nn.Module) else volumes.device
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.amp):
            heatmaps = [
                self._score_volume(
                    volume,
                    torch.cat([region[number] > 0 for region in regions.values()]),
                    lambda patches: predictor(patches, *args, **kwargs),
                    device,
                )
                for number, volume in enumerate(volumes)
            ]
            return heatmaps[0][None, None] if len(heatmaps) == 1 else torch.stack(heatmaps)[:, None]

    def _prepare(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if isinstance(network, nn.Module):
            network_channels_last(network)
        if not self.compile:
            return network
        if self._compiled is None or self._compiled[0] is not network:
            self._compiled = (network, torch.compile(network, dynamic=False))
        return self._compiled[1]

    def _score_volume(
        self, volume: Tensor, regions: Tensor, predictor: Callable[[Tensor], Tensor], device: torch.device
    ) -> Tensor:
        """Heatmap (H, W, D) of one volume (C, H, W, D): the mean over the planes that cover a voxel.

        ``regions`` (1 or 2, H, W, D), boolean: the brain and, if there is one, the region to exclude.
        """
        size = volume.shape[1:]
        volume, regions = (pad_to_window(v, (self.patch_size,) * 3) for v in (volume, regions))
        total, planes = torch.zeros(volume.shape[1:]), torch.zeros(volume.shape[1:], dtype=torch.uint8)
        for plane in self.planes:
            sums, counts = (slice_axis_first(v[None], plane)[0] for v in (total, planes))
            turned, where = slice_axis_first(volume, plane), slice_axis_first(regions, plane)
            for rows, scores in self._score_slabs(turned, where, predictor, device):
                sums[rows] += torch.nan_to_num(scores)
                counts[rows] += torch.isfinite(scores)
        heatmap = total.div_(planes)  # 0 / 0 is NaN, where there is no score
        for axis, length in enumerate(size):
            heatmap = heatmap.narrow(axis, (heatmap.shape[axis] - length) // 2, length)
        return heatmap.contiguous()

    def _score_slabs(
        self, volume: Tensor, regions: Tensor, predictor: Callable[[Tensor], Tensor], device: torch.device
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of a volume (C, S0, S1, S2) and their scores (rows, S1, S2), NaN where no patch lies.

        Cubes reach into the next slab, so their sums and counts there are handed on until the row is complete.
        """
        grid = PatchGrid(volume.shape[1:], self.window, self.stride)
        slabs = list(grid.slabs(SLAB_VOXELS))
        ends = [rows.start for rows, _ in slabs[1:]] + [grid.image_size[0]]  # of the rows that no later slab touches
        handed_on = torch.zeros(2, 0, *grid.image_size[1:], dtype=torch.float64)
        with tqdm(total=grid.image_size[0], desc="scoring", unit="row", leave=False, disable=not self.progress) as bar:
            for (rows, slab), end in zip(slabs, ends, strict=True):
                visited = slab.touching(regions[0, rows].cpu())
                if len(regions) > 1:
                    visited &= ~slab.touching(regions[1, rows].cpu())
                sums = self._sum(slab, volume[:, rows], visited, predictor, device)
                sums[:, : handed_on.shape[1]] += handed_on
                (total, count), handed_on = sums.split([end - rows.start, rows.stop - end], dim=1)
                yield slice(rows.start, end), torch.where(count > 0.5, total / count, torch.nan).float()
                bar.update(end - rows.start)

    def _sum(
        self,
        grid: PatchGrid,
        volume: Tensor,
        visited: Tensor,
        predictor: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> Tensor:
        """For each voxel of a slab, the sum of the scores that cover it and their number: (2, S0, S1, S2) float64."""
        count = grid.sum_of_covering(visited)
        index = torch.nonzero(visited.flatten())[:, 0]
        if len(index) == 0:
            return torch.stack([torch.zeros_like(count), count])
        volume = _to_device(volume.contiguous(), device)
        batch_size = self.batch_size or max(
            BATCH_VOXELS.get(device.type, 2**16) // self.patch_size**self.spatial_dims, 4
        )
        scores = torch.empty(len(index), device=device)
        sums: Tensor | None = None
        first = 0
        for batch in torch.split(_to_device(index, device), batch_size):
            n = len(batch)
            if self.compile and n < batch_size:  # another size would be compiled anew
                batch = torch.cat([batch, batch[:1].expand(batch_size - n)])
            patches = grid.gather(volume, batch)
            result = predictor(channels_last(patches.squeeze(2) if self.spatial_dims == 2 else patches))[:n].float()
            if result.ndim == 2:  # one score a patch
                scores[first : first + n] = result[:, 0]
            else:  # one score a voxel
                sums = torch.zeros(grid.image_size, device=device).flatten() if sums is None else sums
                sums.index_add_(0, grid.voxels(batch[:n]).flatten(), result.flatten())
            first += n
        result = scores if sums is None else sums
        if not torch.isfinite(result).all():
            raise InputError("the detector gave a score that is not finite: was its training sound, and is the volume?")
        if sums is not None:
            return torch.stack([sums.view(grid.image_size).cpu().double(), count])
        everywhere = torch.zeros(len(grid), dtype=torch.float64)
        everywhere[index] = scores.cpu().double()
        return torch.stack([grid.sum_of_covering(everywhere.view(grid.shape)), count])


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; to a GPU from pinned memory, which does not hold up the queue."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

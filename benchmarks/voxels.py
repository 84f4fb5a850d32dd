"""(v) Detectors that score voxels, in three planes: half-overlapping windows of a whole volume against what is used."""

from __future__ import annotations

from functools import partial

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from benchmarks.tables import Section, Table, at_least, at_most, number
from benchmarks.timing import Run, interleaved, medians, say, spread
from benchmarks.ways import ellipse_mask, largest_difference
from medanomaly.detectors import SyntheticAnomalies
from medanomaly.patches import PatchScoreInferer, PatchSpec
from medanomaly.patches.layout import prepare_network
from medanomaly.patches.spec import PLANES

BEFORE, OURS, EVERY, SAME, MONAI = (
    "windows of 64 voxels, half overlapping (before)",
    "the same in the box of the brain, every second slice",
    "the same in the box of the brain, every slice",
    "the same in the box of the brain, every slice, fp32",
    "the same in the box of the brain, every slice, fp32, by sliding_window_inference, best window batch",
)
WINDOW_BATCHES = (4, 8, 16)
SIDE, STRIDE = 64, 32


def run(settings: Run) -> Section:
    """Time a U-Net of three channels over a volume of 182 x 218 x 182 whose brain fills 28 % of it."""
    shape = (62, 74, 62) if settings.quick else (182, 218, 182)
    volume = torch.rand((1, 3, *shape), generator=torch.Generator().manual_seed(0))
    mask = ellipse_mask(shape, 0.28)
    volume *= mask
    planes = list(PLANES)
    torch.manual_seed(0)
    network = SyntheticAnomalies(3, SIDE).eval().to(settings.device)
    prepare_network(network)
    before = PatchScoreInferer(PatchSpec(SIDE, 2, planes, STRIDE), amp=True)
    ours = PatchScoreInferer(PatchSpec(SIDE, 2, planes, STRIDE, crop=True, slice_step=2), amp=True)
    every = PatchScoreInferer(PatchSpec(SIDE, 2, planes, STRIDE, crop=True), amp=True)
    exact = PatchScoreInferer(PatchSpec(SIDE, 2, planes, STRIDE, crop=True))
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in torch.nonzero(mask[0, 0]).T)
    cropped = volume[(slice(None), slice(None), *box)]
    say("[v] window batches of sliding_window_inference")
    tried = interleaved(
        {str(n): partial(by_monai, cropped, network, n) for n in WINDOW_BATCHES}, 1, settings.device, False
    )
    best = min(WINDOW_BATCHES, key=lambda n: tried[str(n)][0])
    say("[v] three planes of a volume")
    ways = {
        BEFORE: lambda: before(volume, network, mask=mask),
        OURS: lambda: ours(volume, network, mask=mask),
        EVERY: lambda: every(volume, network, mask=mask),
        SAME: lambda: exact(volume, network, mask=mask),
        MONAI: lambda: by_monai(cropped, network, best),
    }
    seconds = interleaved(ways, settings.rounds(3), settings.device, warm_up=False)
    times = medians(seconds)
    inside = mask[(slice(None), slice(None), *box)] > 0
    hidden = torch.where(inside, 0.0, torch.nan)
    difference = largest_difference(
        exact(volume, network, mask=mask)[(slice(None), slice(None), *box)] + hidden,
        by_monai(cropped, network, best) + hidden,
    )
    rows = [
        (way, number(value), f"{number(value / times[OURS])}", f"{100 * spread(seconds[way]):.0f} %")
        for way, value in times.items()
    ]
    note = "MONAI is shown the box of the brain, too, but all windows of it, also those that hold no brain."
    columns = ("way", "s a volume", "times ours", "spread")
    return Section(
        tables=[Table("(v) Voxel scores in three planes, 182 x 218 x 182, 3 channels", columns, rows, note)],
        gates=[
            at_least("voxel scores: ours against half-overlapping windows", 3.0, times[BEFORE] / times[OURS]),
            at_most("voxel scores: largest difference to sliding_window_inference, fp32", 1e-3, difference, ""),
        ],
        raw={"seconds": seconds, "window batch": best},
    )


def by_monai(volume: Tensor, network: SyntheticAnomalies, window_batch: int) -> Tensor:
    """Mean over three planes of MONAI's sliding windows, half overlapping, over a volume (1, C, H, W, D)."""
    total = torch.zeros(volume[:, :1].shape)
    for axis in PLANES.values():
        window, overlap = [SIDE] * 3, [1 - STRIDE / SIDE] * 3
        window[axis], overlap[axis] = 1, 0.0

        def predictor(patches: Tensor, thin: int = 2 + axis) -> Tensor:
            return network(patches.squeeze(thin)).unsqueeze(thin).clone()

        with torch.inference_mode():
            total += sliding_window_inference(volume, window, window_batch, predictor, overlap=overlap, mode="constant")
    return total / len(PLANES)

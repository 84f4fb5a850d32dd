"""(c) Drawing training patches, against MONAI's RandSpatialCropSamplesd."""

from __future__ import annotations

from monai.data import CacheDataset, MetaTensor, list_data_collate, set_track_meta
from monai.data.meta_obj import get_track_meta
from monai.transforms import RandSpatialCropSamplesd

from benchmarks.networks import made_detector
from benchmarks.tables import Section, Table, at_most, number
from benchmarks.timing import Run, interleaved, medians, say
from benchmarks.training import BATCH, fast_step
from benchmarks.ways import ellipse_mask, made_volume
from medanomaly.patches import PatchSampler, PatchSpec

SHAPE = (182, 218, 182)
OURS, DEFAULTS, BEST, STEP = (
    "PatchSampler, an epoch of batches",
    "RandSpatialCropSamplesd, defaults",
    "RandSpatialCropSamplesd, best settings",
    "training step, bf16 (amp)",
)


def run(settings: Run) -> Section:
    """Time drawing a batch, and the step that it feeds."""
    section, rows = Section(), []
    volume, brain = made_volume(SHAPE)[0], ellipse_mask(SHAPE)[0]
    for patch_size in (16, 32):
        say(f"[c] drawing patches, {patch_size} px")
        batches = 10 if settings.quick else 100
        sampler = PatchSampler(
            [{"image": volume, "region": brain}],
            PatchSpec(patch_size),
            batch_size=BATCH,
            patches_per_epoch=batches * BATCH,
            device=settings.device,
        )
        sampler.draw(BATCH)  # prepares the volume, once a training
        crop = RandSpatialCropSamplesd("image", (patch_size, patch_size, 1), BATCH, random_size=False)
        defaults = CacheDataset([{"image": MetaTensor(volume)}], crop, progress=False)
        best = CacheDataset([{"image": volume}], crop, copy_cache=False, progress=False)
        step = fast_step(made_detector(patch_size), patch_size, settings.device, amp=True)
        ways = {
            OURS: lambda sampler=sampler: list(sampler),
            DEFAULTS: lambda data=defaults: list_data_collate([data[0]]),
            BEST: lambda data=best: _without_metadata(data),
            STEP: step,
        }
        seconds = interleaved(ways, settings.rounds(7), settings.device)
        seconds[OURS] = [value / batches for value in seconds[OURS]]
        times = medians(seconds)
        rows += [
            (
                f"{patch_size} px, {way}",
                number(1e6 * value / BATCH),
                number(value / times[OURS]),
                f"{100 * value / times[STEP]:.2f} %",
            )
            for way, value in times.items()
        ]
        section.gates.append(
            at_most(
                f"{patch_size} px: drawing, as a share of the bf16 training step", 0.02, times[OURS] / times[STEP], "%"
            )
        )
        section.raw[f"{patch_size} px"] = seconds
    shape = " x ".join(map(str, SHAPE))
    section.tables.append(
        Table(
            "(c) Drawing training patches",
            ("way", "microseconds a patch", "times ours", "share of the step"),
            rows,
            f"A volume of {shape}, batches of {BATCH}. RandSpatialCropSamplesd draws anywhere, ours in the brain only. "
            "Defaults: CacheDataset of MetaTensors; best: copy_cache=False and set_track_meta(False)."
            " (Both hold the image alone: every further key that is not cropped is copied for each patch.)",
        )
    )
    return section


def _without_metadata(data: CacheDataset) -> object:
    tracked = get_track_meta()
    set_track_meta(False)
    try:
        return list_data_collate([data[0]])
    finally:
        set_track_meta(tracked)

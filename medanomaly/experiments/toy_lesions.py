"""Disks of known brightness and size in healthy heads (Madzia-Madzou & Kuijf, SPIE 2022, sections 3.2 and 4.2).

Detectors learn the patches of healthy heads. Then a disk is put into heads that they have not seen, once with each of
ten intensities and once with each of ten diameters, and its voxels are to be told from the rest of the brain. What
differs from the paper:

- The heads are those of ``data_manifests/ixi_t1.json`` and not of the MOOD challenge: 16 to train on, 4 for early
  stopping. They are resampled to 1 mm, where a patch of 32 voxels covers 32 mm (22 mm in the paper, 64 mm at the 2 mm
  of the scans).
- Both tests use the same heads, several, and the table shows the mean of their AUROCs. (The paper has one head each.)
- The paper's 50 slices are 35 mm at 0.7 mm; so the disk is 35 mm high. Its slices alone are scored, in the brain.
- The disk stands at a random place where it lies in the brain, the same for all detectors; see ``disks.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.transforms import Compose

from medanomaly.detectors import Detector, IntensityBaseline
from medanomaly.experiments.benchmark import Run, make_detector, train_detector
from medanomaly.experiments.disks import RULE
from medanomaly.experiments.toy_heads import Cohort, healthy_heads, prepare_heads
from medanomaly.experiments.toy_measures import DiskHead, measure_disk, measure_made_lesions, ssim_of_normals
from medanomaly.experiments.toy_results import HEATMAP, leaderboard, paper_table, pictures, save_heatmaps
from medanomaly.experiments.voxel_detectors import CHOSEN, VOXEL_DETECTORS, scorer, training_folder, voxel_runs
from medanomaly.patches import PatchSampler, PatchSpec

__all__ = ["DETECTORS", "leaderboard", "origin", "paper_table", "perform", "pictures", "runs"]

BASELINE = "brightness"  # a voxel's score is its intensity
# the same, and two more, on all test heads and on made lesions, too
BASELINES = {"intensity": "plain", "intensity-smoothed": "smoothed", "intensity-equalised": "equalised"}
DETECTORS = (BASELINE, *BASELINES, "ganomaly-a", "ganomaly-k", "progressive-ganomaly", *VOXEL_DETECTORS)

# Of all runs. Intensities are those of the paper: white matter 0.4 to 0.5, background 0.
COMMON: dict[str, Any] = {
    "spacing": [1.0, 1.0, 1.0],  # mm
    "white_matter": 0.45,
    "n_volumes": 5,  # to test on
    "height_mm": 35,
    "diameter_mm": 35,  # where the intensity varies
    "intensities": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "sizes_mm": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],  # diameters, where the intensity is 1
}
TRAINING: dict[str, Any] = {
    "patches_per_epoch": 4200,
    "validation_patches": 384,  # of the held-out heads; the paper has 300
    "amp": True,
    "stride": 4,
    "ssim_patches": 2000,
}
# By patch size; the scoring batches are what a CPU is fast with
SIZES: dict[str, dict[str, Any]] = {
    "16px": {"patch_size": 16, "scoring_batch_size": 256},
    "32px": {"patch_size": 32, "scoring_batch_size": 128},
}
# By detector, chosen on disks in two of the four held-out heads. The size of the code is kept, which tells a disk that
# is brighter than all that was learned.
SETTINGS: dict[str, dict[str, Any]] = {
    "ganomaly-a": {"max_epochs": 12, "patience": 6, "decay": False, "batch_size": 128, "arguments": {}},
    "ganomaly-k": {"max_epochs": 12, "patience": 6, "decay": False, "batch_size": 128, "arguments": {}},
    # of each size; in the paper, new layers fade in over 750,000 patches, 179 epochs
    "progressive-ganomaly": {
        "max_epochs": 12,
        "patience": 12,
        "decay": True,
        "batch_size": 32,
        "arguments": {"unit_code": False, "fade_images": 8400},
    },
}
# Of the detectors that score voxels, and of the baselines that they are held against
VOXELS: dict[str, Any] = {"n_volumes": 8, "made_lesions": {"per_head": 8, "contrast": [1.0, 3.0]}}
VOXEL_TRAINING: dict[str, Any] = {"validation_patches": 384, "ssim_patches": 500, "scoring_batch_size": 16}
# The scale differs from that of other experiments: white matter is 0.45, and not about 1.
T1_ANOMALIES: dict[str, Any] = {"contrast": [0.02, 0.6], "levels": [0.0, 1.1], "jitter": 0.03, "gamma": 0.0}
AS_SCANNED: dict[str, Any] = {**T1_ANOMALIES, "texture": 0.08, "voxels_of_scan": 2}  # scans of 2 mm, worked on at 1 mm
ARGUMENTS: dict[str, dict[str, Any]] = {
    "denoising-autoencoder": {"noise_std": 0.08, "jitter": 0.03, "gamma": 0.0},
    "synthetic-anomalies": AS_SCANNED,
    "fusion": {
        "members": [
            {"detector": "synthetic_anomalies", **AS_SCANNED},
            {"detector": "synthetic_anomalies", **T1_ANOMALIES, "texture": 0.05, "fineness": 0.03},
        ]
    },
}
REDUCED: dict[str, Any] = {  # and 16 px alone
    "n_volumes": 2,
    "intensities": COMMON["intensities"][1::2],
    "sizes_mm": COMMON["sizes_mm"][1::2],
}
REDUCED_TRAINING: dict[str, Any] = {"max_epochs": 1}

MARGIN = 32  # voxels around the brain that are kept: the largest patch, so that all see the same volumes
PICTURED = (0.3, 0.6, 1.0)  # intensities of the disks in the heatmap pictures


def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
    """Every detector with both sizes of patches and every seed; brightness, which is not trained, once."""
    common = {**COMMON, **(REDUCED if reduced else {})}
    planned = []
    for detector in detectors:
        if detector == BASELINE:
            planned.append(Run(detector, "voxel", seeds[0], common))
            continue
        voxels = {**COMMON, **VOXELS, **(REDUCED if reduced else {})}
        if detector in BASELINES:
            planned.append(Run(detector, "voxel", seeds[0], voxels))
            continue
        if detector in VOXEL_DETECTORS:
            own: dict[str, Any] = {"arguments": ARGUMENTS[detector]} if detector in ARGUMENTS else {}
            own |= {"max_epochs": 12} if detector == "fusion" and not reduced else {}
            ways = voxel_runs(detector, seeds, ["T1"], ["axial"], reduced, **voxels, **VOXEL_TRAINING, **own)
            planned += [run for run in ways if run.setting == "both"]  # disks and lesions are bright and dark
            continue
        for setting, of_size in list(SIZES.items())[: 1 if reduced else None]:
            settings = {**common, **TRAINING, **of_size, **SETTINGS[detector], **(REDUCED_TRAINING if reduced else {})}
            planned += [Run(detector, setting, seed, settings) for seed in seeds]
    return planned


def perform(run: Run, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """Train on healthy heads, score the disks in others, and measure.

    Args:
        run: one of :func:`runs`.
        data_root: the folder of ``T1`` and ``brain_mask`` (``ixi_t1``); None makes a cohort in ``folder``.
        folder: gets the training and ``heatmap.png``.

    Returns:
        ``ssim`` of reconstructed normal patches (None where nothing is reconstructed); under ``intensity`` and
        ``size_mm``, for each value, AUROC and average precision in each head, their mean and standard deviation, the
        disk's voxels and the ROC curve of all heads' voxels pooled; ``control``, the mean score and intensity of the
        tissues in each head without a disk; and what the heads and the disks are.
    """
    s = run.settings
    cohort = healthy_heads(data_root, folder, s["n_volumes"])
    prepare = prepare_heads(s["spacing"], s["white_matter"], MARGIN)
    cases: list[Any] = [prepare(case) for case in cohort["test"]]
    score: Callable[..., torch.Tensor] | None = None
    network, ssim = None, None
    if run.detector in BASELINES:
        score = IntensityBaseline(BASELINES[run.detector], spacing=s["spacing"])
    elif run.detector in VOXEL_DETECTORS:
        network = _train(run, cohort, prepare, training_folder(run, folder))
        score = scorer(run, network, s["spacing"])
    elif run.detector != BASELINE:
        network = _train(run, cohort, prepare, folder)
    if network is not None:
        ssim = ssim_of_normals(network, cases, s)
        network.to("cuda" if torch.cuda.is_available() else "cpu")
    heads = [DiskHead(case, number, network or score, s) for number, case in enumerate(cases)]
    save_heatmaps(heads[0], s["diameter_mm"], PICTURED, f"{run.detector}, {run.setting}", folder / HEATMAP)
    return {
        "ssim": ssim,
        "intensity": {str(value): measure_disk(heads, s["diameter_mm"], value) for value in s["intensities"]},
        "size_mm": {str(value): measure_disk(heads, value, 1.0) for value in s["sizes_mm"]},
        "made_lesions": measure_made_lesions(score, cohort["test"], s, data_root) if score else None,
        "control": [head.control() for head in heads],
        "n_volumes": len(heads),
        "heads": [
            {
                "case": head.case,
                "spacing": [round(float(v), 4) for v in head.spacing],
                "white_matter_before_scaling": round(head.white_matter, 2),
                "disk_centre": head.place.centre,
                "disk_slices": head.place.slices,
            }
            for head in heads
        ],
        "disk_rule": RULE,
    }


def origin(run: Run) -> dict[str, str]:
    """What a run's detector was trained on and how its settings were chosen."""
    if run.detector in (BASELINE, *BASELINES):
        return {"trained_on": "nothing", "settings_chosen": "none to choose"}
    return {
        "trained_on": "the training heads of the cohort (ixi_t1: 16, and 4 held out)",
        "settings_chosen": CHOSEN if run.detector in VOXEL_DETECTORS else "by disks in two of the four held-out heads",
    }


def _train(run: Run, cohort: Cohort, prepare: Compose, folder: Path) -> Detector:
    s = run.settings

    def patches(section: str, per_epoch: int, flip: bool) -> PatchSampler:
        heads: Any = Dataset(cohort[section], prepare)
        return PatchSampler(
            heads,
            PatchSpec(s["patch_size"]),
            batch_size=s["batch_size"],
            patches_per_epoch=per_epoch,
            flip=flip,
            seed=run.seed,
        )

    return train_detector(
        make_detector(run.detector, run.seed, patch_size=s["patch_size"], **s["arguments"]),
        patches("training", s["patches_per_epoch"], flip=True),
        patches("validation", s["validation_patches"], flip=False),
        folder,
        run.seed,
        s["max_epochs"],
        s["patience"],
        s["decay"],
        s["amp"],
    )

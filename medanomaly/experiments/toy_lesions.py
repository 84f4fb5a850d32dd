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

Detectors that score voxels, and the baselines, are also tested on made lesions, bright and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medanomaly.experiments.disks import RULE
from medanomaly.experiments.toy_heads import healthy_heads, prepare_heads
from medanomaly.experiments.toy_measures import DiskHead, measure_disk, measure_made_lesions, ssim_of_normals
from medanomaly.experiments.toy_results import HEATMAP, leaderboard, paper_table, pictures, save_heatmaps
from medanomaly.experiments.voxel_detectors import CHOSEN, VOXEL_DETECTORS, voxel_runs
from medanomaly.workflows.benchmark import BASELINES, Experiment, Run
from medanomaly.workflows.scorers import Cohort, Scorer

# Intensities are those of the paper: white matter 0.4 to 0.5, background 0.
OPTIONS: dict[str, Any] = {
    "spacing": [1.0, 1.0, 1.0],  # mm
    "white_matter": 0.45,
    "n_volumes": 8,  # to test on
    "height_mm": 35,
    "diameter_mm": 35,  # where the intensity varies
    "intensities": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "sizes_mm": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],  # diameters, where the intensity is 1
    "ssim_patches": 500,
    "made_lesions": {"per_head": 8, "contrast": [1.0, 3.0]},
}
REDUCED: dict[str, Any] = {  # and 16 px alone
    "n_volumes": 2,
    "intensities": OPTIONS["intensities"][1::2],
    "sizes_mm": OPTIONS["sizes_mm"][1::2],
}
# In the tables: bundle, and what differs from its own settings; chosen on disks in two of the four held-out heads. The
# size of the code is kept, which tells a disk that is brighter than all that was learned.
SCHEDULE: dict[str, Any] = {"max_epochs": 12, "patches_per_epoch": 4200, "amp": True}
PATCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "ganomaly-a": ("ganomaly", {**SCHEDULE, "patience": 6}),
    "ganomaly-k": ("ganomaly", {**SCHEDULE, "patience": 6, "variant": "K"}),
    # epochs of each size; in the paper, new layers fade in over 750,000 patches, 179 epochs
    "progressive-ganomaly": (
        "progressive_ganomaly",
        {**SCHEDULE, "patience": 12, "batch_size": 32, "unit_code": False, "fade_images": 8400},
    ),
}
SIZES = (16, 32)
# The scale differs from that of other experiments: white matter is 0.45, and not about 1.
T1_ANOMALIES: dict[str, Any] = {"contrast": [0.02, 0.6], "levels": [0.0, 1.1], "jitter": 0.03, "gamma": 0.0}
AS_SCANNED: dict[str, Any] = {**T1_ANOMALIES, "texture": 0.08, "voxels_of_scan": 2}  # scans of 2 mm, worked on at 1 mm
VOXELS: dict[str, dict[str, Any]] = {
    "denoising-autoencoder": {"noise_std": 0.08, "jitter": 0.03, "gamma": 0.0},
    "synthetic-anomalies": AS_SCANNED,
    "fusion": {
        "max_epochs": 12,
        "members": [
            {"detector": "synthetic_anomalies", **AS_SCANNED},
            {"detector": "synthetic_anomalies", **T1_ANOMALIES, "texture": 0.05, "fineness": 0.03},
        ],
    },
}
DETECTORS = (*BASELINES, *PATCHES, *VOXEL_DETECTORS)
MARGIN = 32  # voxels around the brain that are kept: the largest patch, so that all see the same volumes
PICTURED = (0.3, 0.6, 1.0)  # intensities of the disks in the heatmap pictures


def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
    """Detectors of patches with both sizes and every seed, those of voxels with every seed, baselines once."""
    options = {**OPTIONS, **(REDUCED if reduced else {})}
    planned = []
    for detector in detectors:
        if detector in BASELINES:
            planned.append(Run(detector, "voxel", seeds[0], options=options))
        elif detector in VOXEL_DETECTORS:
            ways = voxel_runs(detector, seeds, reduced, VOXELS.get(detector, {}), options)
            planned += [run for run in ways if run.setting == "both"]  # disks and lesions are bright and dark
        else:
            bundle, own = PATCHES[detector]
            for size in SIZES[: 1 if reduced else None]:
                settings = {**own, "patch_size": size, **({"max_epochs": 1} if reduced else {})}
                without = {**options, "made_lesions": None}
                planned += [Run(detector, f"{size}px", seed, bundle, settings, {}, without) for seed in seeds]
    return planned


def cohort(run: Run, data_root: Path | None, folder: Path) -> Cohort:
    """Healthy heads, prepared; those of the demo, made in ``folder``, if there is no ``data_root``."""
    heads = healthy_heads(data_root, folder, run.options["n_volumes"])
    prepare = prepare_heads(run.options["spacing"], run.options["white_matter"], MARGIN)

    def prepared(section: str) -> list[Any]:
        return [dict(prepare(case)) | {"files": case} for case in heads[section]]

    training, validation = (prepared(section) if run.bundle else [] for section in ("training", "validation"))
    spacing = {"spacing": run.options["spacing"]}
    return Cohort(training, validation, prepared("test"), chain=None, preparation=spacing)


def measure(run: Run, scorer: Scorer, cohort: Cohort, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """Figures of the disks and made lesions; ``folder`` gets ``heatmap.png``.

    Returns:
        ``ssim`` of reconstructed normal patches (None where nothing is reconstructed); under ``intensity`` and
        ``size_mm``, for each value, what :func:`measure_disk` returns; ``made_lesions`` (None where they are not
        asked for); ``control``, the mean score and intensity of the tissues in each head without a disk; and what the
        heads and the disks are.
    """
    o = run.options
    heads = [DiskHead(case, number, scorer, o) for number, case in enumerate(cohort.test)]
    save_heatmaps(heads[0], o["diameter_mm"], PICTURED, f"{run.detector}, {run.setting}", folder / HEATMAP)
    return {
        "ssim": None if run.bundle is None else ssim_of_normals(scorer, cohort.test, o["ssim_patches"]),
        "intensity": {str(value): measure_disk(heads, o["diameter_mm"], value) for value in o["intensities"]},
        "size_mm": {str(value): measure_disk(heads, value, 1.0) for value in o["sizes_mm"]},
        "made_lesions": measure_made_lesions(scorer, cohort.test, o, data_root) if o["made_lesions"] else None,
        "control": [head.control() for head in heads],
        "n_volumes": len(heads),
        "heads": [head.description() for head in heads],
        "disk_rule": RULE,
    }


def origin(run: Run) -> dict[str, str]:
    """What a run's detector was trained on and how its settings were chosen."""
    if run.bundle is None:
        return {"trained_on": "nothing", "settings_chosen": "none to choose"}
    chosen = CHOSEN if run.detector in VOXEL_DETECTORS else "by disks in two of the four held-out heads"
    return {"trained_on": "the training heads of the cohort (ixi_t1: 16, and 4 held out)", "settings_chosen": chosen}


EXPERIMENT = Experiment(
    "toy-lesions",
    DETECTORS,
    runs,
    cohort,
    measure,
    leaderboard,
    origin,
    pictures,
    further_table=paper_table,
    shared=("spacing", "white_matter", "n_volumes", "height_mm", "diameter_mm", "intensities", "sizes_mm"),
)

"""White-matter lesions on FLAIR, and on FLAIR and T1 (Madzia-Madzou & Kuijf, SPIE 2022, sections 3.3 and 4.3).

The paper trains on 90 patients of its own hospital and tests on 30. Here stand in two patients with multiple sclerosis
of the Open MS data (Lesjak et al. 2017, 10.1007/s12021-017-9348-7): training draws patches without lesion from
patient07, and the heatmap of patient26 is held against its lesions, in the brain. Plain brightness heads the table: it
is hard to beat on FLAIR.

There is one patient to train on, so what is held out comes from the same patient, but from other axial slices, and
early stopping watches them. The threshold of every row, baselines included, comes from the same voxels: all lesion-free
ones of that patient, scored as the test patient is. (A trained detector has seen four fifths of them; the held-out
fifth alone, the uppermost slices, is no fair sample of normal tissue.) Nothing is tuned on patient26: the settings are
those of the toy lesions, or were chosen by made lesions. The figures by region (``evidence``) are there to find out why
a detector fails, and choose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from medanomaly.data import heatmap_path
from medanomaly.detectors import Detector, IntensityBaseline
from medanomaly.errors import InputError
from medanomaly.evaluation import Calibration, voxel_metrics
from medanomaly.experiments import toy_lesions
from medanomaly.experiments.benchmark import Run, grouped, make_detector, train_detector
from medanomaly.experiments.open_ms import (
    ALL_CHANNELS,
    TEST_PATIENT,
    TRAINING_PATIENT,
    Mask,
    Patient,
    Score,
    cut,
    held_out_slices,
)
from medanomaly.experiments.voxel_detectors import CHOSEN, VOXEL_DETECTORS, scorer, training_folder, voxel_runs
from medanomaly.experiments.white_matter_measures import SPACING, by_region, measure
from medanomaly.patches import PatchSampler, PatchScoreInferer, PatchSpec
from medanomaly.preprocessing import brain_mri, heatmap_to_scan, user_cache
from medanomaly.report import case_figure, save_figure

BASELINES = {"intensity": "plain", "intensity-smoothed": "smoothed", "intensity-equalised": "equalised"}
PATCH_DETECTORS = ("one-class-svm", "ganomaly-a", "ganomaly-k", "progressive-ganomaly")
DETECTORS = (*BASELINES, *PATCH_DETECTORS, *VOXEL_DETECTORS)
CHANNELS = {"flair": ["FLAIR"], "flair+t1": ["FLAIR", "T1"]}
PLANES = ["axial", "coronal", "sagittal"]  # of the detectors that score voxels
FUSION = [
    {"detector": "denoising_autoencoder"},
    {"detector": "synthetic_anomalies"},
    {"detector": "synthetic_anomalies", "channels": [0, 1]},
]

SIZES = (16, 32)
# Training is that of the toy lesions, so that nothing here is chosen by what it leads to; the slowest is shortened, for
# the time it takes.
SETTINGS: dict[str, dict[str, Any]] = {
    "one-class-svm": {
        "max_epochs": 1,
        "patience": 1,
        "decay": False,
        "batch_size": 100,
        "patches_per_epoch": 5_000,  # its memory grows with their square
        "arguments": {},
    },
    **toy_lesions.SETTINGS,
}
SETTINGS["progressive-ganomaly"] = {**SETTINGS["progressive-ganomaly"], "max_epochs": 8, "patience": 8}
COMMON: dict[str, Any] = {"patches_per_epoch": 4_200, "amp": True, "stride": 4}
REDUCED: dict[str, Any] = {"max_epochs": 1}  # and 16 px alone
PATIENTS = {"training_patient": TRAINING_PATIENT, "test_patient": TEST_PATIENT}  # of every run

NORMALS_ABOVE = 0.005  # share of the training patient's lesion-free voxels above the threshold

# Madzia-Madzou & Kuijf, section 4.3, on its own 30 patients, FLAIR and T1; its GANomaly is our variant K
PAPER_AUROC = {
    ("ganomaly-k", "flair+t1-16px"): "0.89",
    ("ganomaly-k", "flair+t1-32px"): "0.75",
    ("progressive-ganomaly", "flair+t1-16px"): "0.78",
    ("progressive-ganomaly", "flair+t1-32px"): "0.61",
}

# of the table: name and place in the metrics
COLUMNS = {
    "AUROC": "auroc",
    "AP": "average_precision",
    "best Dice (oracle)": "best_dice_oracle",
    f"Dice at {100 * NORMALS_ABOVE:g} % of normals": "dice",
    "AUROC without edge": "evidence.auroc_without_edge",
    "AUROC on the training patient (development)": "development_auroc",
}


def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
    """Every detector with every setting and seed; a baseline once, on FLAIR; the one-class SVM with 16 px alone."""
    planned = []
    for detector in detectors:
        if detector in BASELINES:
            planned.append(Run(detector, "flair", seeds[0], {"channels": CHANNELS["flair"], **PATIENTS}))
            continue
        if detector in VOXEL_DETECTORS:
            members = {"arguments": {"members": FUSION}} if detector == "fusion" else {}
            planned += voxel_runs(detector, seeds, ALL_CHANNELS, PLANES, reduced, **members, **PATIENTS)
            continue
        sizes = [16] if reduced or detector == "one-class-svm" else list(SIZES)
        for name, channels in CHANNELS.items():
            for size in sizes:
                settings = {**COMMON, **SETTINGS[detector], **(REDUCED if reduced else {})}
                settings = {"channels": channels, "patch_size": size, **settings, **PATIENTS}
                planned += [Run(detector, f"{name}-{size}px", seed, settings) for seed in seeds]
    return planned


def perform(run: Run, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """Train on the lesion-free tissue of one patient, score another, and measure.

    Args:
        run: one of :func:`runs`; its settings name the patients, patient07 and patient26 unless told otherwise.
        data_root: has a folder for each patient, with ``{FLAIR,T1,T2,lesions}.nii.gz``.
        folder: gets the training; ``patient26/patient26_heatmap.nii.gz``, raw scores on the grid of the scan, and
            ``..._display.nii.gz``, the percentage of the training patient's lesion-free voxels that score lower; and
            ``patient26.png``.

    Returns:
        The figures of :func:`measure`; ``threshold_from``, the same for every row: the lesion-free voxels of the
        training patient, scored as the test patient is; ``evidence``, see :func:`by_region`; and
        ``development_auroc``, on the lesions of the training patient, next to whose tissue the detector was trained.

    Raises:
        InputError: if a scan is missing.
    """
    n_channels = len(run.settings["channels"])
    prepare = brain_mri(len(ALL_CHANNELS), SPACING, "nonzero", cache_dir=user_cache())
    training_name, test_name = (str(run.settings[key]) for key in PATIENTS)
    patient, test_patient = (Patient(name, data_root, prepare, n_channels) for name in (training_name, test_name))
    score = _score(run, patient, folder)
    development = patient.heatmap(score)
    calibration = Calibration.fit([development[patient.normal]], f"all lesion-free voxels of {training_name}")

    start = time.perf_counter()
    heatmap = test_patient.heatmap(score)
    seconds = time.perf_counter() - start
    heatmap_to_scan(prepare, folder, calibration.percentile)(
        {**test_patient.case, "pred": torch.from_numpy(heatmap)[None]}
    )
    case_figure(
        test_patient.scans[:n_channels],
        heatmap_path(folder, test_name, "display"),
        folder / f"{test_name}.png",
        label=test_patient.label,
        names=run.settings["channels"],
        title=f"{run.detector}, {run.setting}",
    )
    return {
        **measure(heatmap, test_patient, calibration.voxel_threshold(NORMALS_ABOVE)),
        "threshold_from": f"{100 * NORMALS_ABOVE:g} % above it of: {calibration.source}",
        "evidence": by_region(heatmap, test_patient),
        "scoring_seconds": round(seconds, 1),
        "development_auroc": voxel_metrics(development[patient.brain], patient.lesions[patient.brain])["auroc"],
    }


def _score(run: Run, patient: Patient, folder: Path) -> Score:
    """The baseline of a run, or its detector, trained on ``patient`` in ``folder``."""
    if run.detector in BASELINES:
        return IntensityBaseline(BASELINES[run.detector], spacing=SPACING)
    held_out = held_out_slices(patient.brain)
    if run.detector in VOXEL_DETECTORS:
        return scorer(run, train(run, patient, held_out, training_folder(run, folder)), SPACING)
    inferer = PatchScoreInferer(PatchSpec(run.settings["patch_size"], stride=run.settings["stride"]))
    return partial(inferer, network=train(run, patient, held_out, folder))


def origin(run: Run) -> dict[str, str]:
    """What a run's detector was trained on and how its settings were chosen."""
    if run.detector in BASELINES:
        return {"trained_on": "nothing", "settings_chosen": "none to choose; the smoothing was given: 1.5 mm"}
    return {
        "trained_on": f"lesion-free patches of {run.settings['training_patient']}, without its uppermost slices",
        "settings_chosen": CHOSEN if run.detector in VOXEL_DETECTORS else "those of the toy lesions",
    }


def samplers(run: Run, patient: Patient, held_out: Mask) -> tuple[PatchSampler, PatchSampler]:
    """Patches without lesion: for training, mirrored at random, and from the held-out slices a quarter as many.

    Neither holds a voxel of the other's slices, whatever the plane.
    """
    s = run.settings
    spec = PatchSpec(s["patch_size"], planes=s.get("planes", ("axial",)))
    common = {"spec": spec, "batch_size": s["batch_size"]}
    n, n_validation = s["patches_per_epoch"], max(s["patches_per_epoch"] // 4, s["batch_size"])
    training, validation = (cut(patient.part(slices), slices) for slices in (~held_out, held_out))
    return (
        PatchSampler([training], **common, patches_per_epoch=n, flip=True, seed=run.seed),
        PatchSampler([validation], **common, patches_per_epoch=n_validation, flip=False, seed=run.seed + 1),
    )


def train(run: Run, patient: Patient, held_out: Mask, folder: Path) -> Detector:
    """The detector of a run, trained on the lesion-free tissue of ``patient`` in ``folder``; on a GPU, if any."""
    s = run.settings
    shape = {"in_channels": len(s["channels"]), "patch_size": s["patch_size"]}
    network = make_detector(run.detector, run.seed, **shape, **s["arguments"])
    schedule = {key: s[key] for key in ("max_epochs", "patience", "decay", "amp")}
    detector = train_detector(network, *samplers(run, patient, held_out), folder, run.seed, **schedule)
    return detector.to("cuda" if torch.cuda.is_available() else "cpu")


def leaderboard(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row a detector and setting, baselines first: means over seeds and standard deviations ("... sd").

    Raises:
        InputError: if results were not measured on equal terms: other voxels, or thresholds from other normals.
    """
    for key in ("n_voxels", "threshold_from"):
        found = {str(result["metrics"].get(key)): f"{result['detector']}, {result['setting']}" for result in results}
        if len(found) > 1:
            named = "; ".join(f"{example} has {value}" for value, example in found.items())
            raise InputError(
                f"the results do not share one {key}: {named}. Rows of one table are measured on equal terms: delete "
                "the result files of the earlier ones, and run the benchmark again."
            )
    order = [(run.detector, run.setting) for run in runs(DETECTORS, [0], reduced=False)]
    rows = []
    for (detector, setting), group in sorted(grouped(results).items(), key=lambda item: order.index(item[0])):
        table = pd.json_normalize([result["metrics"] for result in group])
        row: dict[str, Any] = {"detector": detector, "setting": setting, "seeds": len(table)}
        for column, key in COLUMNS.items():
            figures = table[key] if key in table else pd.Series([], dtype=float)
            row[column], row[f"{column} sd"] = float(figures.mean()), float(figures.std())
            if f"intervals.{key}" in table:
                low, high = np.mean(table[f"intervals.{key}"].tolist(), axis=0)
                row[f"{column}, 95 % over slices"] = f"{low:.3f} to {high:.3f}"
        row["AUROC in the paper, on its own data"] = PAPER_AUROC.get((detector, setting), "-")
        rows.append(row)
    return pd.DataFrame(rows)


def pictures(results: Sequence[dict[str, Any]], output: Path) -> None:
    """``roc.png``: ROC curves as in the paper's figure 7 (axes the usual way round), a panel for each set of channels.

    A curve a seed. The baselines, on FLAIR, are in every panel.
    """
    figure = Figure(figsize=(16.5, 5.4), layout="constrained")
    patients = ", ".join(sorted({r["settings"]["test_patient"] for r in results}))
    rows = leaderboard(results)
    of_voxels = rows["detector"].isin(VOXEL_DETECTORS)
    panels = [(channels, rows["setting"].str.startswith(f"{name}-")) for name, channels in CHANNELS.items()]
    for axis, (channels, chosen) in zip(figure.subplots(1, 3), [*panels, (ALL_CHANNELS, of_voxels)], strict=True):
        shown = rows[rows["detector"].isin(list(BASELINES)) | chosen]
        for number, row in enumerate(shown.to_dict("records")):
            key = (row["detector"], row["setting"])
            label = f"{', '.join(key)}: {row['AUROC']:.3f}"
            style: dict[str, Any] = {
                "color": f"C{number}",
                "linestyle": ":" if row["detector"] in BASELINES else "-" if number < 10 else "--",
            }
            style["linewidth"] = 3 if row["detector"] == "intensity" else 1.3  # it lies under the equalised one
            for curve in [r["metrics"]["roc"] for r in results if (r["detector"], r["setting"]) == key]:
                axis.plot(curve["fpr"], curve["tpr"], label=label, **style)
                label = "_"  # once in the legend, whatever the number of seeds
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
        axis.set(xlabel="false positive rate (voxels in the brain)", ylabel="true positive rate")
        axis.set(title=f"{patients}, {' + '.join(channels)}", xlim=(0, 1), ylim=(0, 1.005))
        if len(shown):
            axis.legend(loc="lower right", title="AUROC", fontsize=6)
    save_figure(figure, output / "roc.png")

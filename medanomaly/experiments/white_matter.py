"""White-matter lesions on FLAIR, and on FLAIR and T1 (Madzia-Madzou & Kuijf, SPIE 2022, sections 3.3 and 4.3).

The paper trains on lesion-free patches of 90 patients of its own hospital and tests on 30. Any datalist of that form
will do: cases of FLAIR, T1 and, maybe, T2, with lesion masks, under ``training`` and ``test``. Without one, two
patients with multiple sclerosis of the Open MS data stand in (Lesjak et al. 2017, 10.1007/s12021-017-9348-7): patches
without lesion are drawn from patient07, and the heatmap of patient26 is held against its lesions, in the brain. Plain
brightness heads the table: it is hard to beat on FLAIR.

The threshold of every row, baselines included, comes from the same voxels: all lesion-free ones of the training
patients (or of those under ``validation``), scored as the test patients are. Nothing is tuned on the test patients: the
settings are those of the toy lesions, or were chosen by made lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from medanomaly.data import read_datalist
from medanomaly.errors import InputError
from medanomaly.experiments.open_ms import by_slice, region_of_all_channels, two_patients
from medanomaly.experiments.toy_lesions import PATCHES
from medanomaly.experiments.voxel_detectors import CHOSEN, VOXEL_DETECTORS, voxel_runs
from medanomaly.preprocessing import user_cache
from medanomaly.report import roc_panels
from medanomaly.workflows.benchmark import BASELINES, Experiment, Result, Run, grouped
from medanomaly.workflows.cohort import cohort_table, measure_cohort
from medanomaly.workflows.scorers import Cohort, Scorer

CHANNELS = {"flair": 1, "flair+t1": 2}  # images of a case that a detector of patches sees
SIZES = (16, 32)
SPACING = [1.0, 1.0, 1.0]  # mm, the MNI grid of the Open MS data
# Training is that of the toy lesions, so that nothing here is chosen by what it leads to; the slowest is shortened, for
# the time it takes, and the memory of the SVM grows with the square of its patches.
SVM = {"max_samples": 5_000}
PATCH_DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "one-class-svm": ("one_class_svm", SVM),
    **PATCHES,
    "progressive-ganomaly": (
        "progressive_ganomaly",
        {**PATCHES["progressive-ganomaly"][1], "max_epochs": 8, "patience": 8},
    ),
}
FUSION = [
    {"detector": "denoising_autoencoder"},
    {"detector": "synthetic_anomalies"},
    {"detector": "synthetic_anomalies", "channels": [0, 1]},
]
DETECTORS = (*BASELINES, *PATCH_DETECTORS, *VOXEL_DETECTORS)
# Madzia-Madzou & Kuijf, section 4.3, on its own 30 patients, FLAIR and T1; its GANomaly is our variant K
PAPER_AUROC = {
    ("ganomaly-k", "flair+t1-16px"): "0.89",
    ("ganomaly-k", "flair+t1-32px"): "0.75",
    ("progressive-ganomaly", "flair+t1-16px"): "0.78",
    ("progressive-ganomaly", "flair+t1-32px"): "0.61",
}


def white_matter(datalist: str | Path | None = None) -> Experiment:
    """The experiment on the cohort of ``datalist``, or on the two patients of the Open MS data."""
    return Experiment(
        "white-matter", DETECTORS, runs, partial(cohort, datalist), measure, leaderboard, origin, pictures
    )


def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
    """Every detector with every setting and seed; a baseline once, on FLAIR; the one-class SVM with 16 px alone."""
    options = {"training_patient": "patient07", "test_patient": "patient26"}
    planned = []
    for detector in detectors:
        if detector in BASELINES:
            planned.append(Run(detector, "flair", seeds[0], options=options))
        elif detector in VOXEL_DETECTORS:
            settings: dict[str, Any] = {"planes": ["axial", "coronal", "sagittal"]}
            settings |= {"members": FUSION} if detector == "fusion" else {}
            planned += voxel_runs(detector, seeds, reduced, settings, {**options, "channels": 3})
        else:
            bundle, own = PATCH_DETECTORS[detector]
            for name, channels in CHANNELS.items():
                for size in [16] if reduced or bundle == "one_class_svm" else SIZES:
                    settings = {**own, "patch_size": size, **({"max_epochs": 1} if reduced else {})}
                    more = {**options, "channels": channels}
                    planned += [Run(detector, f"{name}-{size}px", s, bundle, settings, {}, more) for s in seeds]
    return planned


def cohort(datalist: str | Path | None, run: Run, data_root: Path | None, folder: Path) -> Cohort:
    """The patients, with the channels that the run sees, in the brain as all channels have it.

    Raises:
        InputError: if there is neither a datalist nor the folder of the Open MS data, or a scan is missing.
    """
    if datalist is not None:
        sections = {
            s: read_datalist(datalist, s, data_root, s != "validation") for s in ("training", "validation", "test")
        }
    elif data_root is None:
        raise InputError(
            "there is no data: set --data-root to the folder of the patients of the Open MS data (see "
            "data_manifests/open_ms.json), or name a cohort with --datalist."
        )
    else:
        sections = two_patients(data_root, *(str(run.options[k]) for k in ("training_patient", "test_patient")))
    n = run.options.get("channels", 3)
    seen = {
        section: [
            {**case, "image": case["image"][:n], "region": case.get("region") or region_of_all_channels(case, folder)}
            for case in cases
        ]
        for section, cases in sections.items()
    }
    preparation = {"spacing": SPACING, "region": "given", "cache_dir": str(user_cache())}
    training, validation, test = (seen[section] for section in ("training", "validation", "test"))
    return Cohort(training, validation, test, preparation=preparation, n_channels=len(test[0]["image"]))


def measure(run: Run, scorer: Scorer, cohort: Cohort, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """The figures of a cohort; with one test patient, intervals over axial slices in place of those over cases."""
    metrics = measure_cohort(run, scorer, cohort, data_root, folder)
    return metrics | (by_slice(scorer, cohort.test[0]) if len(cohort.test) == 1 else {})


def origin(run: Run) -> dict[str, str]:
    """What a run's detector was trained on and how its settings were chosen."""
    if run.bundle is None:
        return {"trained_on": "nothing", "settings_chosen": "none to choose; the smoothing was given: 1.5 mm"}
    chosen = CHOSEN if run.detector in VOXEL_DETECTORS else "those of the toy lesions"
    return {"trained_on": "lesion-free patches of the training patients", "settings_chosen": chosen}


def leaderboard(results: Sequence[Result]) -> pd.DataFrame:
    """The table of a cohort, in the order of the runs, with the paper's AUROC beside ours."""
    place = {(run.detector, run.setting): n for n, run in enumerate(runs(DETECTORS, [0], reduced=False))}
    frame = cohort_table(sorted(results, key=lambda r: place.get((r["detector"], r["setting"]), len(place))))
    names = zip(frame["detector"], frame["setting"], strict=True)
    frame["AUROC in the paper, on its own data"] = [PAPER_AUROC.get(name, "-") for name in names]
    return frame


def pictures(results: Sequence[Result], folder: Path) -> None:
    """``roc.png``: ROC curves as in the paper's figure 7, a panel for each set of channels, baselines in all."""
    panels: dict[str, dict[str, list[Any]]] = {"FLAIR": {}, "FLAIR + T1": {}, "FLAIR + T1 + T2": {}}
    for (detector, setting), group in grouped(results).items():
        curves = [result["metrics"]["roc"] for result in group]
        auroc = sum(result["metrics"]["voxels"]["auroc"] for result in group) / len(group)
        number = 2 if detector in VOXEL_DETECTORS else list(CHANNELS).index(setting.rsplit("-", 1)[0])
        for n, panel in enumerate(panels.values()):
            if n == number or detector in BASELINES:
                panel[f"{detector}, {setting}: {auroc:.3f}"] = curves
    roc_panels({title: panel for title, panel in panels.items() if panel}, folder / "roc.png")

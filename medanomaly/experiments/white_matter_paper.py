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

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medanomaly.data import read_datalist
from medanomaly.data.digests import scan_digest
from medanomaly.errors import InputError
from medanomaly.evaluation.cohort import require_labels
from medanomaly.experiments.open_ms import by_slice, region_of_all_channels, two_patients
from medanomaly.experiments.toy_lesions import PATCHES
from medanomaly.experiments.voxel_detectors import CHOSEN, VOXEL_DETECTORS, voxel_runs
from medanomaly.experiments.white_matter_paper_results import CHANNELS, leaderboard, pictures
from medanomaly.workflows.benchmark import BASELINES, Experiment, Run
from medanomaly.workflows.cohort import measure_cohort
from medanomaly.workflows.scorers import Cohort, Scorer

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
PATIENTS = {"training_patient": "patient07", "test_patient": "patient26"}


def white_matter_paper(datalist: str | Path | None = None) -> Experiment:
    """The experiment on the cohort of ``datalist``, or on the two patients of the Open MS data.

    Raises:
        InputError: if the datalist cannot be read.
    """
    order = [(run.detector, run.setting) for run in runs(DETECTORS, [0], reduced=False)]
    options = PATIENTS if datalist is None else {"datalist": scan_digest(datalist)}
    return Experiment(
        "white-matter-paper",
        DETECTORS,
        partial(runs, options=options),
        partial(cohort, datalist),
        measure,
        partial(leaderboard, order),
        origin,
        pictures,
        arguments=() if datalist is None else ("white-matter-paper", "--datalist", str(datalist)),
        shared=("training_patient", "test_patient", "datalist"),
    )


def runs(
    detectors: Sequence[str], seeds: Sequence[int], reduced: bool, options: Mapping[str, Any] = PATIENTS
) -> list[Run]:
    """Every detector with every setting and seed; a baseline once; the one-class SVM with 16 px alone."""
    planned = []
    for detector in detectors:
        if detector in BASELINES:
            seen = "flair" if detector.startswith("intensity") else "flair+t1+t2"
            planned.append(Run(detector, seen, seeds[0], options=options))
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
        InputError: if there is neither a datalist nor the folder of the Open MS data, a scan or the label of a test
            case is missing, or a case has fewer channels than the run is to see.
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
    require_labels(sections["test"])
    n = run.options.get("channels", 3)
    few = [case["case"] for cases in sections.values() for case in cases if len(case["image"]) < n]
    if few and run.bundle is not None and run.detector not in VOXEL_DETECTORS:  # those take what there is
        raise InputError(f"{run.detector}, {run.setting} is to see {n} images, and {few[0]} has fewer.")
    seen = {
        section: [
            {**case, "image": case["image"][:n], "region": case.get("region") or region_of_all_channels(case, folder)}
            for case in cases
        ]
        for section, cases in sections.items()
    }
    preparation = {"spacing": SPACING, "region": "given"}
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

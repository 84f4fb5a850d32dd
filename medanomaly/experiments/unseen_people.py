"""Lesions in people who were never seen: each person in turn is tested by what learned from all the others.

``white-matter``: the patients with multiple sclerosis of the Open MS data (Lesjak et al. 2017), whose lesions three
raters have drawn; beside them the same database's whole heads, whose lesions nobody has drawn and which are learned
from as they are. ``tumours``: the gliomas of BraTS 2013 in the copy that DeepMedic ships, 2 mm; beside them the people
of both MS data sets. A datalist of one's own can take their place: the people under ``test`` are tested in turn, those
under ``training`` are always learned from, those under ``validation`` never.

What touches a drawn lesion is left out of training. The thresholds of every row, baselines included, come from the same
people, who were not learned from: those under ``validation``, or else the person after the tested one. Nothing is tuned
on the people who are tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
from monai.data import Dataset

from medanomaly.data import read_datalist
from medanomaly.data.datalist import check_cases
from medanomaly.data.file_patterns import find
from medanomaly.errors import InputError
from medanomaly.evaluation.cohort import require_labels
from medanomaly.evaluation.cohort_voxels import label_on_scan
from medanomaly.evaluation.lesion_metrics import lesion_metrics
from medanomaly.experiments.open_ms import by_slice, region_of_all_channels
from medanomaly.experiments.unseen_people_results import leaderboard, pictures
from medanomaly.experiments.voxel_detectors import WAYS
from medanomaly.patches import RelativeToPlace, fit_places
from medanomaly.workflows.benchmark import BASELINES, Experiment, Run
from medanomaly.workflows.cohort import fingerprint, measure_cohort
from medanomaly.workflows.scorers import Cohort, Scorer

CHOSEN_BY_LESIONS = (
    "windows, planes and length as in a first prototype; the scale of intensities, channels and members out of ten "
    "candidates, each with one seed, and how far scores are compared with the other side, by figures for patient07 and "
    "patient26, who are tested: those here are a little too good; no other person's lesions were looked at"
)
AS_FOR_LESIONS = (
    "those of white-matter, at 2 mm and with large anomalies, as gliomas are large; fields of a coil after a look at "
    "a heatmap of pat03, who is tested"
)
BASELINE_SPACING = (1.0, 1.0, 1.0)  # mm: brightness needs no large windows, and would only lose by larger voxels
PLACE = "+place"  # relative to what the people that were learned from show at that place
SIDE, SIDE_MM = "+side", 8.0  # relative to what is usual on the other side of the brain, in a Gaussian of this sigma
# ways of scoring, see ``voxel_detectors.WAYS``
OF_ONE = ("both", "bright")
OF_ENSEMBLES = ("both", "both+side", "both+place", "bright", "bright+side", "bright+prior")
PLANES = ["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class Group:
    """People in a folder of ``--data-root``.

    Args:
        files: a pattern of their images, with ``{case}`` and ``{channel}``.
        channels: that are read, in the order in which a detector sees them.
        label, brain: patterns of their lesions and brain masks; none if nobody has drawn them.
    """

    files: str
    channels: Sequence[str]
    label: str | None = None
    brain: str | None = None

    def cases(self, root: Path) -> list[dict[str, Any]]:
        """Those who have all channels and, if others have one, a label."""
        found: dict[str, set[str]] = {}
        for values in find(root, self.files).values():
            found.setdefault(values["case"], set()).add(values["channel"])
        named = []
        for case in sorted(case for case, there in found.items() if there >= set(self.channels)):
            images = [self.files.format(case=case, channel=channel) for channel in self.channels]
            own: dict[str, Any] = {"case": case, "image": images}
            for key, pattern in (("label", self.label), ("brain", self.brain)):
                if pattern is not None:
                    own[key] = pattern.format(case=case)
            if self.label is None or (root / own["label"]).exists():
                named.append(own)
        return named


@dataclass(frozen=True)
class Disease:
    """What is found in whom, by what.

    Args:
        name: of the experiment.
        tested: people with lesions that were drawn.
        learned: further people to learn from.
        held_out: how many scans of ``learned``, the last ones, are for thresholds.
        spacing: voxel size in mm at which detectors work.
        detectors: name in the table, to bundle and settings; one whose name ends in "-flair" sees the first channel
            alone.
        register: whether the channels of a case lie on grids of their own.
        chosen: how the settings were, as result files say it.
    """

    name: str
    tested: Group
    learned: Sequence[Group]
    held_out: int
    spacing: tuple[float, float, float]
    detectors: Mapping[str, tuple[str, Mapping[str, Any]]]
    register: bool
    chosen: str


# quartiles of FLAIR, T1 and T2 where 5 % and 95 % are 0 and 1: means over the whole heads but patient12, rounded
QUARTILES = [[0.50, 0.65, 0.79], [0.52, 0.71, 0.86], [0.15, 0.31, 0.48]]
PLAIN = {"detector": "synthetic_anomalies"}
STRONG = {**PLAIN, "jitter": 0.2, "gamma": 0.4}  # contrasts of tissues that differ more
WINDOWS = {"patch_size": 64, "stride": 32, "planes": PLANES, "crop": True, "slice_step": 2, "score_amp": True}
# whole heads have thick slices, sharp in the axial plane alone
LENGTH = {"training_planes": ["axial"], "batch_size": 16, "patches_per_epoch": 3200, "amp": True}
LONG, SHORT = ({**WINDOWS, **LENGTH, "max_epochs": n, "patience": n} for n in (8, 5))
CONTEXT = {"context": ["grey", "white"]}  # the template's maps of tissues, brought to the patient, as channels
WHITE_MATTER = {**LONG, "members": [PLAIN, STRONG, {**STRONG, "channels": [0]}], "quartiles": QUARTILES}
LARGE = {"radius": [1.2, 25.0], "bias": 0.1}  # voxels of 2 mm; the coil's field was not taken out
TUMOURS = {**SHORT, "members": [{**PLAIN, **LARGE}, {**STRONG, **LARGE}]}  # no quartiles: a glioma moves them


WHOLE_HEADS = "ms_whole_head/{case}/{channel}.nii.gz"
FLAIR_T1_T2 = ("FLAIR", "T1", "T2")
DISEASES = {
    "white-matter": Disease(
        "white-matter",
        Group("open_ms/{case}/{channel}.nii.gz", FLAIR_T1_T2, label="open_ms/{case}/lesions.nii.gz"),
        [Group(WHOLE_HEADS, FLAIR_T1_T2, brain="ms_whole_head/{case}/brain_mask.nii.gz")],
        held_out=2,
        spacing=(1.0, 1.0, 1.0),
        detectors={
            "synthetic-anomalies": ("synthetic_anomalies", {**LONG, "quartiles": QUARTILES}),
            "synthetic-anomalies-flair": ("synthetic_anomalies", {**LONG, "quartiles": QUARTILES[:1]}),
            "synthetic-anomalies-context": ("synthetic_anomalies", {**LONG, "quartiles": QUARTILES, **CONTEXT}),
            "ensemble": ("fusion", WHITE_MATTER),
        },
        register=True,
        chosen=CHOSEN_BY_LESIONS,
    ),
    "tumours": Disease(
        "tumours",
        Group(
            "brats2013/{case}/{channel}.nii.gz",
            ("FLAIR", "T1c"),
            label="brats2013/{case}/tumour.nii.gz",
            brain="brats2013/{case}/brain_mask.nii.gz",
        ),
        [
            Group("open_ms/{case}/{channel}.nii.gz", ("FLAIR", "T1"), label="open_ms/{case}/lesions.nii.gz"),
            Group(WHOLE_HEADS, ("FLAIR", "T1"), brain="ms_whole_head/{case}/brain_mask.nii.gz"),
        ],
        held_out=0,
        spacing=(2.0, 2.0, 2.0),
        detectors={
            "synthetic-anomalies": ("synthetic_anomalies", {**SHORT, **LARGE}),
            "synthetic-anomalies-flair": ("synthetic_anomalies", {**SHORT, **LARGE}),
            "synthetic-anomalies-context-flair": ("synthetic_anomalies", {**SHORT, **LARGE, **CONTEXT}),
            "ensemble-flair": ("fusion", TUMOURS),
        },
        register=True,
        chosen=AS_FOR_LESIONS,
    ),
}


def unseen_people(name: str, datalist: str | Path | None = None, data_root: str | Path | None = None) -> Experiment:
    """The experiment ``name``, of ``DISEASES``, on the people below ``data_root``, or those of ``datalist``.

    Raises:
        InputError: if there are no people to test, nobody to learn from, or the datalist cannot be read.
    """
    disease = DISEASES[name]
    sections = sections_of(disease, datalist, data_root)
    detectors = (*BASELINES, *disease.detectors)
    options = {"people": {section: fingerprint(cases) for section, cases in sections.items()}}
    return Experiment(
        name,
        detectors,
        partial(runs, disease, [str(case["case"]) for case in sections["test"]], options),
        partial(cohort, disease, sections),
        measure,
        leaderboard,
        partial(origin, disease, sections),
        pictures,
        arguments=(name,) if datalist is None else (name, "--datalist", str(datalist)),
        shared=("people",),
    )


def runs(
    disease: Disease,
    people: Sequence[str],
    options: Mapping[str, Any],
    detectors: Sequence[str],
    seeds: Sequence[int],
    reduced: bool,
) -> list[Run]:
    """Every detector, way of scoring, person and seed; a baseline once a person; one training a person and seed."""
    short = {"max_epochs": 1, "patches_per_epoch": 32} if reduced else {}
    planned = []
    for detector in detectors:
        for person in people:
            own = {**options, "test_person": person}
            if detector in BASELINES:
                planned.append(Run(detector, person, seeds[0], options={**own, "way": "-"}))
                continue
            bundle, settings = disease.detectors[detector]
            ways = OF_ENSEMBLES if bundle == "fusion" else OF_ONE
            planned += [
                Run(
                    detector,
                    f"{way}-{person}",
                    seed,
                    bundle,
                    {**settings, **short},
                    _scoring(way, disease.spacing),
                    {**own, "way": way},
                    model=f"{detector}_{person}_seed{seed}_training",
                )
                for seed in seeds
                for way in ways
            ]
    return planned


def _scoring(way: str, spacing: tuple[float, float, float]) -> dict[str, Any]:
    side = {"other_side": SIDE_MM / spacing[0]} if way.endswith(SIDE) else {}
    return {**WAYS[way.removesuffix(PLACE).removesuffix(SIDE)], **side}


def cohort(
    disease: Disease,
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    run: Run,
    data_root: Path | None,
    folder: Path,
) -> Cohort:
    """One person to test, everybody else to learn from, but for those whom thresholds come from.

    All rows are measured on the same voxels: where any channel is not 0, whatever a detector sees.
    """
    n_seen = 1 if run.detector.endswith("-flair") else None
    seen = {
        section: [
            {
                **case,
                "image": case["image"][:n_seen],
                "region": case.get("region") or region_of_all_channels(case, folder),
            }
            for case in cases
        ]
        for section, cases in sections.items()
    }
    people = seen["test"]
    (place,) = [n for n, case in enumerate(people) if case["case"] == run.options["test_person"]]
    after = people[(place + 1) % len(people)]
    held_out = seen["validation"] or ([after] if len(people) > 1 and (seen["training"] or len(people) > 2) else [])
    kept = [case for case in people if case is not people[place] and case not in held_out]
    spacing = BASELINE_SPACING if run.bundle is None else disease.spacing
    preparation: dict[str, Any] = {"spacing": list(spacing), "region": "given"}
    preparation["register"] = disease.register and n_seen is None
    return Cohort(
        [*kept, *seen["training"]],
        held_out,
        [people[place]],
        preparation=preparation,
        n_channels=len(people[place]["image"]),
    )


def measure(run: Run, scorer: Scorer, cohort: Cohort, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """The figures of one person's voxels, their intervals over slices, and lesion by lesion at the threshold."""
    if str(run.options["way"]).endswith(PLACE):
        scorer = _relative_to_place(scorer, cohort, folder / "places.npz")
    metrics = measure_cohort(run, scorer, cohort, data_root, folder)
    (case,) = cohort.test
    spacing = nib.load(case["image"][0]).header.get_zooms()[:3]  # type: ignore[attr-defined]
    lesions = lesion_metrics(scorer.heatmap(case), label_on_scan(case), metrics["at_threshold"]["threshold"], spacing)
    return {**metrics, **by_slice(scorer, case), "lesions": lesions}


def _relative_to_place(scorer: Scorer, cohort: Cohort, file: Path) -> Scorer:
    """The same detector with what the training people show at each place taken off its scores."""
    normals: Any = Dataset(list(cohort.training), scorer.preprocessing)
    fit_places(normals, scorer.inferer.inferer, scorer.network, file, [scorer.network.sign])
    inferer = RelativeToPlace(scorer.inferer.inferer, file)
    relative = Scorer(inferer, scorer.network, scorer.preprocessing, scorer.spec)
    relative.training_seconds = scorer.training_seconds
    return relative


def origin(disease: Disease, sections: Mapping[str, Sequence[Mapping[str, Any]]], run: Run) -> dict[str, str]:
    """What a run's detector was trained on and how its settings were chosen."""
    if run.bundle is None:
        return {"trained_on": "nothing", "settings_chosen": "none to choose; the smoothing was given: 1.5 mm"}
    learned = ", ".join(str(case["case"]) for case in sections["training"])
    words = f"everybody but the person tested and those whom thresholds come from: {learned}"
    words += ", and the other people tested, without their lesions"
    return {"trained_on": words, "settings_chosen": disease.chosen}


def sections_of(
    disease: Disease, datalist: str | Path | None, data_root: str | Path | None
) -> dict[str, list[dict[str, Any]]]:
    """Who is learned from (``training``), who gives thresholds (``validation``) and who is tested (``test``)."""
    if datalist is not None:
        sections = {
            section: read_datalist(datalist, section, data_root, section == "test")
            for section in ("training", "validation", "test")
        }
    elif data_root is None:
        raise InputError(
            f"there is no data: set --data-root to the folder that holds {disease.tested.files.split('/')[0]} and "
            f"{disease.learned[-1].files.split('/')[0]}, or name people with --datalist."
        )
    else:
        root = Path(data_root)
        tested, others = disease.tested.cases(root), [case for group in disease.learned for case in group.cases(root)]
        if not tested:
            raise InputError(
                f"nobody to test in {root}: people are expected at {disease.tested.files}, with "
                f"{', '.join(disease.tested.channels)} and {disease.tested.label}; set --data-root to the folder above."
            )
        cut = len(others) - disease.held_out if len(others) > disease.held_out else len(others)
        found = {"training": others[:cut], "validation": others[cut:], "test": tested}
        sections = {s: check_cases(cases, s, str(root), root) if cases else [] for s, cases in found.items()}
    require_labels(sections["test"])
    if len(sections["test"]) < 2 and not sections["training"]:
        raise InputError("there is nobody to learn from: give further people, under 'training' or under 'test'.")
    return sections

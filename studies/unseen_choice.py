"""Which windows, planes, channels and intensities the networks of the experiment white-matter should have.

    python -m studies.unseen_choice --data-root /data --output runs/unseen_choice
    python -m studies.unseen_choice --data-root /data --output runs/unseen_choice --on patients

By made lesions: trains each candidate on whole heads of people with multiple sclerosis (``ms_whole_head``: patients 01,
03 and 04, lesions that nobody has drawn included), puts made lesions into one whom it has not seen (patient12), small
ones in the shapes of lesions of 14 others and large ones of 35 to 75 mm, and prints how well they are found, with both
signs: means over draws, and the 95 % interval of a bootstrap over these. Nobody who is tested in the experiment takes
part.

``--on patients``: each candidate learns as in the experiment from all but one of its patients, whose lesions it is to
find. A patient who is tested may be used for choosing what tests the other, not what tests the same one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medanomaly.data.lesion_factory import LesionFactory, made_shapes, shapes_from_masks
from medanomaly.detectors import IntensityBaseline
from medanomaly.evaluation import in_region, voxel_metrics
from medanomaly.evaluation.cohort_voxels import label_on_scan
from medanomaly.experiments.unseen_people import DISEASES, PLANES, QUARTILES, cohort, sections_of
from medanomaly.experiments.unseen_people_results import over_people
from medanomaly.patches.layout import plain
from medanomaly.preprocessing import NormalisePercentiles
from medanomaly.workflows.benchmark import Run
from medanomaly.workflows.costs import clock
from medanomaly.workflows.scorers import Cohort, Scorer, train_scorer

SPACING = (1.0, 1.0, 1.0)
SCALE: dict[str, Any] = {"quartiles": QUARTILES}
LENGTH = {"patches_per_epoch": 3200, "amp": True, "score_amp": True, "crop": True}
SIX = [0.8, 0.5, 0.5, 0.5, 0.5, 0.5]
# as many voxels for each: 1,600 steps of 16 windows of 64 voxels a side
WINDOWS: dict[int, dict[str, Any]] = {
    64: {"patch_size": 64, "stride": 32, "batch_size": 16, "max_epochs": 8, "radius": [1.2, 20.0]},
    96: {"patch_size": 96, "stride": 80, "batch_size": 8, "max_epochs": 4, "radius": [1.2, 30.0], "shares": SIX},
    192: {
        **{"patch_size": 192, "stride": 192, "batch_size": 4, "patches_per_epoch": 800, "max_epochs": 4},
        **{"radius": [1.2, 45.0], "shares": SIX * 2, "several": 6},
    },
}
AXIAL: dict[str, Any] = {**WINDOWS[64], "planes": PLANES, "training_planes": PLANES[:1]}
STRONG: dict[str, Any] = {"jitter": 0.2, "gamma": 0.4}
CANDIDATES: dict[str, tuple[int, dict[str, Any]]] = {
    "64 voxels, learned on axial slices": (3, AXIAL),
    "the same, FLAIR alone": (1, AXIAL),
    "the same, FLAIR alone, stronger contrasts": (1, {**AXIAL, **STRONG}),
    "the same, on a standard scale": (3, {**AXIAL, **SCALE}),
    "the same, on a standard scale, stronger contrasts": (3, {**AXIAL, **SCALE, **STRONG}),
    "the same, on a standard scale, learned in three planes": (3, {**AXIAL, **SCALE, "training_planes": PLANES}),
    "64 voxels, half overlapping, three planes": (3, {**WINDOWS[64], "planes": PLANES}),
    "64 voxels, 48 apart, three planes": (3, {**WINDOWS[64], "stride": 48, "planes": PLANES}),
    "96 voxels, 80 apart, three planes": (3, {**WINDOWS[96], "planes": PLANES}),
    "96 voxels, 80 apart, three planes, every second slice": (3, {**WINDOWS[96], "planes": PLANES, "slice_step": 2}),
    "96 voxels, 80 apart, three planes, FLAIR alone": (1, {**WINDOWS[96], "planes": PLANES}),
    "whole slices of 192 voxels, three planes": (3, {**WINDOWS[192], "planes": PLANES}),
}
KINDS = ("small", "large")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of ms_whole_head and open_ms")
    arguments.add_argument("--output", type=Path, default=Path("runs/unseen_choice"), help="for the trainings")
    arguments.add_argument("--draws", type=int, default=3, help="of each kind of lesion")
    arguments.add_argument("--only", default="", help="candidates whose name has this in it")
    arguments.add_argument("--on", choices=("made", "patients"), default="made", help="whose lesions are to be found")
    given = arguments.parse_args()
    candidates = {name: candidate for name, candidate in CANDIDATES.items() if given.only in name}
    (on_patients if given.on == "patients" else on_made_lesions)(candidates, given)


def on_made_lesions(candidates: Mapping[str, tuple[int, dict[str, Any]]], given: argparse.Namespace) -> None:
    sections = sections_of(DISEASES["white-matter"], None, given.data_root)
    training, unseen = sections["training"], sections["validation"][0]
    shapes = shapes_from_masks(sorted((given.data_root / "open_ms" / "lesion_masks").glob("*.nii*")))
    preparation = {"spacing": list(SPACING), "region": "given", "register": True}
    prepare = Cohort([], [], [], preparation=preparation, n_channels=3).preprocessing()
    assert prepare is not None
    prepared: Any = prepare(dict(unseen))
    image, brain = plain(prepared["image"]).numpy(), plain(prepared["region"])[0].numpy() > 0
    made = [
        (kind, *_factory(kind, seed, shapes)(image, brain, SPACING, np.random.default_rng(seed)))
        for kind in KINDS
        for seed in range(given.draws)
    ]
    print("| | small: AUROC | AP (95 % over draws) | large: AUROC | AP (95 % over draws) | CPU s a head |")
    print("|---|---|---|---|---|---|")
    bright = Scorer(IntensityBaseline("smoothed", spacing=SPACING))
    _print("smoothed brightness, for what is bright", bright, made, brain, 3, bright_alone=True)
    for name, (channels, settings) in candidates.items():
        seen = [{**case, "image": case["image"][:channels]} for case in training]
        own = Cohort(seen, [], [], preparation=preparation, n_channels=channels)
        scorer = train_scorer("synthetic_anomalies", own, given.output / _folder(name), 0, {**LENGTH, **settings}, {})
        shown = made
        if "quartiles" in settings:
            scale, region = NormalisePercentiles(quartiles=settings["quartiles"]), torch.from_numpy(brain)[None]
            shown = [(kind, scale(torch.from_numpy(x), region).numpy(), where) for kind, x, where in made]
        _print(name, scorer, shown, brain, channels)


def on_patients(candidates: Mapping[str, tuple[int, dict[str, Any]]], given: argparse.Namespace) -> None:
    disease = DISEASES["white-matter"]
    sections = sections_of(disease, None, given.data_root)
    print("| | patient | AUROC, both | AP, both | AUROC, bright | AP, bright |")
    print("|---|---|---|---|---|---|")
    for name, (channels, settings) in candidates.items():
        for person in (str(case["case"]) for case in sections["test"]):
            detector = "candidate" if channels == 3 else "candidate-flair"
            run = Run(detector, person, 0, "synthetic_anomalies", options={"test_person": person})
            folder = given.output / f"{_folder(name)}_{person}"
            folder.mkdir(parents=True, exist_ok=True)
            own = cohort(disease, sections, run, given.data_root, folder)
            (case,) = own.test
            parts = []
            for sign in ("both", "bright"):
                scorer = train_scorer(
                    "synthetic_anomalies", own, folder / "model", 0, {**LENGTH, **settings}, {"sign": sign}
                )
                found = voxel_metrics(*in_region(scorer.heatmap(case), label_on_scan(case)))
                parts.append(f"{found['auroc']:.3f} | {found['average_precision']:.3f}")
            print(f"| {name} | {person} | {' | '.join(parts)} |", flush=True)


def _folder(name: str) -> str:
    return "_".join(name.replace(",", "").split())


def _factory(kind: str, seed: int, shapes: list[Any]) -> LesionFactory:
    if kind == "small":
        return LesionFactory(shapes, n_lesions=14, contrast=(0.5, 2.0))
    large = made_shapes(4, np.random.default_rng(1000 + seed), (35, 75))
    return LesionFactory(large, n_lesions=2, contrast=(0.8, 2.5), border_mm=1.5)


def _print(
    name: str, scorer: Scorer, made: list[Any], brain: NDArray[np.bool_], channels: int, bright_alone: bool = False
) -> None:
    found: dict[str, list[Mapping[str, float]]] = {kind: [] for kind in KINDS}
    began = clock()
    for kind, image, where in made:
        mask = torch.from_numpy(brain)[None, None]
        scores = np.asarray(scorer.score(torch.from_numpy(image[:channels])[None], mask=mask)[0, 0])
        there = brain & (where >= 0) if bright_alone else brain
        if (where[there] != 0).any():
            found[kind].append(voxel_metrics(scores[there], where[there] != 0))
    seconds = (clock() - began) / len(made)
    parts = []
    for rows in found.values():
        auroc, ap = (np.array([row[key] for row in rows]) for key in ("auroc", "average_precision"))
        low, high = over_people(ap)
        parts.append(f"{auroc.mean():.3f} | {ap.mean():.3f} ({low:.3f} to {high:.3f})")
    print(f"| {name} | {' | '.join(parts)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()

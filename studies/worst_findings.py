"""Draws what an ensemble of the experiment white-matter gets most wrong in the patients whom it has not seen.

    python -m studies.worst_findings --data-root /data --results results --output docs/images/unseen_worst.png

For each patient of Open MS, at the threshold that 0.5 % of normal voxels exceed: the false finding with the highest
score, the largest false finding, and the largest lesion of which no voxel is found. FLAIR in an axial slice, the
findings in yellow, the lesions as three raters drew them in cyan. Needs the trainings of the experiment.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected

from medanomaly.data.reading import LoadCased
from medanomaly.evaluation.cohort_voxels import label_on_scan
from medanomaly.experiments.unseen_people import DISEASES, WAYS, cohort, sections_of
from medanomaly.workflows.benchmark import Run
from medanomaly.workflows.scorers import load_scorer

NAME = "white-matter"
REACH = 40  # voxels around the finding that are shown


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of open_ms and ms_whole_head")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the experiment wrote")
    arguments.add_argument("--output", type=Path, default=Path("unseen_worst.png"))
    arguments.add_argument("--detector", default="ensemble")
    arguments.add_argument("--way", default="both", choices=sorted(WAYS))
    given = arguments.parse_args()
    sections = sections_of(DISEASES[NAME], None, given.data_root)
    people = [str(case["case"]) for case in sections["test"]]
    folder = given.results / NAME
    figure, axes = plt.subplots(len(people), 3, figsize=(9, 3.3 * len(people)), squeeze=False)
    for row, person in zip(axes, people, strict=True):
        name = f"{given.detector}_{given.way}-{person}_seed0"
        metrics = json.loads((folder / "results" / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
        model = folder / "runs" / f"{given.detector}_{person}_seed0_training"
        run = Run(given.detector, person, 0, options={"test_person": person})
        (case,) = cohort(DISEASES[NAME], sections, run, given.data_root, model).test
        heatmap = load_scorer(model / "model", **WAYS[given.way]).heatmap(case)
        flair = np.asarray(LoadCased()({"image": case["image"][0]})["image"][0])
        called = np.nan_to_num(heatmap, nan=-np.inf) > metrics["at_threshold"]["threshold"]
        lesions = label_on_scan(case)
        for axis, (title, place) in zip(row, worst(heatmap, called, lesions), strict=True):
            print(f"{person}: {title}, voxel {place}")
            draw(axis, flair, called, lesions, place)
            axis.set_title(f"{person}: {title}", fontsize=8)
    figure.tight_layout()
    figure.savefig(given.output, dpi=110)


def worst(
    heatmap: NDArray[Any], called: NDArray[np.bool_], lesions: NDArray[np.bool_]
) -> list[tuple[str, tuple[int, int, int] | None]]:
    """What is shown: words and a voxel; none where nothing is wrong in this way."""
    findings, numbered = connected(called, connectivity=3), connected(lesions & np.isfinite(heatmap), connectivity=3)
    false = called & ~np.isin(findings, np.unique(findings[lesions & called]))
    missed = (numbered > 0) & ~np.isin(numbered, np.unique(numbered[called]))
    highest = np.unravel_index(np.argmax(np.where(false, heatmap, -np.inf)), heatmap.shape) if false.any() else None
    return [
        ("the highest false finding", None if highest is None else tuple(int(n) for n in highest)),  # type: ignore[misc]
        ("the largest false finding", middle_of_largest(findings * false)),
        ("the largest lesion missed", middle_of_largest(numbered * missed)),
    ]


def middle_of_largest(parts: NDArray[np.integer[Any]]) -> tuple[int, int, int] | None:
    sizes = np.bincount(parts.ravel())[1:]
    if not sizes.any():
        return None
    places = np.argwhere(parts == sizes.argmax() + 1)
    x, y, z = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    return int(x), int(y), int(z)


def draw(
    axis: Any, flair: NDArray[Any], called: NDArray[Any], lesions: NDArray[Any], place: tuple[int, int, int] | None
) -> None:
    axis.axis("off")
    if place is None:
        axis.text(0.5, 0.5, "none", ha="center")
        return
    x, y, z = place
    window = (slice(max(x - REACH, 0), x + REACH), slice(max(y - REACH, 0), y + REACH), z)
    brightest = np.percentile(flair[flair != 0], 99.5)
    axis.imshow(flair[window].T, cmap="gray", origin="lower", vmin=0, vmax=brightest)
    for mask, colour in ((called, "yellow"), (lesions, "cyan")):
        if mask[window].any():
            axis.contour(mask[window].T, [0.5], colors=colour, linewidths=0.8)


if __name__ == "__main__":
    main()

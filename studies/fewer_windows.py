"""What windows that lie less densely cost and save, by the networks of the experiment white-matter.

    python -m studies.fewer_windows --data-root /data --results results

Each patient of Open MS is scored by the ensemble that has not seen him or her, both signs, each less its other side,
with windows in three planes: everywhere and in every slice; in the box of the brain and every second slice, as in the
experiment; less densely, and larger ones than those that were learned from. Needs the trainings of the experiment.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medanomaly.evaluation import in_region, voxel_metrics
from medanomaly.evaluation.cohort_voxels import label_on_scan
from medanomaly.experiments.unseen_people import DISEASES, SIDE_MM, cohort, sections_of
from medanomaly.workflows.benchmark import Run
from medanomaly.workflows.scorers import load_scorer

NAME = "white-matter"
CROPPED: dict[str, Any] = {"crop": True, "slice_step": 2, "other_side": SIDE_MM}
WINDOWS: dict[str, dict[str, Any]] = {
    "64 voxels, 32 apart, whole volume, every slice": {**CROPPED, "stride": 32, "crop": False, "slice_step": 1},
    "64 voxels, 32 apart, box of the brain, every second slice": {**CROPPED, "stride": 32},
    "64 voxels, 48 apart, box of the brain, every second slice": {**CROPPED, "stride": 48},
    "64 voxels, 48 apart, box of the brain, every third slice": {**CROPPED, "stride": 48, "slice_step": 3},
    "96 voxels, 80 apart, box of the brain, every second slice": {**CROPPED, "patch_size": 96, "stride": 80},
    "192 voxels, box of the brain, every second slice": {**CROPPED, "patch_size": 192, "stride": 160},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of open_ms and ms_whole_head")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the experiment wrote")
    arguments.add_argument("--detector", default="ensemble")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    sections = sections_of(DISEASES[NAME], None, given.data_root)
    print("| windows | patient | AUROC | AP | CPU s a volume |")
    print("|---|---|---|---|---|")
    for person in (str(case["case"]) for case in sections["test"]):
        model = given.results / NAME / "runs" / f"{given.detector}_{person}_seed{given.seed}_training"
        run = Run(given.detector, person, given.seed, options={"test_person": person})
        (case,) = cohort(DISEASES[NAME], sections, run, given.data_root, model).test
        for words, settings in WINDOWS.items():
            scorer = load_scorer(model / "model", **settings)
            found = voxel_metrics(*in_region(scorer.heatmap(case), label_on_scan(case)))
            figures = f"{found['auroc']:.3f} | {found['average_precision']:.3f} | {scorer.inferer.seconds:.0f}"
            print(f"| {words} | {person} | {figures} |", flush=True)


if __name__ == "__main__":
    main()

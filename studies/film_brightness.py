"""Asks why some detectors rank films of pneumonia below healthy ones: do they score how dark, or how flat, a film is?

    python -m studies.film_brightness --data-root /data/chest_xray --results results

For each detector that the benchmark of the manifest ``chest_xray`` scored (its ``evaluation/cases.csv`` of seed 0): the
AUROC of the test films, and how its score goes with the mean and the standard deviation of a film as detectors see it
(Spearman's rank correlation, healthy films alone). The first two rows are these two properties themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from medanomaly.data import datalist_from_manifest
from medanomaly.preprocessing import radiograph

SIZE = (64, 64)  # of the bundles


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of chest_xray")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the benchmark wrote")
    given = arguments.parse_args()
    chain, rows = radiograph(1, SIZE), {}
    for case in datalist_from_manifest("chest_xray", given.data_root)["test"]:
        film = np.asarray(chain(dict(case))["image"], dtype=np.float64)
        rows[case["case"]] = {"abnormal": bool(case["label"]), "mean": film.mean(), "deviation": film.std()}
    films = pd.DataFrame.from_dict(rows, orient="index")
    print("| score | AUROC | score and mean | score and deviation |")
    print("|---|---|---|---|")
    for name in ("mean", "deviation"):
        print_row(f"the {name} of the film", films[name], films)
    for file in sorted((given.results / "chest_xray" / "runs").glob("*_own_seed0/evaluation/cases.csv")):
        scores = pd.read_csv(file, index_col="case")["case_score"].reindex(films.index)
        print_row(file.parents[1].name.removesuffix("_own_seed0"), scores, films)


def print_row(name: str, scores: pd.Series, films: pd.DataFrame) -> None:
    healthy = ~films["abnormal"]
    figures = [float(roc_auc_score(films["abnormal"], scores))]
    figures += [float(spearmanr(scores[healthy], films[of][healthy]).statistic) for of in ("mean", "deviation")]
    print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()

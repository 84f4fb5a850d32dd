"""The tables of the augmentation study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medanomaly.report.leaderboards import markdown_table
from medanomaly.workflows.benchmark import Result, check_same, grouped

COLUMNS = {"AUC": "auroc", "precision": "precision", "recall": "sensitivity", "F1": "f1"}
INDICES = {"silhouette": "silhouette", "Davies-Bouldin": "davies_bouldin", "Calinski-Harabasz": "calinski_harabasz"}
LABELINGS = {"real or synthetic": "real_or_synthetic", "classes": "classes"}


def leaderboard(results: Sequence[Result]) -> pd.DataFrame:
    """A row for each generator and level: means over seeds and their standard deviation, intervals over films.

    Raises:
        InputError: if results are of different test films.
    """
    check_same(results, ("n_cases",))
    rows = []
    for (detector, setting), group in grouped(results).items():
        metrics = [result["metrics"] for result in group]
        row: dict[str, Any] = {
            "films of": "-" if detector == "real" else detector,
            "synthetic": setting if setting == "balanced" else f"{int(setting.removeprefix('plus-'))} %",
            "seeds": len(metrics),
            "training films": " + ".join(map(str, metrics[0]["training_films"])),
        }
        for column, key in COLUMNS.items():
            values = [np.nan if m[key] is None else m[key] for m in metrics]
            row[column] = float(np.mean(values))
            row[f"{column} sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
            ends = [m["intervals"][key] for m in metrics]
            if all(pair is not None and None not in pair for pair in ends):
                low, high = np.mean(ends, axis=0)
                row[f"{column}, 95 % over films"] = f"{low:.3f} to {high:.3f}"
        row["training (s)"] = float(np.mean([result["costs"]["training_seconds"] for result in group]))
        rows.append(row)
    return pd.DataFrame(rows)


def quality_table(results: Sequence[Result]) -> str:
    """The indices of each generator's films beside held-out real ones, and of these beside real training films."""
    found: dict[str, Any] = {}
    for result in results:
        if "generator" in result["metrics"]:
            of = result["metrics"]["generator"]
            found.setdefault("real, held out", of["real"])
            found.setdefault(result["detector"], of["made"])
    rows = []
    for name, own in found.items():
        row: dict[str, Any] = {"films": name}
        for title, labeling in LABELINGS.items():
            row |= {f"{title}: {index}": own[labeling][key] for index, key in INDICES.items()}
        row |= {"FID": own["frechet"], "KID": own["kernel"], "to the nearest training film": own["nearest_training"]}
        rows.append(row)
    return markdown_table(pd.DataFrame(rows)) if rows else ""

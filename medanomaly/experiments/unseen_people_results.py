"""The table of lesions in unseen people: means over the people tested, and each person's own figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medanomaly.errors import InputError
from medanomaly.experiments.voxel_detectors import WAYS
from medanomaly.report import roc_panels
from medanomaly.workflows.benchmark import Result, check_same
from medanomaly.workflows.costs import mean_costs

# of the table: name and place in the metrics; means over people, then over seeds
COLUMNS = {
    "AUROC": "voxels.auroc",
    "AP": "voxels.average_precision",
    "best Dice (oracle)": "voxels.best_dice",
    "Dice at 0.5 % of normals": "at_threshold.dice",
    "lesions found": "lesions.sensitivity",
    "false findings a scan": "lesions.false_positives",
}
OF_EACH = ("AUROC", "AP", "Dice at 0.5 % of normals")  # which have a column for each person
MOST_EXACT = 6  # people up to whom every resample is taken


def leaderboard(results: Sequence[Result]) -> pd.DataFrame:
    """A row a detector and way of scoring: means over the people, the spread of these over seeds, and each person.

    "95 % over people" is a bootstrap over people of the mean AP, of three at least. Lesions are found one by one;
    those of a size are counted over all people. Of a seed that has not scored all of a row's people yet, the means take
    nothing.

    Raises:
        InputError: if rows were measured on other voxels of a person, or with thresholds from others.
    """
    by_person: dict[str, list[Result]] = {}
    for result in results:
        by_person.setdefault(_person(result), []).append(result)
    for own in by_person.values():
        check_same(own, ("voxels.n_voxels", "threshold_from"))
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        rows.setdefault((result["detector"], result["settings"]["options"]["way"]), []).append(result)
    detectors, ways = list(dict.fromkeys(detector for detector, _ in rows)), ["-", *WAYS]
    ordered = sorted(rows, key=lambda row: (detectors.index(row[0]), ways.index(row[1].partition("+")[0]), row[1]))
    return pd.DataFrame([_row(*row, rows[row], list(by_person)) for row in ordered])


def _row(detector: str, way: str, group: Sequence[Result], people: Sequence[str]) -> dict[str, Any]:
    table = pd.json_normalize([dict(result["metrics"]) for result in group])
    table["person"], table["seed"] = [_person(r) for r in group], [r["seed"] for r in group]
    here = [person for person in people if (table["person"] == person).any()]
    row: dict[str, Any] = {"detector": detector, "sign": way, "people": len(here), "seeds": table["seed"].nunique()}
    values = {name: table.assign(value=pd.to_numeric(table[key])) for name, key in COLUMNS.items()}
    for name, found in values.items():
        of_seeds = found.groupby("seed")["value"].mean()
        whole = found.groupby("seed")["value"].size() == len(here)
        row[name], row[f"{name} sd"] = float(of_seeds[whole].mean()), float(of_seeds[whole].std())
    each = values["AP"].groupby("person")["value"].mean()
    if len(each) >= 3:
        low, high = over_people(each.to_numpy())
        row["AP, 95 % over people"] = f"{low:.3f} to {high:.3f}"
    of_size: dict[str, list[Any]] = {}
    for result in group:
        for lesions in result["metrics"]["lesions"]["by_size"]:
            of_size.setdefault(_size_in_words(*lesions["ml"]), []).append(lesions)
    for words, classes in of_size.items():  # pooled: a person may have few of a size
        there = sum(lesions["lesions"] for lesions in classes)
        row[words] = sum(lesions["found"] for lesions in classes) / there if there else float("nan")
    for person in people:
        for name in OF_EACH:
            row[f"{name}, {person}"] = float(values[name].groupby("person")["value"].mean().get(person, np.nan))
    return row | mean_costs(group)


def _size_in_words(low: float, high: float | None) -> str:
    if high is None:
        return f"found above {low:g} ml"
    return f"found up to {high:g} ml" if low == 0 else f"found {low:g} to {high:g} ml"


def pictures(results: Sequence[Result], folder: Path) -> None:
    """``roc.png``: a panel for each person, a curve for each detector and way of scoring, with its mean AUROC."""
    found: dict[str, dict[str, list[Any]]] = {}
    for result in results:
        name = f"{result['detector']}, {result['settings']['options']['way']}".removesuffix(", -")
        found.setdefault(_person(result), {}).setdefault(name, []).append(result["metrics"])
    panels: dict[str, dict[str, list[Any]]] = {person: {} for person in found}
    for person, rows in found.items():
        for name, metrics in rows.items():
            auroc = sum(one["voxels"]["auroc"] for one in metrics) / len(metrics)
            panels[person][f"{auroc:.3f} {name}"] = [one["roc"] for one in metrics]
    if panels:
        roc_panels(panels, folder / "roc.png")


def over_people(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """95 % interval of the mean of people's values (n,), from all resamples of the people, or 10,000 of many."""
    if len(values) <= MOST_EXACT:
        means = np.array([np.mean(drawn) for drawn in product(values, repeat=len(values))])
    else:
        rng = np.random.default_rng(0)
        means = values[rng.integers(len(values), size=(10_000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _person(result: Result) -> str:
    options = result["settings"]["options"]
    if "test_person" not in options:
        raise InputError(f"a result of {result['detector']} is of no person: it was made by another experiment.")
    return str(options["test_person"])

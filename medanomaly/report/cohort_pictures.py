"""The pictures of a cohort report: curves of all detectors, and their case scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medanomaly.report.tables import number

Floats = NDArray[np.floating[Any]]

OWN, BASELINES = ("#b3261e", "#1f5f8b", "#2e6b4f", "#7a4fa3", "#b06a00"), ("0.25", "0.45", "0.65")
LINES = ("-", "--", ":")


def styles(names: Sequence[str], own: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each detector is drawn: those of the evaluation in colours, what they are held against in grey."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in own:
            found[name] = {"color": OWN[own.index(name) % len(OWN)], "linewidth": 2}
        else:
            place = len(found) % len(LINES)
            found[name] = {"color": BASELINES[place], "linestyle": LINES[place], "linewidth": 1.3}
    return found


def curves(rows: Sequence[Mapping[str, Any]], own: Sequence[str], of_cases: bool) -> Figure | None:
    """ROC and precision-recall curves of all rows of an evaluation, side by side; None if none has a curve.

    Args:
        rows: of ``evaluate_cohort``.
        own: the names of the detectors; the others are what they are held against.
        of_cases: whole cases in place of voxels.
    """
    figures, kind = ("case_level", "cases") if of_cases else ("voxels", "voxels in the region")
    drawn = [row for row in rows if ("case_roc" if of_cases else "roc") in row]
    if not drawn:
        return None
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    look = styles([row["name"] for row in drawn], own)
    for row in drawn:
        (rates, ranks), found = (row[f"case_{kind}" if of_cases else kind] for kind in ("roc", "pr")), row[figures]
        prevalence = np.mean([case["abnormal"] for case in row["cases"]]) if of_cases else found["prevalence"]
        roc.plot(rates["fpr"], rates["tpr"], label=f"{row['name']}: {number(found['auroc'])}", **look[row["name"]])
        label = f"{row['name']}: {number(found['average_precision'])}"
        pr.plot(ranks["recall"], ranks["precision"], label=label, **look[row["name"]])
    roc.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    pr.axhline(float(prevalence), color="0.8", linewidth=0.8)
    roc.set(xlabel=f"false positive rate ({kind})", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005))
    pr.set(xlabel=f"recall ({kind})", ylabel="precision", xlim=(0, 1), ylim=(0, 1.005))
    for axis, title in ((roc, "AUROC"), (pr, "average precision")):
        axis.legend(loc="best", title=title, fontsize=8, title_fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def score_distribution(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The case scores of each row, healthy below and abnormal above, with the threshold from normals.

    A detector whose scores span decades has them on a logarithmic axis.
    """
    columns = min(len(rows), 2)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(10.4, 1.75 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    rng = np.random.default_rng(0)
    for row, axis in zip(rows, axes, strict=False):
        scores = np.array([case["case_score"] for case in row["cases"]])
        abnormal = np.array([case["abnormal"] for case in row["cases"]])
        for place, (chosen, colour) in enumerate(((~abnormal, "#3b6ea5"), (abnormal, "#b3261e"))):
            height = place + rng.uniform(-0.22, 0.22, int(chosen.sum()))
            axis.plot(scores[chosen], height, "o", color=colour, alpha=0.6, markersize=5, markeredgewidth=0)
        threshold = row.get("case_level", {}).get("threshold")
        if threshold is not None:
            axis.axvline(threshold, color="0.4", linestyle="--", linewidth=1)
        if scores.min() > 0 and scores.max() > 100 * scores.min():
            axis.set_xscale("log")
        axis.set(yticks=[0, 1], yticklabels=["healthy", "abnormal"], ylim=(-0.5, 1.5))
        axis.set_title(row["name"], fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right", "left"]].set_visible(False)
    for axis in list(axes):
        axis.set_axis_off()
    return figure

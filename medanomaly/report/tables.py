"""Tables that a person reads in a terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def detector_table(result: dict[str, Any], title: str | None = None) -> Table:
    """The rows of an evaluation, in its order: voxel metrics with intervals, then case-level metrics.

    Where nobody has drawn what is abnormal, case-level metrics alone.

    Args:
        result: what ``evaluate_cohort`` returns.
        title: above the table.
    """
    if not any("voxels" in row for row in result["detectors"]):
        return _case_table(result, title)
    table = Table(title=title or f"Cases: {result['n_cases']}; voxels in the region only", title_justify="left")
    table.add_column("detector")
    for column in (
        "voxel AUROC",
        "95 % interval",
        "AP",
        "best Dice (oracle)",
        "case AUROC",
        "sensitivity",
        "specificity",
    ):
        table.add_column(column, justify="right")
    for row in result["detectors"]:
        voxels, case_level = row["voxels"], row.get("case_level", {})
        low, high = (row["intervals"]["auroc"][end] for end in ("low", "high"))
        table.add_row(
            row["name"],
            number(voxels["auroc"]),
            "-" if low is None else f"{number(low)} to {number(high)}",
            number(voxels["average_precision"]),
            number(voxels["best_dice"]),
            *(number(case_level.get(key)) for key in ("auroc", "sensitivity", "specificity")),
        )
    prevalence = result["detectors"][0]["voxels"]["prevalence"]
    return _with_caption(table, result, [f"lesion voxels: {100 * prevalence:.2f} % of the region"])


def _case_table(result: dict[str, Any], title: str | None) -> Table:
    """The rows of an evaluation of whole cases."""
    table = Table(title=title or f"Cases: {result['n_cases']}, each as a whole", title_justify="left")
    table.add_column("detector")
    for column in ("case AUROC", "95 % interval", "AP", "sensitivity", "specificity", "F1"):
        table.add_column(column, justify="right")
    for row in result["detectors"]:
        found = row["case_level"]
        low, high = (found["intervals"]["auroc"][end] for end in ("low", "high"))
        table.add_row(
            row["name"],
            number(found["auroc"]),
            "-" if low is None else f"{number(low)} to {number(high)}",
            *(number(found.get(key)) for key in ("average_precision", "sensitivity", "specificity", "f1")),
        )
    ill = sum(case["abnormal"] for case in result["detectors"][0]["cases"])
    return _with_caption(table, result, [f"abnormal cases: {ill} of {result['n_cases']}"])


def _with_caption(table: Table, result: dict[str, Any], notes: list[str]) -> Table:
    """``notes``, where thresholds come from, and the warnings of an evaluation below its table."""
    sources = {row.get("case_level", {}).get("threshold_from") for row in result["detectors"]} - {None}
    notes = [*notes, f"case threshold: {'; '.join(sorted(sources))}"] if sources else notes
    table.caption = "; ".join(notes) + "".join(f"\nWarning: {warning}" for warning in result.get("warnings", []))
    table.caption_justify = "left"
    return table


def score_table(summaries: Sequence[dict[str, Any]], normals: str, scored: str = "") -> Table:
    """One row a scored case: how it compares with normal cases; below, the cases whose brain mask is odd.

    Args:
        summaries: of :func:`medanomaly.report.summaries.summarise_case`.
        normals: where the case threshold comes from, see ``Calibration.case_threshold_in_words``.
        scored: what else a reader must know of the scores, see :func:`scored_in_words`.
    """
    caption = f"case threshold: {normals}" + (f"\nscores: {scored}" if scored else "")
    origins = Counter(case["region_from"] for case in summaries if case.get("region_from"))
    caption += f"\nmask from: {', '.join(f'{origin} ({n})' for origin, n in origins.items())}" if origins else ""
    caption += "".join(f"\nWarning, {case['case']}: {case['warning']}" for case in summaries if case.get("warning"))
    table = Table(title_justify="left", caption=caption, caption_justify="left")
    for column in ("case", "case score", "case threshold", "region above 99.5 % of normal voxels", "reading"):
        table.add_column(column, justify="left" if column in ("case", "reading") else "right")
    for summary in summaries:
        table.add_row(
            summary["case"],
            f"{summary['case_score']:.3g}",  # of GANomaly they may be far below 0.001
            f"{summary['case_threshold']:.3g}",
            f"{100 * summary['abnormal_fraction']:.2f} %",
            "more unusual than normals" if summary["abnormal"] else "within the range of normals",
        )
    return table


def scored_in_words(settings: Mapping[str, Any]) -> str:
    """Sign, prior and post-processing steps in a calibration's settings; empty if there is nothing to tell."""
    sign, prior, steps = settings.get("sign", "both"), settings.get("prior_weight", 0), settings.get("steps", [])
    told = [] if sign == "both" else [f"what is {'brighter' if sign == 'bright' else 'darker'} than expected alone"]
    if prior > 0:
        told.append(f"with an intensity prior (channel {settings.get('prior_channel', 0)}, weight {prior:g})")
    return ", ".join(told + ([f"after {', '.join(steps)}"] if steps else []))


def number(value: float | None) -> str:
    """Three digits, more of large numbers, or a dash where a figure is undefined."""
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"

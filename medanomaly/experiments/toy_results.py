"""Tables and pictures of the toy experiment, with the figures of Madzia-Madzou & Kuijf to hold ours against."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medanomaly.data import written_whole
from medanomaly.experiments.toy_measures import DiskHead
from medanomaly.report import save_figure
from medanomaly.workflows.benchmark import check_same, grouped

# Madzia-Madzou & Kuijf, Table 2: AUROC for each intensity and each diameter in mm. Its GANomaly is our variant K.
PAPER_SSIM = {
    ("ganomaly-k", "16px"): 0.64,
    ("ganomaly-k", "32px"): 0.46,
    ("progressive-ganomaly", "16px"): 0.83,
    ("progressive-ganomaly", "32px"): 0.81,
}
PAPER_DISKS = {
    "intensity": ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"],
    "size_mm": ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"],
}
PAPER_AUROC: dict[tuple[str, str], dict[str, list[float]]] = {
    ("ganomaly-k", "16px"): {
        "intensity": [0.61, 0.39, 0.10, 0.07, 0.15, 0.60, 0.94, 1.0, 1.0, 1.0],
        "size_mm": [0.37, 0.77, 0.93, 0.99, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    },
    ("ganomaly-k", "32px"): {
        "intensity": [0.79, 0.38, 0.14, 0.08, 0.31, 0.88, 1.0, 1.0, 1.0, 1.0],
        "size_mm": [0.37, 0.47, 0.65, 0.91, 0.99, 1.0, 1.0, 1.0, 1.0, 1.0],
    },
    ("progressive-ganomaly", "16px"): {
        "intensity": [0.06, 0.17, 0.12, 0.12, 0.99, 0.62, 0.39, 0.99, 1.0, 1.0],
        "size_mm": [0.91, 0.87, 0.96, 0.99, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    },
    ("progressive-ganomaly", "32px"): {
        "intensity": [0.57, 0.79, 0.13, 0.56, 0.88, 0.97, 0.97, 1.0, 1.0, 1.0],
        "size_mm": [0.21, 0.25, 0.62, 0.74, 0.88, 0.95, 0.99, 1.0, 1.0, 1.0],
    },
}
TESTS = {"intensity": "", "size_mm": " mm"}  # where the metrics have them, and their unit
COLUMNS_OF_TESTS = {"intensity": "intensities", "size_mm": "sizes"}
HEATMAP = "heatmap.png"  # in the folder of a run

Result = Mapping[str, Any]  # a file of results
Groups = Mapping[tuple[str, str], Sequence[Result]]  # (detector, setting) -> its seeds


def leaderboard(results: Sequence[Result]) -> pd.DataFrame:
    """One row a detector and setting: the mean over seeds of the mean over heads.

    ``intensities`` and ``sizes`` are the means of the AUROCs of either test; "X sd" is the standard deviation over
    seeds, and ``sd of heads`` that over heads, averaged over all disks and seeds.

    Raises:
        InputError: if results are of other heads or disks.
    """
    check_same(results, ("n_volumes", "heads"))
    rows: list[dict[str, Any]] = []
    for (detector, setting), group in grouped(results).items():
        figures = pd.DataFrame([_figures(result["metrics"]) for result in group])
        mean, sd = figures.mean(), figures.std()
        row: dict[str, Any] = {"detector": detector, "setting": setting, "seeds": len(group)}
        row["heads"] = group[0]["metrics"]["n_volumes"]
        for name in figures:
            row[name] = float(mean[name])
            if name in ("SSIM", "SSIM of own range", "intensities", "sizes"):
                row[f"{name} sd"] = float(sd[name])
            for test in [key for key, column in COLUMNS_OF_TESTS.items() if column == name]:
                row[f"{name}, 95 % over heads"] = _interval_over_heads(group, test)
        rows.append(row)
    return pd.DataFrame(rows)


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one run that the table shows."""
    ssim, made = metrics["ssim"] or {}, metrics.get("made_lesions") or {}
    conditions = [condition for test in TESTS for condition in metrics[test].values()]
    return {
        "SSIM": ssim.get("mean", np.nan),
        "SSIM of own range": ssim.get("own_range_mean", np.nan),
        **{
            name: float(np.mean([condition["auroc"]["mean"] for condition in metrics[test].values()]))
            for test, name in COLUMNS_OF_TESTS.items()
        },
        **{
            value + unit: condition["auroc"]["mean"]
            for test, unit in TESTS.items()
            for value, condition in metrics[test].items()
        },
        **{
            f"made lesions ({grid} grid) {name}": made.get(grid, {}).get(key, np.nan)
            for grid in ("scan", "resampled")
            for name, key in (("AUROC", "auroc"), ("AP", "average_precision"))
        },
        "sd of heads": float(
            np.mean([c["auroc"]["sd"] if c["auroc"]["sd"] is not None else np.nan for c in conditions])
        ),
    }


def _interval_over_heads(group: Sequence[Result], test: str) -> str:
    """95 % interval of a test's mean AUROC, by a bootstrap over heads (and seeds, each head of each counting once)."""
    means = [
        np.mean([condition["auroc"]["heads"] for condition in result["metrics"][test].values()], axis=0)
        for result in group
    ]
    heads = np.concatenate(means)
    drawn = np.random.default_rng(0).choice(heads, size=(2000, len(heads))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{low:.3f} to {high:.3f}"


def paper_table(results: Sequence[Result]) -> str:
    """Our figures beside those of the paper, as Markdown: rows are disks, columns detectors and sizes of patches.

    Ours are the mean and the standard deviation over all heads and seeds; "paper" is their Table 2, one head.
    """
    groups = grouped(results)
    header, rows = ["disk"], {"SSIM": ["SSIM"]}
    for test, unit in TESTS.items():
        for value in PAPER_DISKS[test]:
            rows[f"{test} {value}"] = [f"{value}{unit}"]
    for (detector, setting), group in groups.items():
        theirs = PAPER_AUROC.get((detector, setting))
        header += [f"{detector} {setting}"] + ([f"paper: {detector} {setting}"] if theirs else [])
        ssim = [result["metrics"]["ssim"]["mean"] for result in group if result["metrics"]["ssim"]]
        rows["SSIM"] += [_mean_and_sd(ssim)] + ([f"{PAPER_SSIM[detector, setting]:.2f}"] if theirs else [])
        for test in TESTS:
            for n, value in enumerate(PAPER_DISKS[test]):
                found = [result["metrics"][test].get(value) for result in group]
                values = [auroc for condition in found if condition for auroc in condition["auroc"]["heads"]]
                rows[f"{test} {value}"] += [_mean_and_sd(values)] + ([f"{theirs[test][n]:.2f}"] if theirs else [])
    lines = [header, ["---"] * len(header), *rows.values()]
    return (
        "AUROC of the disks, mean ± standard deviation over heads and seeds (SSIM: over seeds). Columns that begin "
        'with "paper:" are not ours: Madzia-Madzou & Kuijf, SPIE 2022, Table 2, other data, one head.\n\n'
        + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    )


def _mean_and_sd(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def pictures(results: Sequence[Result], output: Path) -> None:
    """``roc.png`` (figure 6), ``auroc.png``, and ``heatmap_<detector>_<setting>.png`` of the first seed."""
    groups = grouped(results)
    _roc_figure(groups, output / "roc.png")
    _auroc_figure(groups, output / "auroc.png")
    for (detector, setting), group in groups.items():
        drawn = output / "runs" / f"{detector}_{setting}_seed{group[0]['seed']}" / HEATMAP
        if drawn.exists():
            with written_whole(output / f"heatmap_{detector}_{setting}.png") as temporary:
                shutil.copyfile(drawn, temporary)


def _style(detector: str, setting: str) -> dict[str, Any]:
    """One colour a detector, one kind of line a patch size."""
    colours = {"ganomaly-a": "C0", "ganomaly-k": "C1", "progressive-ganomaly": "C2"}
    colours |= {"intensity": "0.1", "intensity-smoothed": "0.55", "intensity-equalised": "0.75"}
    colours |= {"intensity-inverted": "0.35"}
    colours |= {"autoencoder-spatial": "C4", "autoencoder-dense": "C5", "foreign-patch-interpolation": "C6"}
    colours |= {"denoising-autoencoder": "C8", "synthetic-anomalies": "C9", "fusion": "black"}
    return {
        "color": colours.get(detector, "C3"),
        "linestyle": {"16px": "-", "32px": "--", "both": "-."}.get(setting, ":"),
        "label": detector if setting == "voxel" else f"{detector}, {setting}",
    }


def _roc_figure(groups: Groups, path: Path) -> None:
    """The mean ROC curve of either test: all intensities, and the diameters up to 7 mm, as in figure 6."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    grid = np.linspace(0, 1, 501)
    for axis, test, most in zip(figure.subplots(1, 2), TESTS, (1.0, 7.0), strict=True):
        for (detector, setting), group in groups.items():
            conditions = [c for r in group for value, c in r["metrics"][test].items() if float(value) <= most]
            curve = np.mean([np.interp(grid, c["roc"]["fpr"], c["roc"]["tpr"]) for c in conditions], axis=0)
            auroc = np.mean([c["auroc"]["mean"] for c in conditions])
            style = _style(detector, setting)
            style["label"] += f": {auroc:.2f}"
            axis.plot(np.append(0, grid), np.append(0, curve), linewidth=1.4, **style)
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
        axis.set(xlabel="false positive rate (voxels in the brain)", ylabel="true positive rate")
        axis.set(xlim=(0, 1), ylim=(0, 1.005))
        axis.legend(loc="lower right", title="mean AUROC", fontsize=8)
        axis.set_title("disks of all intensities" if test == "intensity" else "disks of 1 to 7 mm", fontsize=10)
    save_figure(figure, path, dpi=75)


def _auroc_figure(groups: Groups, path: Path) -> None:
    """AUROC of each disk: mean and, as a band, standard deviation over heads and seeds."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, test in zip(axes, TESTS, strict=True):
        for (detector, setting), group in groups.items():
            values = list(group[0]["metrics"][test])
            aurocs = [
                np.array([a for r in group for a in r["metrics"][test][value]["auroc"]["heads"]]) for value in values
            ]
            mean, sd = (np.array([statistic(a) for a in aurocs]) for statistic in (np.mean, np.std))
            x, style = [float(value) for value in values], _style(detector, setting)
            axis.plot(x, mean, marker=".", linewidth=1.4, **style)
            axis.fill_between(x, np.maximum(mean - sd, 0), np.minimum(mean + sd, 1), color=style["color"], alpha=0.12)
        axis.axhline(0.5, color="0.8", linewidth=0.8)
    for tissue in ("grey matter", "white matter"):
        level = np.mean([head[tissue]["intensity"] for head in next(iter(groups.values()))[0]["metrics"]["control"]])
        axes[0].axvline(level, color="0.85", linewidth=5, zorder=0)
        axes[0].text(level, 0.01, tissue, fontsize=7, rotation=90, ha="center", va="bottom", color="0.35")
    axes[0].set(xlabel="intensity of the disk", ylabel="AUROC in the brain", ylim=(0, 1.02))
    axes[1].set(xlabel="diameter of the disk (mm), intensity 1")
    axes[1].legend(loc="lower right", fontsize=8)
    save_figure(figure, path, dpi=75)


def save_heatmaps(head: DiskHead, diameter_mm: float, intensities: Sequence[float], title: str, path: Path) -> None:
    """The middle slice of a head and its heatmap: the control image, and disks of some intensities.

    All heatmaps have one scale: from the 1st to the 99.9th percentile of the control image's scores.
    """
    disk = head.disk(diameter_mm)
    z = disk.shape[2] // 2
    versions = [head.version(), *(head.version(disk, intensity) for intensity in intensities)]
    low, high = np.nanpercentile(versions[0][1].numpy(), [1, 99.9])
    rows, columns = (np.flatnonzero(head.brain.any(dim=2).any(dim=axis).numpy()) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))

    def shown(volume: Any) -> NDArray[Any]:
        """Anterior up, the patient's right on the left."""
        picture: NDArray[Any] = np.asarray(volume[:, :, z][box])[::-1].T
        return picture

    figure = Figure(figsize=(2 * len(versions), 5.2), facecolor="black", layout="constrained")
    axes = figure.subplots(2, len(versions))
    style: dict[str, Any] = {"aspect": head.spacing[1] / head.spacing[0], "origin": "lower"}
    for n, (volume, heatmap) in enumerate(versions):
        axes[0, n].set_title(f"disk of {intensities[n - 1]:g}" if n else "control", color="white", fontsize=9)
        for axis in axes[:, n]:
            axis.imshow(shown(volume), cmap="gray", vmin=0, vmax=1, **style)
            axis.set_axis_off()
        drawn = axes[1, n].imshow(shown(heatmap), cmap="inferno", vmin=low, vmax=high, alpha=0.8, **style)
        if n:
            axes[1, n].contour(shown(disk), levels=[0.5], colors="cyan", linewidths=0.6)
    bar = figure.colorbar(drawn, ax=axes[1], fraction=0.02)
    bar.ax.tick_params(colors="white", labelsize=7)
    figure.suptitle(f"{title}: heatmap, on the scale of the control image", color="white", fontsize=10)
    save_figure(figure, path, dpi=62)

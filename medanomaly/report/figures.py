"""Pictures: a scan with its heatmap, and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from PIL import Image

from medanomaly.data.reading import read_display, read_volume
from medanomaly.data.writing import written_whole

DASHES = ("-", (0, (4, 1.5)), ":")  # of the curves of a panel, each in ten colours


def case_figure(
    images: Sequence[str | Path],
    display: str | Path,
    path: str | Path,
    label: str | Path | None = None,
    names: Sequence[str] = (),
    title: str = "",
    n_slices: int = 3,
) -> None:
    """Axial slices of a case: its channels, and its heatmap over the first channel with the lesions' outline.

    Shown as radiologists do: the patient's right is on the left of the picture.

    Args:
        images: files of the channels.
        display: the display map on the same grid, 0 to 100 (percent of normal voxels that score lower); of a picture,
            0 to 255.
        path: PNG to write.
        label: lesion mask, outlined in green.
        names: of the channels.
        title: above the picture.
        n_slices: rows; the slices with most lesion, or else with the highest scores.
    """
    channels = [read_canonical(image)[0] for image in images]
    heat, affine = canonical(*read_display(display))
    lesion = None if label is None else read_canonical(label)[0] > 0
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    weight = lesion if lesion is not None and lesion.any() else np.maximum(heat - 99, 0)
    slices = spread_slices(weight.sum(axis=(0, 1)), n_slices)
    titles = [*names, *(f"channel {n}" for n in range(len(names), len(channels))), "heatmap (top 10 % of normal)"]
    figure = Figure(figsize=(3.1 * len(titles), 3.3 * len(slices)), facecolor="black", layout="constrained")
    axes = figure.subplots(len(slices), len(titles), squeeze=False)
    style: dict[str, Any] = {"aspect": spacing[1] / spacing[0], "origin": "lower"}
    for row, z in zip(axes, slices, strict=True):
        for axis, image in zip(row, [*channels, channels[0]], strict=True):
            low, high = np.percentile(image[heat > 0], [1, 99.5])
            axis.imshow(axial_picture(image, z), cmap="gray", vmin=low, vmax=high, **style)
            axis.text(0.02, 0.5, "R", color="white", fontsize=7, transform=axis.transAxes, va="center")
            axis.set_axis_off()
        row[-1].imshow(
            np.ma.masked_less(axial_picture(heat, z), 90), cmap="inferno", vmin=90, vmax=100, alpha=0.75, **style
        )
        if lesion is not None and lesion[:, :, z].any():
            row[-1].contour(axial_picture(lesion, z), levels=[0.5], colors="lime", linewidths=0.8)
    for axis, name in zip(axes[0], titles, strict=True):
        axis.set_title(name, color="white", fontsize=9)
    if title:
        figure.suptitle(title, color="white", fontsize=10)
    save_figure(figure, path)


def roc_figure(result: dict[str, Any], path: str | Path) -> None:
    """ROC curves of all detectors of an evaluation (as figures 6 and 7 of Madzia-Madzou & Kuijf).

    Of voxels where the cohort has masks of lesions, and of whole cases where it has none.
    """
    counted = "voxels in the region" if any("voxels" in row for row in result["detectors"]) else "cases"
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axis = figure.subplots()
    for row in result["detectors"]:
        curve, figures = row.get("roc", row.get("case_roc")), row.get("voxels", row.get("case_level"))
        if curve is not None:
            axis.plot(curve["fpr"], curve["tpr"], label=f"{row['name']}: {figures['auroc']:.3f}", linewidth=1.5)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    axis.set(xlabel=f"false positive rate ({counted})", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005))
    axis.legend(loc="lower right", title="AUROC", fontsize=8)
    save_figure(figure, path)


def roc_panels(
    panels: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    path: str | Path,
    counted: str = "voxels in the region",
) -> None:
    """ROC curves in panels side by side (Madzia-Madzou & Kuijf, figures 6 and 7, with the axes the usual way round).

    Args:
        panels: title -> label in the legend -> curves of one colour (one a seed), each with ``fpr`` and ``tpr``; what
            stands at the same place in two panels has the same colour.
        path: PNG to write.
        counted: what the rates are shares of.
    """
    figure = Figure(figsize=(4.6 * len(panels), 4.8), layout="constrained")
    for axis, (title, detectors) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (label, curves) in enumerate(detectors.items()):
            for n, curve in enumerate(curves):  # once in the legend
                dashes = DASHES[number // 10 % len(DASHES)]  # there are ten colours
                style = {"color": f"C{number}", "linestyle": dashes, "label": "_" if n else label}
                axis.plot(curve["fpr"], curve["tpr"], linewidth=1.2, **style)
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
        axis.set(title=title, xlim=(0, 1), ylim=(0, 1.005))
        axis.set(xlabel=f"false positive rate ({counted})", ylabel="true positive rate")
        axis.legend(loc="lower right", title="AUROC", fontsize=7)
    save_figure(figure, path, colours=96)


def reconstructions_figure(
    images: Mapping[str, NDArray[Any]], rows: Mapping[str, Mapping[str, NDArray[Any]]], path: str | Path
) -> None:
    """Images side by side, and below each what a detector makes of it, such as its reconstruction and its map.

    Args:
        images: title -> images (n, H, W) in [0, 1].
        rows: name -> title -> what stands below each image, (n, H, W); a name that begins with "map" is drawn in
            colours, from 0 to the highest value of the row, and the others in grey from 0 to 1.
        path: PNG to write.
    """
    titles = [title for title, stack in images.items() for _ in stack]
    lines = {"input": np.concatenate(list(images.values()))}
    lines |= {name: np.concatenate([of[title] for title in images]) for name, of in rows.items()}
    figure = Figure(figsize=(0.85 * len(titles) + 0.3, 0.85 * len(lines) + 0.3), layout="constrained")
    axes = figure.subplots(len(lines), len(titles), squeeze=False)
    for line, (name, stack) in zip(axes, lines.items(), strict=True):
        is_map = name.startswith("map")
        style: dict[str, Any] = {
            "cmap": "inferno" if is_map else "gray",
            "vmin": 0,
            "vmax": stack.max() if is_map else 1,
        }
        for axis, image in zip(line, stack, strict=True):
            axis.imshow(image, **style)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=7)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=7)
    save_figure(figure, path)


def read_canonical(path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.floating[Any]]]:
    """Voxels (H, W, D) in the RAS order that is nearest, and the affine."""
    volume = read_volume(path)
    return canonical(volume.as_tensor().numpy(), volume.affine.numpy())


def canonical(volume: NDArray[Any], affine: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.floating[Any]]]:
    """A volume (H, W, D) in the RAS order that is nearest, and its affine."""
    image: Any = nib.as_closest_canonical(nib.Nifti1Image(volume, affine))
    assert aff2axcodes(image.affine) == ("R", "A", "S")
    return np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine)


def axial_picture(volume: NDArray[Any], z: int) -> NDArray[Any]:
    """An axial slice as a picture: anterior up, the patient's right on the left."""
    return np.asarray(volume[::-1, :, z].T)


def spread_slices(weight: NDArray[Any], n: int) -> list[int]:
    """Up to n slices with much weight that are not neighbours."""
    gap = max(len(weight) // 16, 1)
    chosen: list[int] = []
    for z in np.argsort(weight)[::-1]:
        if weight[z] > 0 and all(abs(int(z) - other) >= gap for other in chosen):
            chosen.append(int(z))
        if len(chosen) == n:
            break
    return sorted(chosen) or [len(weight) // 2]


def save_figure(figure: Figure, path: str | Path, dpi: int = 110, colours: int | None = None) -> None:
    """Write ``figure`` as a PNG, whole or not at all; with few ``colours``, which is enough for lines, a small one."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
        if colours is not None:
            with Image.open(temporary) as picture:
                picture.convert("RGB").quantize(colours).save(temporary, format="png", optimize=True)

"""The report of a case: one HTML file with a viewer, its regions, pictures, and what made the heatmap."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medanomaly.data import heatmap_path, read_provenance
from medanomaly.data.dicom_series import safe_name
from medanomaly.data.films import is_picture
from medanomaly.evaluation import Calibration
from medanomaly.evaluation.regions import FPR
from medanomaly.preprocessing.channels import channels_of_case
from medanomaly.report import case_pictures, pages
from medanomaly.report.films import film_layers
from medanomaly.report.region_files import read_regions
from medanomaly.report.tables import scored_in_words
from medanomaly.report.viewer_volumes import rarity_of, viewer_volumes

MODEL_CARD = ("description", "task", "data_source", "intended_use", "references", "version", "authors", "copyright")


def report_path(folder: str | Path, case: str) -> Path:
    """Where the report of a case lies."""
    return Path(folder) / case / "report.html"


def write_case_report(
    case: Mapping[str, Any], output_dir: str | Path, calibration: Calibration, summary: Mapping[str, Any]
) -> Path:
    """Write ``<output_dir>/<case>/report.html``, which opens without a network and loads nothing from elsewhere.

    Args:
        case: with ``case`` and ``image`` (paths).
        output_dir: the folder that scoring wrote to: heatmaps, ``run.json`` and, if there are any, regions.
        calibration: of the model.
        summary: of :func:`medanomaly.report.summaries.summarise_case`.

    Raises:
        InputError: if the scan cannot be read any more.
        ConfigError: if the viewer is not installed.
    """
    images = case["image"] if isinstance(case["image"], list | tuple) else [case["image"]]
    scans = channels_of_case(images, output_dir, case["case"]).as_tensor().numpy()
    file: Any = nib.load(heatmap_path(output_dir, case["case"]))
    heatmap, affine = np.asarray(file.dataobj, dtype=np.float32), file.affine
    rarity, scores = rarity_of(heatmap, calibration), heatmap[np.isfinite(heatmap)]
    names = [Path(safe_name(image)).name for image in images]
    has_regions = (Path(output_dir) / case["case"] / "regions.json").exists()
    regions = read_regions(output_dir, case["case"]) if has_regions else None
    run = read_provenance(Path(output_dir)) if (Path(output_dir) / "run.json").exists() else {}
    viewer: dict[str, Any] = {
        "colours": (255 * pages.heat_colours()(np.arange(256))[:, :3]).astype(int).tolist(),
        "from": case_pictures.SHOWN_FROM,
        "to": case_pictures.SHOWN_TO,
        "threshold": float(-np.log10(FPR if regions is None else regions["fpr"])),
        "names": names,
        "world": not is_picture(images[0]),  # whether where its voxels lie is known
    }
    volumes: dict[str, str] = {}
    pictures = [
        ("Scores of voxels", case_pictures.score_histogram(scores, calibration)),
        ("Score of the case", case_pictures.case_scores(summary, calibration)),
    ]
    notes = _warnings(summary, calibration, run)
    if 1 in heatmap.shape:
        viewer |= {"kind": "film", **film_layers(scans[0], rarity, affine)}
        slices = case_pictures.still(scans[0], rarity, affine)
    else:
        found = viewer_volumes(list(scans), rarity, affine)
        volumes = {f"scan-{number}": text for number, text in enumerate(found.scans)} | {"rarity": found.rarity}
        shown = [case_pictures.window(scan, np.isfinite(rarity)) for scan in scans[: len(found.scans)]]
        viewer |= {"kind": "volume", "windows": shown}
        slices = case_pictures.mosaic(scans[0], rarity, affine)
        if len(found.scans) < len(scans):
            notes.append(f"The viewer shows {names[0]} alone: {len(scans)} channels would make this page too large.")
        if found.factors != (1, 1, 1):
            joined = " x ".join(map(str, found.factors))
            notes.append(
                f"The viewer shows a coarser grid: {joined} voxels of the scan became one, with the mean of the scan "
                "and the highest score. The files have the grid of the scan."
            )
    path = report_path(output_dir, case["case"])
    pages.write_page(
        path,
        "case.html",
        case=case["case"],
        images=names,
        summary=summary,
        threshold_from=calibration.case_threshold_in_words(),
        expected=_expected(rarity),
        viewer=viewer,
        volumes=volumes,
        niivue=pages.niivue_source() if volumes else "",
        regions=regions,
        warnings=notes,
        slices=pages.as_data(slices, dpi=220 if 1 in heatmap.shape else 90),
        pictures=[(title, pages.as_data(figure)) for title, figure in pictures],
        made=_made(run, summary, heatmap.shape, affine),
        model=_model_card(run),
        settings={key: pages.as_text(value) for key, value in calibration.settings.items()},
        versions=pages.versions(),
    )
    return path


def _expected(rarity: Any) -> list[tuple[float, float]]:
    """For some shares of normal voxels that score above a threshold, the share of this case's that do."""
    inside = rarity[np.isfinite(rarity)]
    return [(share, float((inside > -np.log10(share)).mean())) for share in (0.1, 0.01, 0.005, 0.001, 0.0001)]


def _warnings(summary: Mapping[str, Any], calibration: Calibration, run: Mapping[str, Any]) -> list[str]:
    """What a reader must know before anything else."""
    notes = [str(summary["warning"])] if summary.get("warning") else []
    if not calibration.held_out:
        notes.append(
            "The thresholds come from scans that the detector was trained on, so new normal scans exceed them more "
            "often than is said here. Train with held-out normal scans."
        )
    elif calibration.case_rate() > 0.05:
        notes.append(
            f"Few normal cases were held out ({calibration.n_cases}): up to {100 * calibration.case_rate():.3g} % of "
            "new ones may exceed the case threshold."
        )
    told = scored_in_words(calibration.settings)
    if told:
        notes.append(f"The scores are of {told}." if told.startswith("what") else f"The scores are {told}.")
    if run.get("score_amp"):
        notes.append("The scores were computed in bfloat16, which rounds.")
    return [note[:1].upper() + note[1:] for note in notes]


def _made(run: Mapping[str, Any], summary: Mapping[str, Any], shape: Sequence[int], affine: Any) -> dict[str, str]:
    """When and of what the heatmap was made."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    made = {
        "scored": str(run.get("date", ""))[:19].replace("T", " "),
        "grid": f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{side:.3g}' for side in spacing)} mm, axes "
        f"{''.join(map(str, nib.aff2axcodes(affine)))}",
        "scored region": f"{100 * summary['region_fraction']:.1f} % of the image",
        "sign": run.get("sign", ""),
        "region from": run.get("region", ""),
        "model": Path(run["model"]).name if "model" in run else "",
        "epoch": run.get("epoch", ""),
        "weights, SHA-256": run.get("model_sha256", ""),
        "calibration, SHA-256": run.get("calibration_sha256", ""),
    }
    return {key: str(value) for key, value in made.items() if value}


def _model_card(run: Mapping[str, Any]) -> dict[str, str]:
    """What the model's own folder says of it, if it is where it was."""
    file = Path(run.get("model", "")) / "configs" / "metadata.json"
    if "model" not in run or not file.is_file():
        return {}
    metadata = json.loads(file.read_text(encoding="utf-8"))
    card = {key.replace("_", " "): metadata[key] for key in ("name", *MODEL_CARD) if metadata.get(key)}
    return {key: "; ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in card.items()}

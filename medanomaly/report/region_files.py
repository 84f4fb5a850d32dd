"""The regions of a scored case in files: a table for people, the same for machines, and a mask of numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from rich.table import Table

import medanomaly
from medanomaly.data import heatmap_path, save_on_grid, written_whole
from medanomaly.errors import InputError
from medanomaly.evaluation import Calibration, Regions, find_regions
from medanomaly.evaluation.regions import FPR, MIDLINE_MM, MIN_ML

MEANINGS = {
    "volume_ml": "ml; none for an image of one slice",
    "voxels": "count; they touch each other, if only by a corner",
    "peak, mean": "raw scores of the detector, higher is more abnormal",
    "normals_above": "share of normal voxels that score at least as high as the peak, 0 to 1",
    "*_r, *_a, *_s": "mm in the world of the scan's affine, RAS+: to the patient's right, front and top",
    "*_l, *_p": "the same in LPS: to the patient's left and back",
    "peak_i, peak_j, peak_k": "voxel of the highest score, counted from 0",
    "side": f"left, right, or midline: the centroid lies within {MIDLINE_MM:g} mm of middle_r, the mean r of all "
    "scored voxels; a head that is turned or tilted shifts that",
    "sign": "brighter or darker than expected, where the scores are of one of these alone",
}
SHOWN = 10  # regions of a case, in the terminal


def write_regions(
    folder: str | Path, case: str, calibration: Calibration, fpr: float = FPR, min_ml: float = MIN_ML
) -> Regions:
    """Write ``regions.csv``, ``regions.json`` and ``regions.nii.gz`` beside the heatmap of a case.

    Args:
        folder: of the scores.
        case: its id.
        calibration, fpr, min_ml: see :func:`medanomaly.evaluation.find_regions`.

    Raises:
        InputError: if there is no heatmap, or ``fpr`` or ``min_ml`` cannot be used.
    """
    path = heatmap_path(folder, case)
    heatmap: Any = read_map(path)
    found = find_regions(np.asarray(heatmap.dataobj, np.float32), heatmap.affine, calibration, fpr, min_ml)
    save_on_grid(found.labels, path.with_name("regions.nii.gz"), path, heatmap.affine, np.int32)
    with written_whole(path.with_name("regions.csv")) as temporary:
        found.table.to_csv(temporary, index=False, float_format="%.7g")
    rows = [{key: _plain(value) for key, value in row.items()} for row in found.table.to_dict("records")]
    content = {
        "case": case,
        "threshold": found.threshold,
        "fpr": found.fpr,
        "min_ml": found.min_ml,
        "middle_r": _plain(found.middle_r),
        "normals": calibration.source,
        "normals_held_out": calibration.held_out,
        "coordinates": "mm, world of the scan's affine, RAS+; centroid_l and centroid_p: LPS",
        "units": MEANINGS,
        "version": medanomaly.__version__,
        "regions": rows,
    }
    with written_whole(path.with_name("regions.json")) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False, indent=1), encoding="utf-8")
    return found


def read_regions(folder: str | Path, case: str) -> dict[str, Any]:
    """What ``regions.json`` of a case says.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    path = heatmap_path(folder, case).with_name("regions.json")
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        content["fpr"], content["regions"]
    except FileNotFoundError:
        raise InputError(f"there is no {path}: write it with medanomaly regions {folder}.") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}): write it again with medanomaly regions {folder}.") from error
    return content


def read_map(path: Path) -> Any:
    """The NIfTI file that scoring wrote; InputError if it is not there."""
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise InputError(f"there is no {path}: score the case first, or correct the folder of scores.") from None
    except nib.filebasedimages.ImageFileError as error:
        raise InputError(f"{path} cannot be read ({error}): score the case again.") from error


def region_table(case: str, found: Regions) -> Table:
    """The first regions of a case, for the terminal."""
    rows, is_flat = found.table, bool(found.table["volume_ml"].isna().any())
    title = f"{case}: {len(rows)} region(s) above {100 * (1 - found.fpr):.6g} % of normal voxels"
    title += f", of at least {found.min_ml:g} ml" if found.min_ml > 0 and not is_flat else ""
    more = f"the first {SHOWN} of {len(rows)}; all are in regions.csv" if len(rows) > SHOWN else None
    table = Table(title=title, title_justify="left", caption=more, caption_justify="left")
    for column in (
        "region",
        "voxels" if is_flat else "ml",
        "peak",
        "normals as high",
        "centroid R, A, S in mm",
        "side",
    ):
        table.add_column(column, justify="left" if column == "side" else "right")
    for row in rows.head(SHOWN).itertuples():
        table.add_row(
            str(row.region),
            str(row.voxels) if is_flat else f"{row.volume_ml:.3g}",
            f"{row.peak:.3g}",
            "none" if row.normals_above == 0 else f"{100 * row.normals_above:.2g} %",
            ", ".join(f"{value:.1f}" for value in (row.centroid_r, row.centroid_a, row.centroid_s)),
            " ".join(filter(None, (row.side, row.sign))),
        )
    return table


def _plain(value: Any) -> Any:
    """For JSON: None for NaN, and as many digits as in the CSV file."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value

"""A scored case with a marker at a known place in the world, on any grid, without a detector: as scoring leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from medanomaly.data import begin_scores, heatmap_path, record_scores, save_on_grid
from medanomaly.evaluation import Calibration
from medanomaly.report import write_score_summary
from tests.data.made_dicom import oblique_affine

SHAPE = (30, 34, 20)
MARKER = np.array([-13.0, 21.0, 4.0])  # r, a, s in mm: left, front, top
RADIUS = 6.0
SECOND = np.array([14.0, 5.0, -8.0])  # right, where a test asks for two
# RAS, flipped, permuted, each oblique and anisotropic
GRIDS = {
    "RAS": oblique_affine(),
    "LPS": oblique_affine((-1, -2, 3)),
    "PSR": oblique_affine((-2, 3, 1), (2.0, 1.5, 3.0)),
    "LAI": oblique_affine((-1, 2, -3), (2.0, 2.0, 2.0)),
}


def centred(affine: np.ndarray, centre: tuple[float, float, float] = (2.0, 14.0, -3.0)) -> np.ndarray:
    """The affine with the middle of the grid at ``centre``."""
    moved = affine.copy()
    moved[:3, 3] = centre - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return moved


def distances(affine: np.ndarray, to: np.ndarray = MARKER) -> np.ndarray:
    """Of each voxel's centre to a point in the world, in mm."""
    world = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return np.linalg.norm(world - to, axis=-1)


def planted_heatmap(affine: np.ndarray, second: bool = False) -> np.ndarray:
    """0 to 1 among what is normal; a ball of 2 to 3 around the marker, highest in its middle; NaN outside a box.

    With ``second``, another ball of 2.2 lies elsewhere.
    """
    heatmap = np.random.default_rng(0).random(SHAPE, np.float32)
    ball = distances(affine)
    heatmap[ball <= RADIUS] = (3 - ball / RADIUS)[ball <= RADIUS]
    if second:
        heatmap[distances(affine, SECOND) <= RADIUS] = 2.2
    inside = np.zeros(SHAPE, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    return np.where(inside, heatmap, np.nan).astype(np.float32)


def normals(**settings: object) -> Calibration:
    """Scores evenly from 0 to 2.5, so that 20 % lie above 2."""
    return Calibration.fit([np.linspace(0, 2.5, 100_001)], "1 held-out normal case", settings)


def planted_scores(
    folder: Path, affine: np.ndarray, scan: Path | None = None, case: str = "planted", second: bool = False
) -> Path:
    """A folder of scores of one case, whose scan (on ``affine``, written here unless given) shows the marker, too."""
    heatmap = planted_heatmap(affine, second)
    if scan is None:
        scan = folder.parent / f"{folder.name}_scan.nii.gz"
        image = np.where(np.isfinite(heatmap), 100 + 50 * (distances(affine) <= RADIUS), 0)
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), scan)
    model = folder.parent / f"{folder.name}_model"
    (model / "models").mkdir(parents=True)
    (model / "models" / "model.pt").write_bytes(b"made")
    calibration = normals()
    calibration.save(model / "models" / "calibration.json")
    cases = [{"case": case, "image": [str(scan)]}]
    begin_scores(folder, model, model / "models" / "calibration.json", cases)
    display = calibration.percentile(np.nan_to_num(heatmap))
    save_on_grid(heatmap, heatmap_path(folder, case), scan, affine)
    save_on_grid(display * np.isfinite(heatmap), heatmap_path(folder, case, "display"), scan, affine)
    record_scores(folder, cases)
    write_score_summary(cases, folder, calibration, report=False)
    return folder


def region_of(folder: Path, case: str = "planted") -> dict[str, float]:
    """The first region of a case, as its JSON file has it."""
    return dict(json.loads((folder / case / "regions.json").read_text())["regions"][0])

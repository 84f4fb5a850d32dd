"""Regions in files, written again at another threshold without scoring."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medanomaly.errors import InputError
from medanomaly.report import read_regions
from medanomaly.workflows import regions
from tests.report.planted import GRIDS, centred, planted_scores


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    return planted_scores(tmp_path / "out", centred(GRIDS["PSR"]))


def test_scoring_writes_them_at_the_usual_rate_on_the_grid_of_the_scan(scores: Path) -> None:
    content, table = read_regions(scores, "planted"), pd.read_csv(scores / "planted" / "regions.csv")
    assert content["fpr"] == 0.005 and content["threshold"] == pytest.approx(2.4875, abs=1e-5)
    assert content["coordinates"].startswith("mm, world of the scan's affine, RAS+")
    found = pd.DataFrame(content["regions"])
    assert list(found.columns) == list(table.columns)
    pd.testing.assert_frame_equal(found.drop(columns="sign"), table.drop(columns="sign"), check_dtype=False)
    labels, scan = nib.load(scores / "planted" / "regions.nii.gz"), nib.load(scores.parent / "out_scan.nii.gz")
    assert labels.shape == scan.shape and labels.get_data_dtype() == np.int32
    np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-5)
    assert int(labels.header["sform_code"]) == int(scan.header["sform_code"])
    heatmap = np.asarray(nib.load(scores / "planted" / "planted_heatmap.nii.gz").dataobj)
    np.testing.assert_array_equal(np.asarray(labels.dataobj) > 0, heatmap > content["threshold"])
    assert pd.read_csv(scores / "cases.csv")["regions"].tolist() == [1]


def test_another_rate_needs_no_scoring(scores: Path) -> None:
    before = pd.read_csv(scores / "planted" / "regions.csv")
    table = regions(scores, fpr=0.21)
    assert table["case"].tolist() == ["planted"] and table["voxels"][0] > before["voxels"][0]
    assert table["peak"][0] == pytest.approx(before["peak"][0])
    assert read_regions(scores, "planted")["fpr"] == 0.21
    assert np.asarray(nib.load(scores / "planted" / "regions.nii.gz").dataobj).sum() == table["voxels"][0]
    assert len(regions(scores / "planted", min_ml=100)) == 0
    assert read_regions(scores, "planted")["regions"] == []


def test_a_model_that_was_moved_is_named_and_another_is_refused(scores: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "out_model", tmp_path / "moved")
    with pytest.raises(InputError, match="--model"):
        regions(scores)
    assert len(regions(scores, model=tmp_path / "moved")) == 1
    other = tmp_path / "moved" / "models" / "calibration.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"source": "others"}))
    with pytest.raises(InputError, match="another calibration"):
        regions(scores, model=tmp_path / "moved")


def test_mistakes_are_named(scores: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scores of a case 'other': its cases are planted"):
        regions(scores, case="other")
    with pytest.raises(InputError, match=r"no run\.json"):
        regions(tmp_path)
    (scores / "planted" / "regions.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        read_regions(scores, "planted")
    (scores / "planted" / "planted_heatmap.nii.gz").unlink()
    with pytest.raises(InputError, match="score the case first"):
        regions(scores)

"""Labels on the grid of the scan, and what a label server reads there."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medanomaly.preprocessing import LabelMapd, brain_mri, heatmap_to_labels, heatmap_to_scan

AFFINE = np.array([[0.0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 2], [0, 0, 0, 1]])


def scored(**meta: object) -> dict[str, object]:
    scores = torch.tensor([0.1, 0.5, 0.7, torch.nan]).view(1, 4, 1, 1)
    image = MetaTensor(torch.rand(1, 9, 9, 9), affine=torch.eye(4), meta={"filename_or_obj": "a.nii.gz", **meta})
    return {"image": image, "pred": MetaTensor(scores, affine=torch.from_numpy(AFFINE))}


def test_above_the_threshold_is_1_and_all_else_0() -> None:
    labels = LabelMapd(0.5)(scored())["pred"]
    assert labels.dtype == np.uint8 and labels.shape == (1, 4, 1, 1)
    assert labels.ravel().tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, AFFINE),
        (AFFINE + 1e-5, AFFINE + 1e-5),  # the same but for rounding: the file's own
        (AFFINE + 1, AFFINE),
        (np.eye(3), AFFINE),  # of an image of two axes
    ],
)
def test_the_metadata_of_the_image_tell_the_grid_of_the_labels(known: np.ndarray | None, expected: np.ndarray) -> None:
    case = scored(spatial_shape=np.array([4, 1, 1, 1]), **({} if known is None else {"original_affine": known}))
    result = LabelMapd(0.5)(case)
    assert result["image"].meta["spatial_shape"].tolist() == [4, 1, 1]
    np.testing.assert_array_equal(result["image"].meta["original_affine"], expected)
    assert case["image"].meta["spatial_shape"].tolist() == [4, 1, 1, 1], "what came in stays as it was"


@pytest.fixture
def prepared(cohort: Path) -> tuple[object, dict[str, object]]:
    chain = brain_mri(1, (3, 3, 3), "nonzero")
    case = chain({"image": str(cohort.parent / "test-1" / "image0.nii.gz"), "image_path": "a label server's"})
    case["pred"] = torch.where(case["region"].as_tensor() > 0, case["image"].as_tensor(), torch.nan)
    return chain, case


def test_the_labels_are_those_of_the_heatmap_on_the_scan(
    prepared: tuple[object, dict[str, object]], cohort: Path, tmp_path: Path
) -> None:
    chain, case = prepared
    heatmap = np.asarray(heatmap_to_scan(chain)(case)["pred"])
    result = heatmap_to_labels(chain, 1.2, tmp_path / "runs", None, tmp_path / "asked")(case)
    np.testing.assert_array_equal(result["pred"], heatmap > 1.2)
    assert 0 < result["pred"].mean() < 0.5
    assert result["image_path"] == "a label server's" and "case" not in result
    kept = nib.load(tmp_path / "asked" / "image0" / "image0_heatmap.nii.gz")
    np.testing.assert_array_equal(np.asarray(kept.dataobj), heatmap[0])
    assert not (tmp_path / "runs").exists(), "it belongs to no run"
    heatmap_to_labels(chain, 1.2, tmp_path / "runs", None, tmp_path / "asked")({**case, "case": "mine"})
    assert (tmp_path / "runs" / "mine" / "mine_heatmap.nii.gz").exists()
    assert not (tmp_path / "asked" / "mine").exists()


def test_labels_are_given_where_no_heatmap_can_be_kept(
    prepared: tuple[object, dict[str, object]], tmp_path: Path
) -> None:
    chain, case = prepared
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="the heatmap is not kept"):
        result = heatmap_to_labels(chain, 1.2, tmp_path / "runs", None, tmp_path / "file")(case)
    assert result["pred"].any()
    heatmap_to_labels(chain, 1.2, tmp_path / "runs")(case)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}

"""Translation as a user runs it: unpaired lists, resuming, results on the grid of the scan, messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medanomaly.data.translation_phantoms import make_phantoms
from medanomaly.errors import ConfigError, InputError
from medanomaly.training import DetectorTrainer
from medanomaly.workflows import translate

SMALL = {
    "patch_size": 16,
    "features": 8,
    "spacing": None,
    "source_region": "given",
    "target_region": "given",
    "batch_size": 2,
    "patches_per_epoch": 6,
    "epochs": 2,
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads on CT, three others on MR."""
    return make_phantoms(tmp_path_factory.mktemp("phantoms"), n_source=2, n_target=3, n_validation=1, n_test=1)


@pytest.fixture(scope="module")
def model(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return translate.train(phantoms, tmp_path_factory.mktemp("runs") / "model", device="cpu", settings=SMALL)


def weights(root: Path) -> dict[str, torch.Tensor]:
    return torch.load(root / "models" / "model.pt", weights_only=True)


def test_lists_of_unequal_length_train_and_the_model_knows_its_classes(model: Path) -> None:
    known = json.loads((model / "settings.json").read_text())
    assert known["classes"] == 5 and len(known["target_cases"]) == 3
    assert {path.name for path in (model / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_a_training_that_died_ends_as_one_that_did_not(
    phantoms: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = DetectorTrainer._save, []

    def once(self: DetectorTrainer) -> None:
        save(self)
        saved.append(self.state.epoch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DetectorTrainer, "_save", once)
        translate.train(phantoms, tmp_path / "model", device="cpu", settings=SMALL)
    assert saved == [1] and not (tmp_path / "model/models/model.pt").exists()
    with pytest.raises(InputError, match="--resume"):
        translate.train(phantoms, tmp_path / "model", device="cpu", settings=SMALL)
    translate.train(output=tmp_path / "model", device="cpu", resume=True)
    uninterrupted = weights(model)
    assert all(torch.equal(value, uninterrupted[name]) for name, value in weights(tmp_path / "model").items())


def oblique(phantoms: Path, folder: Path) -> tuple[Path, Path]:
    """A head of the test section in another orientation, oblique, as a file of 20 x 22 x 3 voxels; and its mask."""
    angle = np.deg2rad(9)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([-2.0, 1.5, 4.0]), (11, -7, 3)
    for name in ("image", "region"):
        array = np.asarray(nib.load(phantoms.parent / "test-0" / f"{name}.nii.gz").dataobj)[20:40, 20:42, :3]
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    return folder / "image.nii.gz", folder / "region.nii.gz"


def test_results_lie_on_the_grid_of_the_scan(phantoms: Path, model: Path, tmp_path: Path) -> None:
    scan, mask = oblique(phantoms, tmp_path)
    (made,) = translate.translate(scan, model, tmp_path / "out", region=mask, device="cpu")
    (labels,) = translate.segment(scan, model, tmp_path / "out", kind="source", region=mask, device="cpu")
    assert made.name == "image_translated.nii.gz" and labels.name == "image_segmentation.nii.gz"
    for path in (made, labels):
        found, given = nib.load(path), nib.load(scan)
        assert found.shape == given.shape
        assert np.allclose(found.affine, given.affine, atol=1e-5)
    assert nib.load(labels).get_data_dtype() == np.uint8


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_network_that_changes_nothing_gives_back_the_prepared_scan(
    phantoms: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spatial_dims: int
) -> None:
    """Windows, their overlap and the way back move no voxel: the scan itself, by percentiles of its region."""
    scan, mask = oblique(phantoms, tmp_path)
    root = shutil.copytree(model, tmp_path / "model")
    known = json.loads((root / "settings.json").read_text()) | {"spatial_dims": spatial_dims}
    (root / "settings.json").write_text(json.dumps(known))
    monkeypatch.setattr("medanomaly.training.load_detector", lambda network, path: torch.nn.Identity())
    (made,) = translate.translate(scan, root, tmp_path / "out", region=mask, device="cpu")
    values, inside = (np.asarray(nib.load(path).dataobj) for path in (scan, mask))
    low, high = np.percentile(values[inside > 0], [5, 95])
    expected = np.where(inside > 0, (values - low) / (high - low), 0)
    assert np.allclose(np.asarray(nib.load(made).dataobj), expected, atol=1e-4)


def test_messages_say_what_is_wrong(phantoms: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'patch_size'"):
        translate.train(phantoms, tmp_path / "a", settings={"patchsize": 32})
    with pytest.raises(ConfigError, match="one of brain_mri"):
        translate.train(phantoms, tmp_path / "a", settings={"source": "ct"})
    with pytest.raises(InputError, match="no training to go on with"):
        translate.train(output=tmp_path / "a", resume=True)
    with pytest.raises(InputError, match=r"settings\.json"):
        translate.translate("scan.nii.gz", tmp_path, tmp_path / "out")
    content = json.loads(phantoms.read_text())
    del content["training"][0]["label"]
    (phantoms.parent / "half.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="training-0 have no 'label'"):
        translate.train(phantoms.parent / "half.json", tmp_path / "b", settings=SMALL)
    for case in (*content["training"], *content["validation"]):
        case.pop("label", None)
    (phantoms.parent / "none.json").write_text(json.dumps(content))
    root = translate.train(phantoms.parent / "none.json", tmp_path / "c", device="cpu", settings=SMALL | {"epochs": 1})
    assert not (root / "checkpoints/best.pt").exists()  # no loss ranks the epochs
    with pytest.raises(ConfigError, match="trained without labels"):
        translate.segment("scan.nii.gz", root, tmp_path / "out")

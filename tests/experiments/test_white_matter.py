"""The white-matter experiment on two made patients, laid out as the Open MS data are, and its baselines on the real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from medanomaly.experiments.benchmark import Run, run_benchmark
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from medanomaly.errors import InputError
from medanomaly.experiments import voxel_detectors, white_matter
from medanomaly.preprocessing import brain_mri

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "open_ms"
SHAPE = (44, 48, 44)
AFFINE = np.array([[-1.0, 0, 0, 22], [0, 1, 0, -24], [0, 0, 1, -22], [0, 0, 0, 1]])  # LAS, as the real ones


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Two smooth brains, each with two bright lesions of radius 3, one of them in the uppermost fifth."""
    root = tmp_path_factory.mktemp("open_ms")
    rng = np.random.default_rng(0)
    grid = np.indices(SHAPE).astype(float)
    brain = sum(((g - (s - 1) / 2) / (0.48 * s)) ** 2 for g, s in zip(grid, SHAPE, strict=True)) < 1
    for patient in ("patient07", "patient26"):
        lesions = np.zeros(SHAPE, bool)
        for centre in ((18, 24, 14), (24, 23, 33)):
            lesions |= ((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0) < 9
        flair, t1 = (100 + 200 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(2))
        flair += grid[2]  # brighter upwards, so that it matters where normal tissue is taken from
        flair[lesions] += 60
        (root / patient).mkdir()
        channels = {"FLAIR": flair * brain, "T1": t1 * brain, "T2": (300 - t1) * brain}
        for name, volume in (*channels.items(), ("lesions", lesions & brain)):
            nib.save(nib.Nifti1Image(volume.astype(np.float32), AFFINE), root / patient / f"{name}.nii.gz")
    return root


@pytest.fixture
def small(monkeypatch):
    quick = {"patience": 2, "batch_size": 16, "decay": False, "max_epochs": 1, "arguments": {"features": 8}}
    monkeypatch.setattr(
        white_matter,
        "SETTINGS",
        {**dict.fromkeys(white_matter.SETTINGS, quick), "one-class-svm": {**quick, "arguments": {}}},
    )
    monkeypatch.setattr(white_matter, "COMMON", {"patches_per_epoch": 64, "amp": False, "stride": 4})


def patient(root, name="patient07", n_channels=1):
    return white_matter.Patient(name, root, brain_mri(3, (1.0, 1.0, 1.0), "nonzero"), n_channels)


def volumes(root, name):
    """FLAIR and lesions of a patient as they are in the files."""
    files = (root / name / f"{kind}.nii.gz" for kind in ("FLAIR", "lesions"))
    return [np.asarray(nib.load(file).dataobj) for file in files]


def test_the_plan_has_each_detector_with_each_setting_and_the_baselines_once():
    planned = white_matter.runs(white_matter.DETECTORS, [3, 4], reduced=False)
    ids = [run.id for run in planned]
    assert ids[:3] == [f"{name}_flair_seed3" for name in ("intensity", "intensity-smoothed", "intensity-equalised")]
    assert ids[3:7] == [f"one-class-svm_{s}-16px_seed{n}" for s in ("flair", "flair+t1") for n in (3, 4)]
    voxel = [run for run in planned if run.detector in white_matter.VOXEL_DETECTORS]
    assert len(ids) == len(set(ids)) == 3 + 4 + 3 * 8 + len(voxel)
    assert len(voxel) == 2 * (4 * 2 + 1 + 5), "signs of four, FPI has none, five ways of the fusion"
    svm = [run for run in planned if run.detector == "one-class-svm"]
    assert all(run.settings["patches_per_epoch"] <= 5000 for run in svm)
    json.dumps([run.settings for run in planned])
    reduced = white_matter.runs(white_matter.DETECTORS, [0], reduced=True)
    assert {run.settings.get("patch_size", 16) for run in reduced if "sign" not in run.settings} == {16}
    assert {run.settings.get("max_epochs", 1) for run in reduced} == {1}


def test_held_out_slices_are_the_uppermost_fifth_of_the_brain(data_root):
    brain = patient(data_root).brain
    held_out = white_matter.held_out_slices(brain)
    used = np.flatnonzero(brain.any(axis=(0, 1)))
    kept = used[~held_out[used]]
    assert held_out.sum() > 0 and kept.max() < np.flatnonzero(held_out).min() and held_out[used.max()]
    share = brain[..., held_out].sum() / brain.sum()
    assert 0.2 <= share < 0.2 + brain.sum(axis=(0, 1)).max() / brain.sum()


@pytest.mark.parametrize("patch_size", [16, 32])
def test_no_patch_holds_lesion_and_validation_comes_from_other_slices(data_root, small, patch_size):
    someone = patient(data_root, n_channels=2)
    held_out = white_matter.held_out_slices(someone.brain)
    assert someone.lesions[..., held_out].any() and someone.lesions[..., ~held_out].any()
    # what is cut out of these two "channels" says where it was cut
    number = torch.arange(SHAPE[2]).float().expand(SHAPE)
    someone.image = torch.stack([number, torch.from_numpy(someone.lesions).float()])
    run = white_matter.runs(["ganomaly-a"], [0], reduced=False)[0]
    run = Run(run.detector, run.setting, 0, {**run.settings, "patch_size": patch_size})
    drawn = [sampler.draw(2000) for sampler in white_matter.samplers(run, someone, held_out)]
    training, validation = ({int(z) for z in patches[:, 0].unique()} for patches in drawn)
    assert training and training <= set(np.flatnonzero(~held_out))
    assert validation and validation <= set(np.flatnonzero(held_out))
    assert all(patches[:, 1].max() == 0 for patches in drawn)


def test_the_whole_flow_with_tiny_trainings(data_root, small, tmp_path):
    detectors = ["intensity", "intensity-smoothed", "intensity-equalised", "one-class-svm", "ganomaly-k"]
    folder = run_benchmark("white-matter", detectors, [0], data_root, tmp_path, reduced=True)
    table = pd.read_csv(folder / "leaderboard.csv")
    assert list(table["detector"]) == detectors[:3] + ["one-class-svm"] * 2 + ["ganomaly-k"] * 2
    assert list(table["setting"]) == ["flair"] * 3 + ["flair-16px", "flair+t1-16px"] * 2
    assert (folder / "roc.png").stat().st_size > 10_000
    flair, lesions = volumes(data_root, "patient26")
    for file in (folder / "results").glob("*.json"):
        metrics, run = json.loads(file.read_text())["metrics"], folder / "runs" / file.stem
        image = nib.load(run / "patient26" / "patient26_heatmap.nii.gz")
        np.testing.assert_array_equal(image.affine, AFFINE)
        heatmap = np.asarray(image.dataobj)
        np.testing.assert_array_equal(np.isfinite(heatmap), flair != 0)
        scores, labels = heatmap[flair != 0], lesions[flair != 0] > 0
        assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
        assert metrics["average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
        low, high = metrics["intervals"]["auroc"]
        assert low <= metrics["auroc"] <= high
        called = scores > metrics["threshold"]
        dice = 2 * (called & labels).sum() / (called.sum() + labels.sum())
        assert metrics["dice"] == pytest.approx(dice) and dice <= metrics["best_dice_oracle"] + 1e-9
        assert len(metrics["roc"]["fpr"]) <= 200
        assert (run / "patient26.png").stat().st_size > 10_000


def test_brightness_ranks_as_the_files_say(data_root, tmp_path):
    metrics = white_matter.perform(white_matter.runs(["intensity"], [0], False)[0], data_root, tmp_path)
    flair, lesions = volumes(data_root, "patient26")
    inside = flair != 0
    assert metrics["auroc"] == pytest.approx(roc_auc_score(lesions[inside], flair[inside]), abs=1e-6)
    flair, lesions = volumes(data_root, "patient07")
    inside = flair != 0
    assert metrics["development_auroc"] == pytest.approx(roc_auc_score(lesions[inside], flair[inside]), abs=1e-6)
    normal = inside & (lesions == 0)
    p5, p95 = np.percentile(flair[inside], [5, 95])
    assert metrics["threshold"] == pytest.approx(np.quantile((flair[normal] - p5) / (p95 - p5), 0.995), rel=5e-3)


@pytest.mark.parametrize("detector", ["intensity", "one-class-svm", "denoising-autoencoder"])
def test_every_row_has_its_threshold_from_the_same_normals(detector, data_root, small, tmp_path, monkeypatch):
    monkeypatch.setattr(voxel_detectors, "REDUCED", {"max_epochs": 1, "patches_per_epoch": 16})
    run = white_matter.runs([detector], [0], reduced=True)[0]
    normals = []
    fit = white_matter.Calibration.fit
    monkeypatch.setattr(white_matter.Calibration, "fit", lambda cases, *a: normals.append(cases) or fit(cases, *a))
    metrics = white_matter.perform(run, data_root, tmp_path)
    flair, lesions = volumes(data_root, "patient07")
    ((scores,),) = normals
    assert scores.size == np.count_nonzero((flair != 0) & (lesions == 0))
    assert metrics["threshold_from"] == "0.5 % above it of: all lesion-free voxels of patient07"
    assert np.mean(scores > metrics["threshold"]) == pytest.approx(0.005, abs=1 / scores.size)


def test_evidence_tells_the_edge_from_the_inside(data_root):
    someone = patient(data_root, "patient26")
    depth = ndimage.distance_transform_edt(someone.brain)
    heatmap = np.where(someone.brain & (depth <= 3), 2, someone.lesions).astype(np.float32)
    assert depth[someone.lesions].min() > 5  # else the figures below would be others
    found = white_matter.by_region(heatmap, someone)
    assert found["mean_score"]["lesion"] == found["auroc_without_edge"] == 1
    assert found["mean_score"]["edge"] == 2 and found["auroc_against"]["edge"] == 0
    assert found["mean_score"]["normal white matter"] == 0 and found["auroc_against"]["normal white matter"] == 1
    assert 0 < found["auroc_against"]["normal"] < 1 and 0 < found["mean_score"]["dark"] < 2
    measured = white_matter.measure(heatmap, someone, threshold=0.5)
    assert measured["auroc"] == pytest.approx(found["auroc_against"]["normal"])
    assert measured["sensitivity"] == 1
    edge = (someone.brain & (depth <= 3)).sum() / (someone.brain & ~someone.lesions).sum()
    assert measured["false_positive_rate"] == pytest.approx(edge)


def test_the_table_gives_means_and_spread_over_seeds_and_the_figures_of_the_paper_apart():
    def result(detector, setting, seed, auroc):
        metrics = {"auroc": auroc, "average_precision": 0.5, "best_dice_oracle": 0.4, "dice": 0.3}
        metrics["intervals"] = {"auroc": [auroc - 0.1, auroc + 0.1], "average_precision": [0.4, 0.6]}
        metrics |= {"evidence": {"auroc_without_edge": 0.7}, "development_auroc": 0.6}
        return {"detector": detector, "setting": setting, "seed": seed, "metrics": metrics}

    table = white_matter.leaderboard(
        [
            result("ganomaly-k", "flair+t1-16px", 0, 0.4),
            result("ganomaly-k", "flair+t1-16px", 1, 0.6),
            result("intensity", "flair", 0, 0.9),
        ]
    )
    assert list(table["detector"]) == ["intensity", "ganomaly-k"] and list(table["seeds"]) == [1, 2]
    assert table["AUROC"].tolist() == pytest.approx([0.9, 0.5])
    assert np.isnan(table["AUROC sd"][0]) and table["AUROC sd"][1] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert table["AUROC, 95 % over slices"].tolist() == ["0.800 to 1.000", "0.400 to 0.600"]
    assert table["AUROC without edge"].tolist() == pytest.approx([0.7, 0.7])
    assert table["AUROC in the paper, on its own data"].tolist() == ["-", "0.89"]


@pytest.mark.parametrize("key", ["n_voxels", "threshold_from"])
def test_results_that_were_not_measured_on_equal_terms_make_no_table(key):
    metrics = {"auroc": 0.5, "average_precision": 0.5, "n_voxels": 7, "threshold_from": "all tissue"}
    rows = [{"detector": "intensity", "setting": "flair", "seed": seed, "metrics": dict(metrics)} for seed in range(2)]
    assert len(white_matter.leaderboard(rows)) == 1
    rows[1]["metrics"][key] = "another"
    with pytest.raises(InputError, match=f"do not share one {key}: intensity, flair has .* has another"):
        white_matter.leaderboard(rows)


def test_any_patients_can_be_trained_on_and_tested_on(data_root, tmp_path):
    given = {"training_patient": "patient26", "test_patient": "patient07"}
    files = {}
    for name, settings in (("swapped", given), ("as they are", {})):
        folder = run_benchmark("white-matter", ["intensity"], [0], data_root, tmp_path / name, settings=settings)
        files[name] = json.loads((folder / "results" / "intensity_flair_seed0.json").read_text())
        tested = settings.get("test_patient", "patient26")
        assert (folder / "runs" / "intensity_flair_seed0" / tested / f"{tested}_heatmap.nii.gz").exists()
    for name, tested in (("swapped", "patient07"), ("as they are", "patient26")):
        flair, lesions = volumes(data_root, tested)
        truth = roc_auc_score(lesions[flair > 0] > 0, flair[flair > 0])
        assert files[name]["metrics"]["auroc"] == pytest.approx(truth, abs=1e-6)
    run = white_matter.runs(["synthetic-anomalies"], [0], False)[0]
    swapped = replace(run, settings={**run.settings, **given})
    assert "patient26" in white_matter.origin(swapped)["trained_on"]


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_missing_scans_are_named(root, tmp_path):
    run = white_matter.runs(["intensity"], [0], False)[0]
    with pytest.raises(InputError, match=r"patient07/FLAIR.nii.gz: set --data-root"):
        white_matter.perform(run, None if root is None else tmp_path / root, tmp_path)


@pytest.mark.parametrize(
    ("detector", "auroc", "ap"), [("intensity", 0.948, 0.248), ("intensity-smoothed", 0.964, 0.639)]
)
def test_brightness_on_the_real_patient(detector, auroc, ap, tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"the real scans are not on this machine: {REAL} is absent")
    metrics = white_matter.perform(white_matter.runs([detector], [0], False)[0], REAL, tmp_path)
    assert (round(metrics["auroc"], 3), round(metrics["average_precision"], 3)) == (auroc, ap)


def test_a_fusion_is_trained_once_and_scored_every_way(data_root, tmp_path, monkeypatch):
    tiny = {"patch_size": 32, "stride": 16, "batch_size": 4, "patches_per_epoch": 16}
    monkeypatch.setattr(voxel_detectors, "COMMON", {**voxel_detectors.COMMON, **tiny})
    monkeypatch.setattr(voxel_detectors, "REDUCED", {"max_epochs": 1})
    members = [{"detector": "denoising_autoencoder", "features": 8, "channels": [0, 2]}]
    monkeypatch.setattr(white_matter, "FUSION", [*members, {"detector": "synthetic_anomalies", "features": 8}])
    folder = run_benchmark("white-matter", ["intensity", "fusion"], [0], data_root, tmp_path, reduced=True)
    table = pd.read_csv(folder / "leaderboard.csv")
    ways = ["both", "bright+prior-post"]
    assert list(table["setting"]) == ["flair", *ways]
    assert len({round(value, 6) for value in table["AUROC"]}) == 3, "each way scores otherwise"
    models = [path.relative_to(folder / "runs").as_posix() for path in (folder / "runs").rglob("model.pt")]
    assert models == ["fusion_seed0_training/model.pt"]
    result = json.loads((folder / "results" / "fusion_bright+prior-post_seed0.json").read_text())
    assert result["settings"]["channels"] == ["FLAIR", "T1", "T2"] and result["settings"]["prior_weight"] > 0
    assert "patient07" in result["trained_on"] and "made lesions" in result["settings_chosen"]


def test_coronal_patches_end_at_the_held_out_slices_too(data_root):
    someone = patient(data_root, n_channels=2)
    held_out = white_matter.held_out_slices(someone.brain)
    number = torch.arange(SHAPE[2]).float().expand(SHAPE) + 1
    someone.image = torch.stack([number, number])
    settings = {"patch_size": 16, "planes": ["coronal", "sagittal"], "batch_size": 8, "patches_per_epoch": 8}
    drawn = [s.draw(2000) for s in white_matter.samplers(Run("a", "b", 0, settings), someone, held_out)]
    training, validation = ({int(z) - 1 for z in patches.unique() if z > 0} for patches in drawn)
    assert training and training <= set(np.flatnonzero(~held_out))
    assert validation and validation <= set(np.flatnonzero(held_out))

"""The white-matter experiment on two made patients, laid out as the Open MS data are, and its baselines on the real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from medanomaly.errors import InputError
from medanomaly.experiments import voxel_detectors, white_matter_paper
from medanomaly.experiments.white_matter_paper_results import leaderboard
from medanomaly.patches import PatchSampler, PatchSpec
from medanomaly.workflows.benchmark import run_benchmark
from medanomaly.workflows.bundles import copy_bundle
from medanomaly.workflows.scorers import train_scorer

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "open_ms"
SHAPE = (44, 48, 44)
AFFINE = np.array([[-1.0, 0, 0, 22], [0, 1, 0, -24], [0, 0, 1, -22], [0, 0, 0, 1]])  # LAS, as the real ones
EXPERIMENT = white_matter_paper.white_matter_paper()


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
    quick = {"max_epochs": 1, "batch_size": 16, "stride": 8, "patches_per_epoch": 32}
    small = {name: (bundle, quick) for name, (bundle, _) in white_matter_paper.PATCH_DETECTORS.items()}
    small["ganomaly-k"] = ("ganomaly", {**quick, "variant": "K", "network_def#features": 8})
    small["one-class-svm"] = ("one_class_svm", {"max_samples": 32, "batch_size": 16, "stride": 8})
    monkeypatch.setattr(white_matter_paper, "PATCH_DETECTORS", small)


def volumes(root, name):
    """FLAIR and lesions of a patient as they are in the files."""
    files = (root / name / f"{kind}.nii.gz" for kind in ("FLAIR", "lesions"))
    return [np.asarray(nib.load(file).dataobj) for file in files]


def test_the_plan_has_each_detector_with_each_setting_and_the_baselines_once(tmp_path):
    planned = white_matter_paper.runs(white_matter_paper.DETECTORS, [3, 4], reduced=False)
    ids = [run.id for run in planned]
    plain = ("intensity", "intensity-smoothed", "intensity-equalised", "intensity-inverted")
    assert ids[:4] == [f"{name}_flair_seed3" for name in plain]
    assert ids[4:6] == ["tissue-outlier_flair+t1+t2_seed3", "tissue-outlier-bright_flair+t1+t2_seed3"]
    assert ids[6:10] == [f"one-class-svm_{s}-16px_seed{n}" for s in ("flair", "flair+t1") for n in (3, 4)]
    voxel = [run for run in planned if run.detector in white_matter_paper.VOXEL_DETECTORS]
    assert len(ids) == len(set(ids)) == 6 + 4 + 3 * 8 + len(voxel)
    assert len(voxel) == 2 * (4 * 2 + 1 + 5), "signs of four, FPI has none, five ways of the fusion"
    assert len({run.model for run in voxel}) == 2 * 6, "each is trained once a seed"
    assert "object at 0x" not in json.dumps([run.record for run in planned]), "records are the same in every process"
    for run in {run.model or run.id: run for run in planned if run.bundle and run.seed == 3}.values():
        copied = copy_bundle(run.bundle, tmp_path / run.id, run.settings)  # every setting has a place in its bundle
        config = json.loads((copied / "configs" / "train.json").read_text())
        assert config["max_epochs"] == run.settings.get("max_epochs", 1)
    reduced = white_matter_paper.runs(white_matter_paper.DETECTORS, [0], reduced=True)
    assert {run.settings.get("patch_size", 16) for run in reduced} == {16}
    assert {run.settings.get("max_epochs", 1) for run in reduced} == {1}


@pytest.mark.parametrize("patch_size", [16, 32])
def test_no_patch_holds_lesion(data_root, tmp_path, patch_size):
    (run, *_) = white_matter_paper.runs(["ganomaly-a"], [0], reduced=True)
    cohort = EXPERIMENT.cohort(run, data_root, tmp_path)
    (prepared,) = [cohort.preprocessing()(dict(case)) for case in cohort.training]
    prepared["image"] = prepared["label"].clone()  # what is cut out says whether it is lesion
    assert prepared["label"].any()
    drawn = PatchSampler([prepared], PatchSpec(patch_size), batch_size=8, patches_per_epoch=8, seed=0).draw(1000)
    assert drawn.max() == 0


def test_the_whole_flow_with_tiny_trainings(data_root, small, tmp_path):
    detectors = ["intensity", "intensity-smoothed", "one-class-svm", "ganomaly-k"]
    folder = run_benchmark(EXPERIMENT, detectors, [0], data_root, tmp_path, reduced=True)
    table = pd.read_csv(folder / "leaderboard.csv")
    assert list(table["detector"]) == detectors[:2] + ["one-class-svm"] * 2 + ["ganomaly-k"] * 2
    assert list(table["setting"]) == ["flair"] * 2 + ["flair-16px", "flair+t1-16px"] * 2
    assert (folder / "roc.png").stat().st_size > 10_000
    found = {file.stem: json.loads(file.read_text())["metrics"] for file in (folder / "results").glob("*.json")}
    flair, lesions = volumes(data_root, "patient26")
    inside = flair != 0
    for metrics in found.values():
        low, high = metrics["intervals_over_slices"]["auroc"]
        assert low <= metrics["voxels"]["auroc"] <= high
        assert metrics["voxels"]["n_voxels"] == np.count_nonzero(inside)
        assert metrics["at_threshold"]["dice"] <= metrics["voxels"]["best_dice"] + 1e-9
        assert len(metrics["roc"]["fpr"]) <= 100
        assert metrics["threshold_from"] == "1 training case, because no held-out normal cases were given"
    truth, scores = lesions[inside] > 0, flair[inside]
    plain = found["intensity_flair_seed0"]
    assert plain["voxels"]["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert plain["voxels"]["average_precision"] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    flair, lesions = volumes(data_root, "patient07")  # the threshold, from the training patient
    p5, p95 = np.percentile(flair[flair != 0], [5, 95])
    normal = (flair[(flair != 0) & (lesions == 0)] - p5) / (p95 - p5)
    assert plain["at_threshold"]["threshold"] == pytest.approx(np.quantile(normal, 0.995), rel=5e-3)
    channels = {file.parts[-4]: json.loads(file.read_text())["in_channels"] for file in folder.rglob("train.json")}
    assert channels["ganomaly-k_flair-16px_seed0"] == 1 and channels["ganomaly-k_flair+t1-16px_seed0"] == 2


@pytest.mark.parametrize("detector", ["intensity", "one-class-svm"])
def test_every_row_has_its_threshold_from_the_same_normals(detector, data_root, small, tmp_path):
    run = white_matter_paper.runs([detector], [0], reduced=True)[0]
    cohort = EXPERIMENT.cohort(run, data_root, tmp_path)
    if run.bundle is None:
        return
    scorer = train_scorer(run.bundle, cohort, tmp_path / "m", 0, run.settings, {})
    calibration, heatmap = scorer.calibration(cohort.normals, held_out=False), scorer.heatmap(cohort.training[0])
    flair, lesions = volumes(data_root, "patient07")
    scores = heatmap[(flair != 0) & (lesions == 0)]
    assert np.mean(scores > calibration.voxel_threshold()) == pytest.approx(0.005, abs=2e-3)


def test_the_table_gives_means_and_spread_over_seeds_and_the_figures_of_the_paper_apart():
    def result(detector, setting, seed, auroc):
        metrics = {"voxels": {"auroc": auroc, "average_precision": 0.5, "best_dice": 0.4, "n_voxels": 7}}
        metrics |= {"at_threshold": {"dice": 0.3}, "threshold_from": "x", "n_cases": 1}
        return {"detector": detector, "setting": setting, "seed": seed, "metrics": metrics}

    rows = [result("ganomaly-k", "flair+t1-16px", seed, auroc) for seed, auroc in enumerate((0.4, 0.6))]
    table = EXPERIMENT.leaderboard([*rows, result("intensity", "flair", 0, 0.9)])
    assert list(table["detector"]) == ["intensity", "ganomaly-k"] and list(table["seeds"]) == [1, 2]
    assert table["AUROC"].tolist() == pytest.approx([0.9, 0.5])
    assert np.isnan(table["AUROC sd"][0]) and table["AUROC sd"][1] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert table["AUROC in the paper, on its own data"].tolist() == ["-", "0.89"]
    assert list(
        leaderboard([("ganomaly-k", "flair+t1-16px")], [*rows, result("intensity", "flair", 0, 0.9)])["setting"]
    )


def test_any_patients_can_be_trained_on_and_tested_on(data_root, tmp_path):
    given = {"training_patient": "patient26", "test_patient": "patient07"}
    for name, settings, tested in (("swapped", given, "patient07"), ("as they are", {}, "patient26")):
        folder = run_benchmark(EXPERIMENT, ["intensity"], [0], data_root, tmp_path / name, settings=settings)
        metrics = json.loads((folder / "results" / "intensity_flair_seed0.json").read_text())["metrics"]
        flair, lesions = volumes(data_root, tested)
        truth = roc_auc_score(lesions[flair > 0] > 0, flair[flair > 0])
        assert metrics["voxels"]["auroc"] == pytest.approx(truth, abs=1e-6)
    with pytest.raises(InputError, match=r"training_patient='patient07', and training_patient='patient26' .* terms"):
        run_benchmark(EXPERIMENT, ["intensity-smoothed"], [0], data_root, tmp_path / "as they are", settings=given)
    with pytest.raises(InputError, match="cannot name a folder"):
        run_benchmark(EXPERIMENT, ["intensity"], [0], data_root, tmp_path, settings={"test_patient": "../x"})


def test_one_patient_cannot_be_learned_from_and_tested(data_root, small, tmp_path):
    run = white_matter_paper.runs(["ganomaly-k"], [0], reduced=True)[0]
    run = replace(run, options={**run.options, "test_patient": "patient07"})
    cohort = EXPERIMENT.cohort(run, data_root, tmp_path)
    with pytest.raises(InputError, match="are the same scan"):
        train_scorer(run.bundle, cohort, tmp_path / "m", 0, run.settings, {})


@pytest.mark.parametrize(
    ("root", "message"),
    [(None, "set --data-root"), ("nowhere", "nowhere does not exist"), (".", r"8 of 8 files .* patient07/FLAIR")],
)
def test_missing_scans_are_named(root, message, tmp_path):
    run = white_matter_paper.runs(["intensity"], [0], False)[0]
    with pytest.raises(InputError, match=message):
        EXPERIMENT.cohort(run, None if root is None else tmp_path / root, tmp_path)


def test_a_cohort_of_the_papers_form(data_root, tmp_path):
    """A datalist in place of the two patients: it is named in the command, and two lists are not mixed."""
    entry = {
        name: {"case": name, "image": [f"{name}/FLAIR.nii.gz"], "label": f"{name}/lesions.nii.gz"}
        for name in ("patient07", "patient26")
    }
    datalist = tmp_path / "list.json"
    datalist.write_text(json.dumps({"training": [entry["patient07"]], "test": [entry["patient26"]]}))
    experiment = white_matter_paper.white_matter_paper(datalist)
    folder = run_benchmark(experiment, ["intensity"], [0], data_root, tmp_path / "o")
    assert f"white-matter-paper --datalist {datalist} --detectors" in (folder / "leaderboard.md").read_text()
    (run,) = [run for run in experiment.runs(["ganomaly-k"], [0], True) if run.setting == "flair+t1-16px"]
    with pytest.raises(InputError, match="is to see 2 images, and patient07 has fewer"):
        experiment.cohort(run, data_root, tmp_path)
    del entry["patient26"]["label"]
    datalist.write_text(json.dumps({"training": [entry["patient07"]], "test": [entry["patient26"]]}))
    with pytest.raises(InputError, match="made with datalist="):
        run_benchmark(white_matter_paper.white_matter_paper(datalist), ["intensity"], [0], data_root, tmp_path / "o")
    with pytest.raises(InputError, match="patient26 have no 'label'"):
        run_benchmark(white_matter_paper.white_matter_paper(datalist), ["intensity"], [0], data_root, tmp_path / "p")


def test_brightness_on_the_real_patient(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"the real scans are not on this machine: {REAL} is absent")
    known = {"intensity": (0.948, 0.248), "intensity-smoothed": (0.964, 0.639)}
    folder = run_benchmark(EXPERIMENT, list(known), [0], REAL, tmp_path)
    for detector, figures in known.items():
        voxels = json.loads((folder / "results" / f"{detector}_flair_seed0.json").read_text())["metrics"]["voxels"]
        assert (round(voxels["auroc"], 3), round(voxels["average_precision"], 3)) == figures


def test_a_fusion_is_trained_once_and_scored_every_way(data_root, tmp_path, monkeypatch):
    tiny = {"patch_size": 32, "stride": 16, "batch_size": 4, "patches_per_epoch": 16, "max_epochs": 1}
    monkeypatch.setattr(voxel_detectors, "REDUCED", tiny)
    members = [{"detector": "denoising_autoencoder", "features": 8, "channels": [0, 2]}]
    monkeypatch.setattr(white_matter_paper, "FUSION", [*members, {"detector": "synthetic_anomalies", "features": 8}])
    folder = run_benchmark(EXPERIMENT, ["intensity", "fusion"], [0], data_root, tmp_path, reduced=True)
    table = pd.read_csv(folder / "leaderboard.csv")
    ways = ["both", "bright+prior-post"]
    assert list(table["setting"]) == ["flair", *ways]
    assert len({round(value, 6) for value in table["AUROC"]}) == 3, "each way scores otherwise"
    models = [path.relative_to(folder / "runs").as_posix() for path in (folder / "runs").rglob("model.pt")]
    assert models == ["fusion_seed0_training/model/models/model.pt"]
    result = json.loads((folder / "results" / "fusion_bright+prior-post_seed0.json").read_text())
    assert result["settings"]["options"]["channels"] == 3 and result["settings"]["scoring"]["prior_weight"] > 0
    assert "training patients" in result["trained_on"] and "made lesions" in result["settings_chosen"]

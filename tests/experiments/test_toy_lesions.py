"""The experiment from end to end on a small made cohort; its plan and its tables on made results."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from medanomaly.data.lesion_factory import LesionFactory, made_shapes
from medanomaly.detectors import Detector, IntensityBaseline
from medanomaly.errors import InputError
from medanomaly.experiments import toy_heads, toy_lesions
from medanomaly.experiments.toy_measures import measure_made_lesions, ssim_of_normals


def test_the_plan_has_brightness_once_and_each_detector_with_both_patch_sizes_and_each_seed():
    planned = toy_lesions.runs(toy_lesions.DETECTORS, [3, 4], reduced=False)
    assert [run.id for run in planned[:7]] == [
        "brightness_voxel_seed3",
        "intensity_voxel_seed3",
        "intensity-smoothed_voxel_seed3",
        "intensity-equalised_voxel_seed3",
        "ganomaly-a_16px_seed3",
        "ganomaly-a_16px_seed4",
        "ganomaly-a_32px_seed3",
    ]
    assert len(planned) == 1 + 3 + 3 * 2 * 2 + 2 * 6
    assert all(json.loads(json.dumps(run.settings)) == run.settings for run in planned)
    assert planned[0].settings["intensities"] == [n / 10 for n in range(1, 11)]
    assert planned[0].settings["sizes_mm"] == list(range(1, 11))
    assert all(run.settings["n_volumes"] == 8 for run in planned if run.detector in toy_lesions.VOXEL_DETECTORS)
    short = toy_lesions.runs(["ganomaly-k"], [0], reduced=True)[0].settings
    assert (short["max_epochs"], short["n_volumes"], short["sizes_mm"]) == (1, 2, [2, 4, 6, 8, 10])


@pytest.fixture(scope="module")
def quick():
    """Settings that take seconds: 3 mm voxels, two disks of each kind, hardly any training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_heads, "DEMO_SUBJECTS", {"n_training": 1, "n_validation": 1})
        reduced = {"spacing": [3.0, 3.0, 3.0], "n_volumes": 1, "intensities": [0.0, 1.0], "sizes_mm": [3, 7]}
        training = {"max_epochs": 1, "patches_per_epoch": 64, "batch_size": 32, "validation_patches": 32}
        patch.setattr(toy_lesions, "REDUCED", reduced)
        patch.setattr(toy_lesions, "REDUCED_TRAINING", {**training, "ssim_patches": 40})
        yield


@pytest.fixture(scope="module")
def done(quick, tmp_path_factory):
    """Brightness and a small GANomaly, performed in one folder; and that folder."""
    output = tmp_path_factory.mktemp("toy")
    brightness, ganomaly = toy_lesions.runs(["brightness", "ganomaly-a"], [0], reduced=True)[:2]
    ganomaly = dataclasses.replace(ganomaly, settings={**ganomaly.settings, "arguments": {"features": 4}})
    results = []
    for run in (brightness, ganomaly):
        if results:  # a cohort takes seconds to make
            shutil.copytree(*(output / "runs" / made.id / "cohort" for made in (brightness, run)))
        metrics = toy_lesions.perform(run, None, output / "runs" / run.id)
        written = json.dumps({"detector": run.detector, "setting": run.setting, "seed": 0, "metrics": metrics})
        assert "NaN" not in written
        results.append(json.loads(written))
    return results, output


def test_the_run_measures_every_disk(done):
    (brightness, ganomaly), _ = done
    assert brightness["metrics"]["ssim"] is None
    assert -1 <= ganomaly["metrics"]["ssim"]["mean"] <= 1
    for result in (brightness, ganomaly):
        metrics = result["metrics"]
        assert list(metrics["intensity"]) == ["0.0", "1.0"]
        assert list(metrics["size_mm"]) == ["3", "7"]
        assert metrics["size_mm"]["3"]["disk_voxels"] == [12]  # one voxel in each slice: 35 mm of 3 mm each
        for disk in (*metrics["intensity"].values(), *metrics["size_mm"].values()):
            assert 0 <= disk["auroc"]["mean"] <= 1
            assert len(disk["roc"]["fpr"]) == len(disk["roc"]["tpr"]) <= 100
        assert metrics["heads"] == brightness["metrics"]["heads"]  # the same disks for all
        assert metrics["control"][0]["white matter"]["intensity"] == pytest.approx(0.45, abs=0.03)
        assert 0.2 < metrics["control"][0]["grey matter"]["intensity"] < 0.36
    assert brightness["metrics"]["size_mm"]["7"]["auroc"]["mean"] == 1
    assert brightness["metrics"]["intensity"]["0.0"]["auroc"]["mean"] < 0.01


def test_the_test_heads_are_healthy(done):
    _, output = done
    cohort = toy_heads.healthy_heads(None, output / "runs" / "brightness_voxel_seed0", 1)
    assert {section: len(cases) for section, cases in cohort.items()} == {"training": 1, "validation": 1, "test": 1}
    assert "t1" in cohort["test"][0]["image"][0]
    with pytest.raises(InputError, match="2 healthy heads are needed"):
        toy_heads.healthy_heads(None, output / "runs" / "brightness_voxel_seed0", 2)


def test_tables_and_pictures(done):
    results, output = done
    frame = toy_lesions.leaderboard(results)
    assert list(frame["detector"]) == ["brightness", "ganomaly-a"]
    assert frame.loc[0, "7 mm"] == 1
    toy_lesions.pictures(results, output)
    for name in ("roc", "auroc", "heatmap_brightness_voxel", "heatmap_ganomaly-a_16px"):
        file = output / f"{name}.png"
        assert file.read_bytes()[:4] == b"\x89PNG"
        assert file.stat().st_size < 150_000


def made_result(detector, setting, seed, aurocs):
    disk = {"auroc": {"mean": float(np.mean(aurocs)), "sd": float(np.std(aurocs, ddof=1)), "heads": aurocs}}
    metrics = {
        "ssim": {"mean": 0.5 + seed / 10, "own_range_mean": 0.2},
        "intensity": {"0.1": disk},
        "size_mm": {"1": disk},
        "n_volumes": 2,
    }
    return {"detector": detector, "setting": setting, "seed": seed, "metrics": metrics}


def test_the_leaderboard_is_the_mean_over_seeds_of_the_mean_over_heads():
    results = [made_result("ganomaly-k", "16px", seed, [0.5 + seed / 10, 0.7]) for seed in (0, 1, 2)]
    row = toy_lesions.leaderboard(results).iloc[0]
    assert row["0.1"] == pytest.approx(0.65)
    assert row["1 mm"] == pytest.approx(0.65)
    assert row["SSIM"] == pytest.approx(0.6)
    assert row["SSIM sd"] == pytest.approx(0.1)
    assert row["intensities sd"] == pytest.approx(0.05)
    assert row["seeds"] == 3
    low, high = map(float, row["intensities, 95 % over heads"].split(" to "))
    heads = np.array([0.5, 0.7, 0.6, 0.7, 0.7, 0.7])
    half = 1.96 * heads.std() / np.sqrt(len(heads))
    assert (low, high) == pytest.approx((0.65 - half, 0.65 + half), abs=0.015)
    assert row["sd of heads"] == pytest.approx(np.mean([0.2, 0.1, 0.0]) / np.sqrt(2))


def test_the_papers_figures_stand_in_columns_of_their_own():
    table = toy_lesions.paper_table([made_result("ganomaly-k", "32px", 0, [0.5, 0.7])])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert lines[0] == ["disk", "ganomaly-k 32px", "paper: ganomaly-k 32px"]
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert rows["0.1"] == ["0.60 ± 0.14", "0.79"]
    assert rows["SSIM"] == ["0.50", "0.46"]
    assert rows["10 mm"] == ["-", "1.00"]
    assert len(rows) == 21


class Halver(Detector):
    """A detector whose reconstruction is the patch at half of its contrast."""

    def reconstruct(self, patches):
        return patches / 2


def test_ssim_is_that_of_the_patches_and_their_reconstructions():
    image = torch.rand(1, 20, 20, 1, generator=torch.Generator().manual_seed(0))
    case = {"image": image, "region": torch.ones_like(image)}
    settings = {"patch_size": 20, "ssim_patches": 3, "scoring_batch_size": 2}
    found = ssim_of_normals(Halver(patch_size=20), [case], settings)
    patch = image[0, :, :, 0].numpy()
    assert found["mean"] == pytest.approx(structural_similarity(patch, patch / 2, data_range=1.0), abs=1e-5)
    own = structural_similarity(patch, patch / 2, data_range=float(np.ptp(patch)))
    assert found["own_range_mean"] == pytest.approx(own, abs=1e-5)
    assert (found["n_patches"], found["sd"]) == (3, pytest.approx(0, abs=1e-6))
    assert ssim_of_normals(Detector(patch_size=20), [case], settings) is None


def test_made_lesions_are_put_into_the_grid_of_the_scan(done):
    _, output = done
    (case,) = toy_heads.healthy_heads(None, output / "runs" / "brightness_voxel_seed0", 1)["test"]
    lesions = toy_heads.MadeLesionsd(LesionFactory(made_shapes(5, np.random.default_rng(0)), contrast=(3, 3)), seed=1)
    plain, made = (toy_heads.prepare_heads((3.0, 3.0, 3.0), 0.45, 8, extra)(case) for extra in (None, lesions))
    change, label = made["image"] - plain["image"], made["label"]
    assert label.shape == change.shape and {-1, 1} >= set(label.unique().tolist()) - {0} and bool((label != 0).any())
    assert float(change[label > 0].mean() if bool((label > 0).any()) else -change[label < 0].mean()) > 0.05
    again = toy_heads.prepare_heads((3.0, 3.0, 3.0), 0.45, 8, lesions)(case)
    assert torch.equal(made["image"], again["image"])


def test_a_baseline_is_measured_on_made_lesions_in_either_grid(done):
    _, output = done
    cases = toy_heads.healthy_heads(None, output / "runs" / "brightness_voxel_seed0", 1)["test"]
    settings = {"spacing": [3.0, 3.0, 3.0], "white_matter": 0.45}
    settings["made_lesions"] = {"per_head": 6, "contrast": [8.0, 9.0]}
    found = measure_made_lesions(IntensityBaseline(spacing=settings["spacing"]), cases, settings, None)
    assert found["shapes"] == "100 made shapes"
    for grid in ("scan", "resampled"):
        figures = found[grid]
        assert 0 < figures["prevalence"] < 0.5 and 0 <= figures["auroc"] <= 1
        assert figures.get("auroc_bright", 1) > 0.9 and figures.get("auroc_dark", 0) < 0.3, (
            "brightness finds the bright"
        )

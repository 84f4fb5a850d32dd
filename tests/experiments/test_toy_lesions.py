"""The experiment from end to end on a small made cohort; its plan and its tables on made results."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from medanomaly.data.lesion_factory import LesionFactory, made_shapes
from medanomaly.detectors import Detector, IntensityBaseline
from medanomaly.errors import InputError
from medanomaly.experiments import toy_heads, toy_lesions
from medanomaly.experiments.toy_measures import measure_made_lesions, ssim_of_normals
from medanomaly.patches import PatchScoreInferer, PatchSpec
from medanomaly.workflows.benchmark import run_benchmark
from medanomaly.workflows.bundles import copy_bundle
from medanomaly.workflows.scorers import Scorer


def test_the_plan_has_brightness_once_and_each_detector_with_both_patch_sizes_and_each_seed(tmp_path):
    planned = toy_lesions.runs(toy_lesions.DETECTORS, [3, 4], reduced=False)
    assert [run.id for run in planned[:9]] == [
        "intensity_voxel_seed3",
        "intensity-smoothed_voxel_seed3",
        "intensity-equalised_voxel_seed3",
        "intensity-inverted_voxel_seed3",
        "tissue-outlier_voxel_seed3",
        "tissue-outlier-bright_voxel_seed3",
        "ganomaly-a_16px_seed3",
        "ganomaly-a_16px_seed4",
        "ganomaly-a_32px_seed3",
    ]
    assert len(planned) == len({run.id for run in planned}) == 6 + 3 * 2 * 2 + 2 * 6
    assert all("repr" not in json.dumps(run.record) for run in planned)
    assert planned[0].options["intensities"] == [n / 10 for n in range(1, 11)]
    assert planned[0].options["sizes_mm"] == list(range(1, 11))
    assert all(run.options["n_volumes"] == 8 for run in planned)
    (short,) = toy_lesions.runs(["ganomaly-k"], [0], reduced=True)
    assert short.settings["max_epochs"] == 1
    assert (short.options["n_volumes"], short.options["sizes_mm"]) == (2, [2, 4, 6, 8, 10])
    for run in planned[6::2]:  # every setting has a place in its bundle
        copied = copy_bundle(run.bundle, tmp_path / run.id, run.settings, chain="prepared")
        config = json.loads((copied / "configs" / "train.json").read_text())
        assert config["max_epochs"] == run.settings["max_epochs"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Brightness and a small GANomaly with hardly any training, run by the engine; 3 mm voxels, two disks of each."""
    output = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_heads, "DEMO_SUBJECTS", {"n_training": 1, "n_validation": 1})
        reduced = {"spacing": [3.0, 3.0, 3.0], "n_volumes": 1, "intensities": [0.0, 1.0], "sizes_mm": [3, 7]}
        patch.setattr(toy_lesions, "REDUCED", {**reduced, "ssim_patches": 40})
        own = {"patches_per_epoch": 64, "batch_size": 32, "network_def#features": 4}
        patch.setitem(toy_lesions.PATCHES, "ganomaly-a", ("ganomaly", own))
        names = ["intensity", "intensity-smoothed", "ganomaly-a"]
        folder = run_benchmark(toy_lesions.EXPERIMENT, names, [0], None, output, reduced=True)
    read = [json.loads(path.read_text()) for path in (folder / "results").glob("*.json")]
    assert all("NaN" not in path.read_text() for path in (folder / "results").glob("*.json"))
    return sorted(read, key=lambda result: names.index(result["detector"])), folder


def test_the_smoothing_is_in_millimetres_of_the_volumes(done):
    _, folder = done
    (run,) = toy_lesions.runs(["intensity-smoothed"], [0], reduced=True)
    cohort = toy_lesions.cohort(
        replace(run, options={**run.options, "spacing": [3.0] * 3, "n_volumes": 1}), None, folder / "runs" / "data"
    )
    assert cohort.preparation == {"spacing": [3.0, 3.0, 3.0]}


def test_the_run_measures_every_disk(done):
    (brightness, _, ganomaly), _ = done
    assert brightness["metrics"]["ssim"] is None
    assert -1 <= ganomaly["metrics"]["ssim"]["mean"] <= 1
    for result in (brightness, ganomaly):
        metrics = result["metrics"]
        assert list(metrics["intensity"]) == ["0.0", "1.0"]
        assert list(metrics["size_mm"]) == ["3", "7"]
        assert metrics["size_mm"]["3"]["disk_voxels"] == [12]  # one voxel in each slice: 35 mm of 3 mm each
        for disk in (*metrics["intensity"].values(), *metrics["size_mm"].values()):
            assert 0 <= disk["auroc"]["mean"] <= 1
            assert len(disk["roc"]["fpr"]) == len(disk["roc"]["tpr"]) <= 25
        assert metrics["heads"] == brightness["metrics"]["heads"]  # the same disks for all
        assert metrics["control"][0]["white matter"]["intensity"] == pytest.approx(0.45, abs=0.03)
        assert 0.2 < metrics["control"][0]["grey matter"]["intensity"] < 0.36
    assert brightness["metrics"]["size_mm"]["7"]["auroc"]["mean"] == 1
    assert brightness["metrics"]["intensity"]["0.0"]["auroc"]["mean"] < 0.01


def test_the_test_heads_are_healthy(done):
    _, output = done
    cohort = toy_heads.healthy_heads(None, output / "runs" / "data", 1)
    assert {section: len(cases) for section, cases in cohort.items()} == {"training": 1, "validation": 1, "test": 1}
    assert "t1" in cohort["test"][0]["image"][0]
    with pytest.raises(InputError, match="2 healthy heads are needed"):
        toy_heads.healthy_heads(None, output / "runs" / "data", 2)


def test_tables_and_pictures(done):
    results, output = done
    frame = toy_lesions.leaderboard(results)
    assert list(frame["detector"]) == ["intensity", "intensity-smoothed", "ganomaly-a"]
    assert frame.loc[0, "7 mm"] == 1
    for name in ("roc", "auroc", "heatmap_intensity_voxel", "heatmap_ganomaly-a_16px"):
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

    def scorer(network):
        network.weight = torch.nn.Parameter(torch.zeros(1))
        return Scorer(PatchScoreInferer(PatchSpec(20)), network, spec=PatchSpec(20))

    found = ssim_of_normals(scorer(Halver(patch_size=20)), [case], 3)
    patch = image[0, :, :, 0].numpy()
    assert found["mean"] == pytest.approx(structural_similarity(patch, patch / 2, data_range=1.0), abs=1e-5)
    own = structural_similarity(patch, patch / 2, data_range=float(np.ptp(patch)))
    assert found["own_range_mean"] == pytest.approx(own, abs=1e-5)
    assert (found["n_patches"], found["sd"]) == (3, pytest.approx(0, abs=1e-6))
    assert ssim_of_normals(scorer(Detector(patch_size=20)), [case], 3) is None


def test_made_lesions_are_put_into_the_grid_of_the_scan(done):
    _, output = done
    (case,) = toy_heads.healthy_heads(None, output / "runs" / "data", 1)["test"]
    lesions = toy_heads.MadeLesionsd(LesionFactory(made_shapes(5, np.random.default_rng(0)), contrast=(3, 3)), seed=1)
    plain, made = (toy_heads.prepare_heads((3.0, 3.0, 3.0), 0.45, 8, extra)(case) for extra in (None, lesions))
    change, label = made["image"] - plain["image"], made["label"]
    assert label.shape == change.shape and {-1, 1} >= set(label.unique().tolist()) - {0} and bool((label != 0).any())
    assert float(change[label > 0].mean() if bool((label > 0).any()) else -change[label < 0].mean()) > 0.05
    again = toy_heads.prepare_heads((3.0, 3.0, 3.0), 0.45, 8, lesions)(case)
    assert torch.equal(made["image"], again["image"])


def test_a_baseline_is_measured_on_made_lesions_in_either_grid(done):
    _, output = done
    cases = toy_heads.healthy_heads(None, output / "runs" / "data", 1)["test"]
    settings = {"spacing": [3.0, 3.0, 3.0], "white_matter": 0.45}
    settings["made_lesions"] = {"per_head": 6, "contrast": [8.0, 9.0]}
    scorer = Scorer(IntensityBaseline(spacing=settings["spacing"]))
    found = measure_made_lesions(scorer, [{"files": case} for case in cases], settings, None)
    assert found["shapes"] == "100 made shapes"
    for grid in ("scan", "resampled"):
        figures = found[grid]
        assert 0 < figures["prevalence"] < 0.5 and 0 <= figures["auroc"] <= 1
        assert figures.get("auroc_bright", 1) > 0.9 and figures.get("auroc_dark", 0) < 0.3, (
            "brightness finds the bright"
        )


def test_rows_of_other_heads_make_no_table():
    results = [made_result("ganomaly-k", "16px", seed, [0.5, 0.7]) for seed in (0, 1)]
    results[1]["metrics"]["heads"] = [{"case": "another"}]
    with pytest.raises(InputError, match="do not share one heads"):
        toy_lesions.leaderboard(results)

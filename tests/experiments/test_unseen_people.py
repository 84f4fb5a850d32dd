"""Lesions in unseen people: who learns, who is tested and who gives the thresholds, on made people; and the table."""

from __future__ import annotations

import json
from itertools import product

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score

from medanomaly.errors import InputError
from medanomaly.experiments import find_experiment, unseen_people
from medanomaly.experiments.unseen_people_results import leaderboard, over_people
from medanomaly.workflows.benchmark import run_benchmark

SHAPE = (40, 44, 40)
LAS = np.array([[-1.0, 0, 0, 20], [0, 1, 0, -22], [0, 0, 1, -20], [0, 0, 0, 1]])


def write_person(folder, channels, seed, label=None, brain=False):
    """A smooth brain with two bright lesions in the first channel."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    grid = np.indices(SHAPE).astype(float)
    inside = sum(((g - (s - 1) / 2) / (0.48 * s)) ** 2 for g, s in zip(grid, SHAPE, strict=True)) < 1
    lesions = np.zeros(SHAPE, bool)
    for centre in ((18, 20, 14), (22, 23, 28)):
        lesions |= ((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0) < 9
    anatomy, *own = (200 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(4))
    for n, channel in enumerate(channels):  # so alike that they can be registered
        volume = 100 + (1.0, -0.7, 0.8)[n] * anatomy + 0.2 * own[n] + 60 * lesions * (n == 0)
        nib.save(nib.Nifti1Image((volume * inside).astype(np.float32), LAS), folder / f"{channel}.nii.gz")
    for name, mask in ((label, lesions & inside), ("brain_mask" if brain else None, inside)):
        if name is not None:
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), LAS), folder / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    three = ("FLAIR", "T1", "T2")
    for n, name in enumerate(("patient07", "patient26")):
        write_person(root / "open_ms" / name, three, n, label="lesions")
    for n, name in enumerate(("patient01_scan1", "patient12_scan1", "patient12_scan2"), start=5):
        write_person(root / "ms_whole_head" / name, three, n, brain=True)
    write_person(root / "ms_whole_head" / "patient03_scan1", ("FLAIR", "T2"), 9, brain=True)
    (root / "open_ms" / "lesion_masks").mkdir()
    for n, name in enumerate(("pat03", "pat04", "pat05"), start=10):
        write_person(root / "brats2013" / name, ("FLAIR", "T1c"), n, label="tumour", brain=True)
    return root


def people(cohort):
    return [[case["case"] for case in section] for section in (cohort.training, cohort.validation, cohort.test)]


def cohorts(name, root, tmp_path, detector, **more):
    experiment = find_experiment(name, data_root=root, **more)
    found = {}
    for run in experiment.runs([detector], [0], True):
        found.setdefault(run.options["test_person"], people(experiment.cohort(run, root, tmp_path)))
    return found


def test_each_person_is_tested_by_what_learned_from_all_others_but_those_who_give_the_thresholds(root, tmp_path):
    held_out = ["patient12_scan1", "patient12_scan2"]
    assert cohorts("white-matter", root, tmp_path, "ensemble") == {
        "patient07": [["patient26", "patient01_scan1"], held_out, ["patient07"]],
        "patient26": [["patient07", "patient01_scan1"], held_out, ["patient26"]],
    }, "who lacks a channel, and who has no scans, takes no part"
    ms = ["patient07", "patient26", "patient01_scan1", *held_out]
    assert cohorts("tumours", root, tmp_path, "intensity") == {
        "pat03": [["pat05", *ms], ["pat04"], ["pat03"]],
        "pat04": [["pat03", *ms], ["pat05"], ["pat04"]],
        "pat05": [["pat04", *ms], ["pat03"], ["pat05"]],
    }


def test_what_sees_flair_alone_is_measured_on_the_voxels_of_all_channels(root, tmp_path):
    experiment = find_experiment("white-matter", data_root=root)
    alone, all_of_them = (
        experiment.runs([name], [0], True)[0] for name in ("synthetic-anomalies-flair", "synthetic-anomalies")
    )
    (one,), (three,) = (experiment.cohort(run, root, tmp_path).test for run in (alone, all_of_them))
    assert [len(case["image"]) for case in (one, three)] == [1, 3] and one["region"] == three["region"]
    cohort = experiment.cohort(alone, root, tmp_path)
    assert cohort.n_channels == 1 and not cohort.preparation["register"]
    assert experiment.cohort(all_of_them, root, tmp_path).preparation["register"]


def test_a_datalist_takes_the_place_of_the_folders(root, tmp_path):
    def case(name):
        own = {"case": name, "image": [f"open_ms/{name}/{channel}.nii.gz" for channel in ("FLAIR", "T1", "T2")]}
        return {**own, "label": f"open_ms/{name}/lesions.nii.gz"}

    (tmp_path / "d.json").write_text(json.dumps({"test": [case("patient07"), case("patient26")]}))
    assert cohorts("white-matter", root, tmp_path, "intensity", datalist=tmp_path / "d.json") == {
        "patient07": [["patient26"], [], ["patient07"]],
        "patient26": [["patient07"], [], ["patient26"]],
    }, "with nobody to spare, thresholds are of those who were learned from"
    (tmp_path / "d.json").write_text(json.dumps({"test": [case("patient07")]}))
    with pytest.raises(InputError, match="nobody to learn from"):
        find_experiment("white-matter", tmp_path / "d.json", root)


def test_who_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="--data-root to the folder that holds open_ms and ms_whole_head"):
        find_experiment("white-matter")
    with pytest.raises(InputError, match=r"nobody to test in .*brats2013"):
        find_experiment("tumours", data_root=tmp_path)


def test_the_whole_flow_with_a_tiny_training(root, tmp_path, monkeypatch):
    disease = unseen_people.DISEASES["tumours"]
    bundle, settings = disease.detectors["ensemble-flair"]
    members = [{**member, "patch_size": 32, "features": 8} for member in settings["members"]]
    quick = {**settings, "members": members, "patch_size": 32, "stride": 32, "batch_size": 8, "amp": False}
    monkeypatch.setitem(disease.detectors, "ensemble-flair", (bundle, quick))
    experiment = find_experiment("tumours", data_root=root)
    folder = run_benchmark(experiment, ["intensity", "ensemble-flair"], [0], root, tmp_path, reduced=True)
    table = pd.read_csv(folder / "leaderboard.csv")
    assert table[["detector", "sign"]].values.tolist() == [
        ["intensity", "-"],
        ["ensemble-flair", "both"],
        ["ensemble-flair", "both+place"],
        ["ensemble-flair", "both+side"],
        ["ensemble-flair", "bright"],
        ["ensemble-flair", "bright+prior"],
        ["ensemble-flair", "bright+side"],
    ]
    assert set(table["people"]) == {3} and (folder / "roc.png").exists()
    flair, lesions = (
        np.asarray(nib.load(root / "brats2013" / "pat04" / f"{name}.nii.gz").dataobj) for name in ("FLAIR", "tumour")
    )
    inside = flair != 0
    expected = average_precision_score(lesions[inside] > 0, flair[inside])
    assert table["AP, pat04"][0] == pytest.approx(expected, abs=1e-4)
    results = [json.loads(file.read_text()) for file in (folder / "results").glob("*pat04*.json")]
    assert len(results) == 7 and {r["metrics"]["threshold_from"] for r in results} == {"1 held-out normal case"}
    assert all(r["metrics"]["lesions"]["lesions"] == 2 for r in results)
    trained = [r for r in results if r["detector"] == "ensemble-flair"]
    assert all("pat04" not in r["trained_on"] and "at 2 mm" in r["settings_chosen"] for r in trained)


SMALL, LARGE = {"ml": [0.0, 0.1]}, {"ml": [1.0, None]}
SIZES = {
    "a": [{**SMALL, "lesions": 3, "found": 1}, {**LARGE, "lesions": 0, "found": 0}],
    "b": [{**SMALL, "lesions": 1, "found": 0}, {**LARGE, "lesions": 2, "found": 2}],
    "c": [{**SMALL, "lesions": 0, "found": 0}, {**LARGE, "lesions": 2, "found": 1}],
}


def result(detector, way, person, seed, ap, n_voxels=100):
    metrics = {
        "voxels": {"auroc": 0.9, "average_precision": ap, "best_dice": 0.5, "n_voxels": n_voxels},
        "at_threshold": {"dice": 0.4},
        "lesions": {"sensitivity": 0.5, "false_positives": 3, "by_size": SIZES[person]},
        "threshold_from": "x",
    }
    settings = {"options": {"way": way, "test_person": person}}
    row = {"detector": detector, "setting": f"{way}-{person}", "seed": seed}
    return {**row, "settings": settings, "metrics": metrics}


def test_rows_are_means_over_people_and_their_spread_is_over_seeds():
    figures = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.6, ("b", 1): 0.6, ("c", 0): 0.1, ("c", 1): 0.2}
    table = leaderboard([result("net", "both", person, seed, ap) for (person, seed), ap in figures.items()])
    (row,) = table.to_dict("records")
    assert row["AP"] == pytest.approx((0.3 + 0.4) / 2) and row["AP sd"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    assert (row["people"], row["seeds"], row["AP, a"]) == (3, 2, pytest.approx(0.3))
    assert row["found up to 0.1 ml"] == 1 / 4 and row["found above 1 ml"] == 3 / 4, "of all people together"
    means = [np.mean(drawn) for drawn in product([0.3, 0.6, 0.15], repeat=3)]
    low, high = np.percentile(means, [2.5, 97.5])
    shown = [float(end) for end in row["AP, 95 % over people"].split(" to ")]
    assert shown == pytest.approx([low, high], abs=6e-4)
    many = over_people(np.arange(20.0))
    assert many[0] < 9.5 < many[1] and many == over_people(np.arange(20.0))


def test_rows_on_other_voxels_are_refused():
    rows = [result("x", "-", "a", 0, 0.1), result("net", "both", "a", 0, 0.2, n_voxels=99)]
    with pytest.raises(InputError, match="equal terms"):
        leaderboard(rows)
    leaderboard([result("x", "-", "a", 0, 0.1), result("x", "-", "b", 0, 0.2, n_voxels=99)])

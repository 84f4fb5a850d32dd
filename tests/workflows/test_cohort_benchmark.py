"""The benchmark on a cohort of one's own, of heads with masks and of films with labels for the whole image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from medanomaly import cli, workflows
from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing import brain_mri
from medanomaly.workflows.bundles import find_bundle
from medanomaly.workflows.cohort import cohort_experiment
from medanomaly.workflows.cohort_table import cohort_table
from medanomaly.workflows.costs import NAMES

TINY: dict[str, Any] = {"spacing": [2, 2, 3], "stride": 8, "max_epochs": 1, "patches_per_epoch": 32}
TINY |= {"batch_size": 16, "max_samples": 20}
DETECTORS = ["intensity", "one_class_svm", "ganomaly"]


def on_disk(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def done(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command makes of the cohort of heads."""
    output = tmp_path_factory.mktemp("bench")
    arguments = ["benchmark", "cohort", "--datalist", str(cohort), "--detectors", ",".join(DETECTORS), "--seeds", "0"]
    for key, value in TINY.items():
        arguments += ["--set", f"{key}={json.dumps(value)}"]
    ran = CliRunner().invoke(cli.app, [*arguments, "--output", str(output)], catch_exceptions=False)
    assert ran.exit_code == 0 and "leaderboard.md" in ran.output
    return output


def result(folder: Path, detector: str) -> dict[str, Any]:
    return dict(json.loads((folder / "cohort" / "results" / f"{detector}_own_seed0.json").read_text()))


def test_the_command_leaves_a_table_curves_and_a_small_file_a_run(done: Path) -> None:
    table = pd.read_csv(done / "cohort" / "leaderboard.csv")
    assert list(table["detector"]) == ["intensity", "one_class_svm", "ganomaly"], (
        "baselines first, also those that learn"
    )
    assert {"AUROC", "AP", "best Dice (oracle)", "Dice at 0.5 % of normals", "case AUROC", "case F1"} <= set(table)
    voxels = result(done, "ganomaly")["metrics"]["at_threshold"]
    shown = table.set_index("detector").loc["ganomaly"]
    assert shown["sensitivity there"] == voxels["sensitivity"]
    assert shown["false positive rate there"] == voxels["false_positive_rate"]
    assert (done / "cohort" / "roc.png").stat().st_size > 10_000
    for detector in DETECTORS:
        found = result(done, detector)
        assert len(found["metrics"]["roc"]["fpr"]) == len(found["metrics"]["roc"]["tpr"]) <= 100
        assert "cases" not in found["metrics"] and len(json.dumps(found)) < 6000
        assert (done / "cohort" / "runs" / f"{detector}_own_seed0" / "evaluation" / "cases.csv").exists()
    text = (done / "cohort" / "leaderboard.md").read_text()
    assert "trained on the 2 training cases of datalist.json" in text and "--set 'spacing=[2, 2, 3]'" in text
    assert "Command: `medanomaly benchmark cohort --datalist " in text


def test_figures_and_threshold_of_brightness_are_those_of_the_files(done: Path, cohort: Path) -> None:
    metrics = result(done, "intensity")["metrics"]
    chain = brain_mri(1, (2, 2, 3))
    sections = json.loads(cohort.read_text())
    assert metrics["threshold_from"] == "1 held-out normal case"
    from medanomaly.data import read_datalist
    from medanomaly.detectors import IntensityBaseline
    from medanomaly.evaluation import HeatmapOnTheSpot

    source = HeatmapOnTheSpot(chain, IntensityBaseline(spacing=(2, 2, 3)))
    (normal,) = [source(case) for case in read_datalist(cohort, "validation")]
    maps = [source(case) for case in read_datalist(cohort, "test")]
    labels = [on_disk(cohort.parent / case["label"]) > 0 for case in sections["test"]]
    inside = [np.isfinite(heatmap) for heatmap in maps]
    scores, lesion = (np.concatenate([v[i] for v, i in zip(of, inside, strict=True)]) for of in (maps, labels))
    assert metrics["voxels"]["n_voxels"] == lesion.size
    assert metrics["voxels"]["auroc"] == pytest.approx(roc_auc_score(lesion, scores), abs=1e-6)
    assert metrics["voxels"]["average_precision"] == pytest.approx(average_precision_score(lesion, scores), abs=1e-6)
    threshold = metrics["at_threshold"]["threshold"]
    assert threshold == pytest.approx(np.nanquantile(normal, 0.995), rel=5e-3)
    called = scores > threshold
    dice = 2 * (called & lesion).sum() / (called.sum() + lesion.sum())
    assert metrics["at_threshold"]["dice"] == pytest.approx(dice)


def test_detectors_are_prepared_as_the_baseline_is(done: Path) -> None:
    options = [result(done, detector)["settings"]["options"] for detector in DETECTORS]
    assert options[0] == options[1] == options[2]
    assert options[0]["preparation"] == {"spacing": [2, 2, 3], "region": "auto"}
    for detector in DETECTORS[1:]:
        config = json.loads((done / "cohort/runs" / f"{detector}_own_seed0" / "model/configs/train.json").read_text())
        assert (config["spacing"], config["region"], config["stride"]) == ([2, 2, 3], "auto", 8)
    svm = json.loads((done / "cohort/runs/one_class_svm_own_seed0/model/configs/train.json").read_text())
    assert svm["max_samples"] == 20 and result(done, "one_class_svm")["settings"]["settings"]["max_samples"] == 20
    assert "max_samples" not in result(done, "ganomaly")["settings"]["settings"]
    found = {json.dumps(result(done, d)["metrics"]["voxels"]["n_voxels"]) for d in DETECTORS}
    assert len(found) == 1


def test_python_takes_up_what_the_command_made(
    done: Path, cohort: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = workflows.benchmark(cohort, DETECTORS, [0], done, settings=TINY)
    assert capsys.readouterr().err.count("done already") == 3 and len(table) == 3
    with pytest.raises(InputError, match=r"stride=8, and stride=16 is asked for"):
        workflows.benchmark(cohort, ["ganomaly"], [0], done, settings={**TINY, "stride": 16})
    with pytest.raises(InputError, match=r"intensity_own_seed0.json was made with preparation=.* and preparation="):
        workflows.benchmark(cohort, ["intensity"], [0], done, settings={**TINY, "spacing": [3, 3, 3]})
    shutil.copytree(cohort.parent, tmp_path / "other")
    entry = json.loads(cohort.read_text())
    entry["test"] = entry["test"][::-1][:1]
    (tmp_path / "other" / "datalist.json").write_text(json.dumps(entry))
    with pytest.raises(InputError, match=r"was made with cases=.*choose another --output"):  # a row that is new there
        workflows.benchmark(tmp_path / "other/datalist.json", ["intensity-smoothed"], [0], done, settings=TINY)


def test_without_validation_thresholds_come_from_lesion_free_training_voxels(cohort_maker: Any, tmp_path: Path) -> None:
    datalist = cohort_maker(tmp_path / "c", sections=(("training", 1), ("test", 2)))
    content = json.loads(datalist.read_text())
    image = nib.load(tmp_path / "c/training-0/image0.nii.gz")
    lesion = np.zeros(image.shape, np.uint8)
    lesion[10:20, 10:20, 8:12] = 1
    nib.save(nib.Nifti1Image(lesion, image.affine), tmp_path / "c/training-0/label.nii.gz")
    content["training"][0]["label"] = "training-0/label.nii.gz"
    datalist.write_text(json.dumps(content))
    workflows.benchmark(datalist, ["intensity"], [0], tmp_path / "o", settings={"spacing": None})
    metrics = result(tmp_path / "o", "intensity")["metrics"]
    assert metrics["threshold_from"] == "1 training case, because no held-out normal cases were given"
    values, brain = on_disk(tmp_path / "c/training-0/image0.nii.gz"), on_disk(tmp_path / "c/training-0/brain.nii.gz")
    low, high = np.percentile(values[brain > 0], [5, 95])
    normal = (values[(brain > 0) & (lesion == 0)] - low) / (high - low)
    assert metrics["at_threshold"]["threshold"] == pytest.approx(np.quantile(normal, 0.995), rel=5e-3)


def make_films(folder: Path, writer: Any) -> Path:
    """Noisy films of 20 x 16 pixels: healthy ones to learn from, and to test with, too, some with a bright mark."""
    folder.mkdir()
    random = np.random.default_rng(0)
    content: dict[str, list[dict[str, Any]]] = {}
    for section, n in (("training", 3), ("validation", 3), ("test", 6)):
        for number in range(n):
            pixels = random.integers(90, 110, (20, 16)).astype(np.uint8)
            ill = section == "test" and number % 2
            pixels[4:9, 4:9] += np.uint8(60 if ill else 0)
            writer(folder / f"{section}{number}.dcm", pixels, "MONOCHROME2", spacing=(0.3, 0.3))
            entry: dict[str, Any] = {"case": f"{section}{number}", "image": f"{section}{number}.dcm"}
            content.setdefault(section, []).append({**entry, "label": int(ill)} if section != "validation" else entry)
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def test_films_with_labels_for_the_whole_image(radiograph_writer: Any, tmp_path: Path) -> None:
    datalist = make_films(tmp_path / "films", radiograph_writer)
    settings = {**TINY, "size": [16, 16], "patch_size": 16, "stride": 16, "intensity_channel": 0}
    del settings["spacing"]
    names = ["intensity", "intensity-smoothed", "ganomaly"]
    table = workflows.benchmark(datalist, names, [0, 1], tmp_path / "o", chain="radiograph", settings=settings)
    columns = ["AUROC", "AP", "accuracy", "sensitivity", "specificity", "precision", "F1"]
    shown = [name for name in table if not name.endswith((" sd", "over cases"))]
    assert shown == ["detector", "seeds", *[f"case {name}" for name in columns], *NAMES], "image-level figures alone"
    assert list(table["seeds"]) == [1, 1, 2]
    metrics = result(tmp_path / "o", "intensity-smoothed")["metrics"]
    cases = pd.read_csv(tmp_path / "o/cohort/runs/intensity-smoothed_own_seed0/evaluation/cases.csv")
    assert list(cases["abnormal"]) == [False, True] * 3 and "voxels" not in metrics
    assert metrics["case_level"]["auroc"] == pytest.approx(roc_auc_score(cases["abnormal"], cases["case_score"]))
    assert len(metrics["roc"]["fpr"]) >= 2 and (tmp_path / "o/cohort/roc.png").stat().st_size > 5_000
    options = [result(tmp_path / "o", name)["settings"]["options"] for name in names]
    assert options[0] == options[2] and options[0]["preparation"] == {"region": "all", "size": [16, 16]}
    assert "--chain radiograph" in (tmp_path / "o/cohort/leaderboard.md").read_text()


def rows(**changed: Any) -> list[dict[str, Any]]:
    metrics = {"voxels": {"auroc": 0.5, "n_voxels": 7}, "threshold_from": "all tissue", "n_cases": 3}
    made = [{"detector": "a", "setting": "own", "seed": seed, "metrics": dict(metrics)} for seed in range(2)]
    made[1]["metrics"] |= changed
    return made


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("n_voxels", {"voxels": {"auroc": 0.5, "n_voxels": 8}}),
        ("threshold_from", {"threshold_from": "another"}),
        ("n_cases", {"n_cases": 4}),
    ],
)
def test_rows_on_unequal_terms_make_no_table(key: str, changed: dict[str, Any]) -> None:
    assert len(cohort_table(rows())) == 1
    with pytest.raises(InputError, match=f"do not share one {key}: a, own, seed 0 has .*; a, own, seed 1 has"):
        cohort_table(rows(**changed))


def test_means_spreads_and_what_is_undefined() -> None:
    made = rows(voxels={"auroc": 0.7, "n_voxels": 7, "best_dice": None})
    row = cohort_table(made).iloc[0]
    assert row["AUROC"] == pytest.approx(0.6) and row["AUROC sd"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert not any(name.startswith("best Dice") for name in row.index), "no row has it"
    some = [
        *made,
        *[
            dict(row, detector="b", metrics={**row["metrics"], "voxels": {"best_dice": 0.4, "n_voxels": 7}})
            for row in rows()
        ],
    ]
    assert cohort_table(some)["best Dice (oracle)"].to_list() == pytest.approx([np.nan, 0.4], nan_ok=True)


def test_figures_of_cases_that_need_healthy_and_abnormal_ones() -> None:
    cases = {"auroc": None, "average_precision": None, "sensitivity": 1.0, "specificity": None}
    table = cohort_table([dict(row, metrics={**row["metrics"], "case_level": cases}) for row in rows()])
    assert [name for name in table if name.startswith("case ")] == ["case sensitivity", "case sensitivity sd"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pach_size": 16}, "no bundle has a setting 'pach_size'"),
        ({"seed": 7}, "seed cannot be set in a benchmark: --seeds"),
        ({"in_channels": 2}, "in_channels cannot be set"),
        ({"patch_size": "$import os"}, "which MONAI would read as an expression"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        workflows.benchmark(cohort, ["intensity"], [0], tmp_path, settings=settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["no label", "leak", "validation leak", "chain", "no test", "channels"])
def test_cohorts_that_cannot_be_are_refused_before_work(fault: str, cohort: Path, tmp_path: Path) -> None:
    content, chain = json.loads(cohort.read_text()), "brain_mri"
    if fault == "no label":
        del content["test"][0]["label"]
    elif fault.endswith("leak"):
        section = "training" if fault == "leak" else "validation"
        (tmp_path / "copy.nii").write_bytes(nib.load(cohort.parent / content[section][0]["image"]).to_bytes())
        content["test"][0]["image"] = str(tmp_path / "copy.nii")
    elif fault == "chain":
        chain = "spleen_ct"
    elif fault == "no test":
        del content["test"]
    else:
        content["test"][0]["image"] = [content["test"][0]["image"]] * 2
    (tmp_path / "list.json").write_text(json.dumps(content))
    words = {"no label": "test-0 have no 'label'", "chain": "use one of brain_mri, radiograph"}
    words |= {"leak": "are the same scan", "validation leak": "are the same scan", "no test": "no cases in 'test'"}
    with pytest.raises((InputError, ConfigError), match=words.get(fault, "all need the same channels")):
        cohort_experiment(tmp_path / "list.json", cohort.parent, chain)


def test_the_channel_of_brightness_is_the_one_that_is_asked_for(cohort: Path) -> None:
    experiment = cohort_experiment(cohort, settings={"intensity_channel": 1, "preprocessing#clip": True})
    baseline, detector = experiment.runs(["intensity", "ganomaly"], [0], False)
    assert baseline.scoring == {"channel": 1} and detector.settings["intensity_channel"] == 1
    for run in (baseline, detector):
        assert experiment.cohort(run, None, cohort.parent).preparation["clip"] is True
    assert detector.settings["preprocessing#clip"] is True


def test_a_manifest_stands_for_a_datalist_and_a_folder_for_a_bundle(cohort: Path, tmp_path: Path) -> None:
    sections = json.loads(cohort.read_text())
    texts = dict.fromkeys(("name", "source", "licence", "layout", "split"), "made")
    (tmp_path / "made_heads.json").write_text(json.dumps({**texts, "region": "nonzero", **sections}))
    shutil.copytree(find_bundle("one_class_svm"), tmp_path / "my_svm")
    table = workflows.benchmark(
        manifest=tmp_path / "made_heads.json",
        data_root=cohort.parent,
        detectors=["intensity", str(tmp_path / "my_svm")],
        output=tmp_path / "out",
        settings=TINY,
    )
    assert list(table["detector"]) == ["intensity", "my_svm"]
    text = (tmp_path / "out" / "made_heads" / "leaderboard.md").read_text()
    assert f"`medanomaly benchmark cohort --manifest {tmp_path}/made_heads.json --brain nonzero" in text
    with pytest.raises(InputError, match=r"--datalist.*--manifest.*one of the two"):
        workflows.benchmark(cohort, manifest="open_ms", output=tmp_path / "out")
    with pytest.raises(InputError, match="needs the folder of the download: give --data-root"):
        workflows.benchmark(manifest="open_ms", output=tmp_path / "out")


def test_brightness_of_whole_images_is_run_only_where_it_is_named(cohort: Path) -> None:
    experiment = cohort_experiment(cohort)
    assert "intensity-mean" in experiment.detectors and "intensity-mean" in experiment.named_only


def test_what_needs_weights_is_run_only_where_it_is_named_or_has_them(cohort: Path) -> None:
    assert {"padim", "patchcore"} <= set(cohort_experiment(cohort).named_only)
    given = cohort_experiment(cohort, settings={"backbone_weights": "random"}).named_only
    assert not {"padim", "patchcore"} & set(given)

"""The command line as a user meets it: the same heatmaps as the bundle's commands, signs, and what it tells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.bundle import verify_net_in_out

from medanomaly.evaluation import Calibration
from medanomaly.report import tables
from medanomaly.workflows.bundles import copy_bundle, run_bundle


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, medanomaly.cli; print([m for m in ('torch', 'monai', 'numpy', 'nibabel') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_scores_are_those_of_the_bundle_command(
    command: Callable[..., int], cohort: Path, trained: Path, scores: Path, tmp_path: Path
) -> None:
    config = trained / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
    subprocess.run([*command, "--output_dir", str(tmp_path)], check=True, capture_output=True)
    for case in ("test-0", "test-1"):
        by_cli, by_bundle = (
            np.asarray(nib.load(folder / case / f"{case}_heatmap.nii.gz").dataobj) for folder in (scores, tmp_path)
        )
        np.testing.assert_array_equal(by_cli, by_bundle)
        assert (scores / case / "regions.csv").read_text() == (tmp_path / case / "regions.csv").read_text()


def test_a_single_scan_scores_as_it_does_in_its_cohort(
    command: Callable[..., int], cohort: Path, trained: Path, scores: Path, tmp_path: Path
) -> None:
    folder = cohort.parent / "test-1"
    arguments = ["--model", trained, "--output", tmp_path, "--brain", folder / "brain.nii.gz"]
    assert command("score", folder / "image0.nii.gz", *arguments) == 0
    alone = np.asarray(nib.load(tmp_path / "image0" / "image0_heatmap.nii.gz").dataobj)
    np.testing.assert_array_equal(alone, np.asarray(nib.load(scores / "test-1" / "test-1_heatmap.nii.gz").dataobj))


def test_nonzero_mask_serves_brain_extracted_scans(
    command: Callable[..., int], cohort: Path, trained: Path, scores: Path, tmp_path: Path
) -> None:
    scan = cohort.parent / "test-0" / "image0.nii.gz"
    assert command("score", scan, "--model", trained, "--output", tmp_path, "--brain", "nonzero") == 0
    alone = np.asarray(nib.load(tmp_path / "image0" / "image0_heatmap.nii.gz").dataobj)
    np.testing.assert_array_equal(alone, np.asarray(nib.load(scores / "test-0" / "test-0_heatmap.nii.gz").dataobj))


def test_summary_of_scores(scores: Path) -> None:
    table = pd.read_csv(scores / "cases.csv")
    assert list(table["case"]) == ["test-0", "test-1"]
    assert np.isfinite(table["case_score"]).all()
    assert table["abnormal_fraction"].between(0, 1).all()


def test_evaluate_finds_the_model_that_made_the_scores(
    command: Callable[..., int], cohort: Path, scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "--datalist", cohort, "--scores", scores) == 0
    result = json.loads((scores / "evaluation" / "metrics.json").read_text())
    assert result["n_cases"] == 2
    printed = capsys.readouterr().out
    assert printed.index("intensity") < printed.index("GANomaly"), "the trivial baseline comes first"


def test_training_is_resumed_or_refused(
    command: Callable[..., int], small: list[str], cohort: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--datalist", cohort, "--output", model, *small]
    assert command(*arguments, "--epochs", 1) == 3
    assert "--resume" in capsys.readouterr().err
    assert command(*arguments, "--epochs", 2, "--resume") == 2, "settings may not change on the way"
    assert "leave out --set" in capsys.readouterr().err
    assert command("train", "--output", model, "--epochs", 2, "--resume") == 0
    assert "epoch 2/2" in "".join(capsys.readouterr())


def test_a_model_that_is_fitted_at_once_is_neither_replaced_nor_resumed(
    command: Callable[..., int], small: list[str], cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--datalist", cohort, "--output", tmp_path, "--bundle", "one_class_svm", *small]
    assert command(*arguments, "--set", "max_samples=20") == 0
    fitted = (tmp_path / "models" / "model.pt").read_bytes()
    capsys.readouterr()
    for again in ([*arguments, "--set", "max_samples=30"], ["train", "--output", tmp_path, "--resume"]):
        assert command(*again) == 3
        assert "holds a finished model" in capsys.readouterr().err
    assert (tmp_path / "models" / "model.pt").read_bytes() == fitted
    assert json.loads((tmp_path / "configs" / "train.json").read_text())["max_samples"] == 20
    shutil.rmtree(tmp_path / "models")
    assert command(*arguments, "--set", "max_samples=30") == 0, "as the message says"


def test_scores_of_the_bundle_alone_can_be_evaluated(
    command: Callable[..., int], cohort: Path, trained: Path, tmp_path: Path
) -> None:
    run_bundle(trained, "inference", output_dir=tmp_path)
    arguments = ["evaluate", "--datalist", cohort, "--scores", tmp_path]
    assert command(*arguments) == 0
    assert command(*arguments, "--model", trained) == 0


def test_a_trained_bundle_reads_another_datalist_from_its_own_folder(
    trained: Path, tmp_path: Path, cohort_maker: Callable[..., Path]
) -> None:
    datalist = cohort_maker(tmp_path / "other", sections=(("test", 1),))
    (tmp_path / "other" / "test-0").rename(tmp_path / "other" / "moved")
    datalist.write_text(datalist.read_text().replace("test-0/", "moved/"))
    run_bundle(trained, "inference", datalist=str(datalist), output_dir=str(tmp_path / "out"))
    assert (tmp_path / "out" / "test-0" / "test-0_heatmap.nii.gz").exists()


def test_the_metadata_of_a_trained_bundle_tells_its_own_channels_and_patches(cohort: Path, tmp_path: Path) -> None:
    root = copy_bundle("ganomaly", tmp_path, {"in_channels": 2, "patch_size": 32, "spatial_dims": 3})
    metadata, config = root / "configs" / "metadata.json", root / "configs" / "inference.json"
    image = json.loads(metadata.read_text())["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["spatial_shape"]) == (2, [32, 32, 32])
    verify_net_in_out("network_def", meta_file=str(metadata), config_file=str(config), device="cpu")


@pytest.fixture(scope="module")
def signed_model(
    command: Callable[..., int], small: list[str], cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("signed") / "model"
    arguments = ["train", "--datalist", cohort, "--output", root, "--bundle", "denoising_autoencoder", "--epochs", 1]
    assert command(*arguments, *small, "--set", "features=8", "--set", "patch_size=32", "--set", "stride=16") == 0
    return root


def test_a_sign_is_chosen_told_and_evaluated_with_its_own_calibration(
    command: Callable[..., int], cohort: Path, signed_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", "--datalist", cohort, "--model", signed_model]
    heatmaps, thresholds = {}, {}
    for sign, asked, words in (
        ("both", [], None),
        ("bright", ["--sign", "bright"], "scores: what is brighter than expected alone"),
        ("dark", ["--sign", "dark"], "scores: what is darker than expected alone"),
    ):
        output = tmp_path / sign
        capsys.readouterr()
        assert command(*arguments, "--output", output, *asked) == 0
        printed = capsys.readouterr().out
        assert words in printed if words else "scores:" not in printed
        assert json.loads((output / "run.json").read_text())["sign"] == sign
        heatmaps[sign] = np.asarray(nib.load(output / "test-1" / "test-1_heatmap.nii.gz").dataobj)
        assert command("evaluate", "--datalist", cohort, "--scores", output) == 0
        metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
        thresholds[sign] = metrics["detectors"][-1]["case_level"]["threshold"]
        file = "calibration.json" if sign == "both" else f"calibration_{sign}.json"
        assert thresholds[sign] == pytest.approx(Calibration.load(signed_model / "models" / file).case_threshold())
    np.testing.assert_allclose(heatmaps["bright"] + heatmaps["dark"], heatmaps["both"], rtol=1e-3, atol=1e-5)
    assert thresholds["dark"] != thresholds["both"]
    assert command(*arguments, "--output", tmp_path / "bright", "--sign", "bright") == 0, "the same again"
    assert command(*arguments, "--output", tmp_path / "bright") == 3
    assert "holds heatmaps of the sign bright, and both was asked for" in capsys.readouterr().err


def test_a_model_that_was_trained_for_a_sign_is_scored_by_it(
    command: Callable[..., int], cohort: Path, signed_model: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(signed_model, tmp_path / "model")
    for name in ("train", "inference", "evaluate"):
        file = root / "configs" / f"{name}.json"
        file.write_text(file.read_text().replace('"sign": "both"', '"sign": "dark"'))
    arguments = ["score", "--datalist", cohort, "--model", root]
    for sign, asked in (("dark", []), ("both", ["--sign", "both"])):
        assert command(*arguments, "--output", tmp_path / sign, *asked) == 0
        assert json.loads((tmp_path / sign / "run.json").read_text())["sign"] == sign


def test_scores_that_name_no_sign_count_as_both(
    command: Callable[..., int], cohort: Path, signed_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"model": str(signed_model.resolve()), "cases": []}))
    arguments = ["score", "--datalist", cohort, "--model", signed_model, "--output", tmp_path]
    assert command(*arguments, "--sign", "dark") == 3
    assert "holds heatmaps of the sign both, and dark was asked for" in capsys.readouterr().err


def test_a_sign_that_a_model_does_not_tell_is_refused(
    command: Callable[..., int],
    cohort: Path,
    trained: Path,
    signed_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["score", "--datalist", cohort, "--output", tmp_path]
    assert command(*arguments, "--model", trained, "--sign", "bright") == 2
    assert "does not tell brighter from darker: leave out --sign" in capsys.readouterr().err
    for either in (trained, signed_model):
        assert command(*arguments, "--model", either, "--sign", "up") == 2
        assert "--sign is 'up': use one of both, bright, dark" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert command(*arguments, "--model", trained, "--sign", "both") == 0, "what it does anyway"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ""),
        ({"sign": "both", "prior_weight": 0.0, "steps": []}, ""),
        ({"sign": "dark"}, "what is darker than expected alone"),
        ({"prior_weight": 0.5, "prior_channel": 1}, "with an intensity prior (channel 1, weight 0.5)"),
        ({"steps": ["Median(size=3)", "a"]}, "after Median(size=3), a"),
        (
            {"sign": "bright", "prior_weight": 1, "prior_channel": 0, "steps": ["Median(size=3)"]},
            "what is brighter than expected alone, with an intensity prior (channel 0, weight 1), after Median(size=3)",
        ),
    ],
)
def test_the_summary_tells_sign_prior_and_steps(settings: dict, words: str) -> None:
    assert tables.scored_in_words(settings) == words
    caption = tables.score_table([], "1 normal case", words).caption
    assert caption == "case threshold: 1 normal case" + (f"\nscores: {words}" if words else "")


def test_bfloat16_scores_are_close_and_told(
    command: Callable[..., int], cohort: Path, trained: Path, scores: Path, tmp_path: Path
) -> None:
    arguments = ("--model", trained, "--output", tmp_path, "--brain", cohort.parent / "test-1" / "brain.nii.gz")
    assert command("score", cohort.parent / "test-1" / "image0.nii.gz", *arguments, "--amp") == 0
    assert json.loads((tmp_path / "run.json").read_text())["score_amp"] is True
    fast = np.asarray(nib.load(tmp_path / "image0" / "image0_heatmap.nii.gz").dataobj)
    exact = np.asarray(nib.load(scores / "test-1" / "test-1_heatmap.nii.gz").dataobj)
    assert not np.array_equal(fast, exact, equal_nan=True)
    inside = np.isfinite(exact)
    assert np.corrcoef(fast[inside], exact[inside])[0, 1] > 0.95  # a model of one epoch: its scores are all tiny


def test_benchmark_passes_its_lists_on_and_tells_what_there_is(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple] = []
    with monkeypatch.context() as patch:
        engine = import_module("medanomaly.workflows.benchmark")  # the package has a function of that name
        patch.setattr(engine, "run_benchmark", lambda *arguments: called.append((arguments[0].name, *arguments[1:])))
        given = (
            "--detectors",
            "pca, ganomaly-a",
            "--seeds",
            "3,4",
            "--output",
            tmp_path,
            "--reduced",
            "--set",
            "size=3",
        )
        assert command("benchmark", "fashion-mnist", *given) == 0
        assert command("benchmark", "fashion-mnist", "--data-root", tmp_path) == 0
    assert called == [
        ("fashion-mnist", ["pca", "ganomaly-a"], [3, 4], None, tmp_path, True, {"size": 3}),
        ("fashion-mnist", None, [0, 1, 2], tmp_path, Path("results"), False, {}),
    ]
    for arguments, words in (
        (["mnist"], "there are cohort, fashion-mnist, toy-lesions, white-matter-paper, white-matter, tumours"),
        (["fashion-mnist", "--seeds", "a"], "write --seeds 0,1,2"),
        (["fashion-mnist", "--detectors", "gan"], "it has intensity, intensity-inverted, pca"),
        (["fashion-mnist", "--detectors", "pca"], "--data-root"),
    ):
        assert command("benchmark", *arguments, "--output", tmp_path / "out") == 3
        assert words in capsys.readouterr().err


def test_options_reach_the_workflow_as_they_were_given(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    called: list[tuple] = []

    def recorded(*given: object, name: str, **named: object) -> pd.DataFrame:
        called.append((name, given, named))
        return pd.DataFrame({"case": ["a"], "display": ["o/a/a_display.nii.gz"]})

    for name in ("score", "evaluate"):
        monkeypatch.setattr(f"medanomaly.workflows.{name}", partial(recorded, name=name))
    assert command("score", "a.nii", "b.nii", "--model", "m", "--output", "o", "--region", "all", "--sign", "dark") == 0
    assert "o/CASE/: load CASE_display.nii.gz over the scan" in capsys.readouterr().out
    assert command("evaluate", "--datalist", "d.json", "--scores", "o", "--brain", "x {mask}", "--section", "s") == 0
    (_, scored, options), (_, evaluated, named) = called
    assert scored == ([Path("a.nii"), Path("b.nii")], Path("m"), Path("o"))
    assert (options["region"], options["sign"], options["amp"], options["datalist"]) == ("all", "dark", False, None)
    assert evaluated == (Path("d.json"), Path("o"))
    assert (named["region"], named["section"], named["model"]) == ("x {mask}", "s", None)

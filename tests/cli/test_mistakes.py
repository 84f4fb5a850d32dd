"""Mistakes of a user: each ends with one plain message, and nothing of what was there is replaced or mixed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch


def _two_channels(cohort: Path, tmp_path: Path) -> list[object]:
    image = cohort.parent / "test-0" / "image0.nii.gz"
    datalist = tmp_path / "two.json"
    datalist.write_text(json.dumps({"test": [{"image": [str(image), str(image)], "case": "two"}]}))
    return ["--datalist", datalist]


def _four_d(cohort: Path, tmp_path: Path) -> list[object]:
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8, 3), np.float32), np.eye(4)), tmp_path / "bold.nii.gz")
    return [tmp_path / "bold.nii.gz", "--brain", "nonzero"]


def _empty_mask(cohort: Path, tmp_path: Path) -> list[object]:
    scan = cohort.parent / "test-0" / "image0.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((40, 44, 20), np.uint8), nib.load(scan).affine), tmp_path / "mask.nii.gz")
    return [scan, "--brain", tmp_path / "mask.nii.gz"]


def _shifted(cohort: Path, tmp_path: Path) -> list[object]:
    """A brain-extracted scan whose header moves 0 to 50."""
    scan = nib.load(cohort.parent / "test-0" / "image0.nii.gz")
    shifted = nib.Nifti1Image(np.asarray(scan.dataobj).round().astype(np.int16), scan.affine)
    shifted.header.set_slope_inter(1, 50)
    nib.save(shifted, tmp_path / "shifted.nii.gz")
    return [tmp_path / "shifted.nii.gz", "--brain", "nonzero"]


def _with_brain(brain: str) -> Callable[[Path, Path], list[object]]:
    return lambda cohort, tmp: [cohort.parent / "test-0" / "image0.nii.gz", "--brain", brain]


def _misspelt(cohort: Path, tmp_path: Path) -> list[object]:
    datalist = tmp_path / "misspelt.json"
    datalist.write_text(json.dumps({"test": [{"imgae": "a.nii.gz"}]}))
    return ["--datalist", datalist]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda cohort, tmp: [tmp / "absent.nii.gz", "--brain", "nonzero"], ["absent.nii.gz", "does not exist"]),
        (_with_brain("given"), ["no brain mask", "nonzero"]),
        (_four_d, ["bold.nii.gz", "4-D", "(8, 8, 8, 3)"]),
        (_empty_mask, ["mask", "empty"]),
        (_two_channels, ["2 image channel(s)", "takes 1"]),
        (_shifted, ["shifted.nii.gz", "intercept", " 50", "brain mask"]),
        (_with_brain("bet '{image} {mask}"), ["bet '{image} {mask}", "quotation mark", "close it"]),
        (_with_brain("bet {image} {mask} {gpu}"), ["{gpu}", "{image} and {mask}"]),
        (_misspelt, ["'imgae'", "Did you mean 'image'"]),
        (lambda cohort, tmp: [], ["name the scans"]),
    ],
)
def test_mistakes_end_with_one_plain_message(
    command: Callable[..., int], arguments, words, cohort, trained, tmp_path, capsys
) -> None:  # type: ignore[no-untyped-def]
    output = tmp_path / "out"
    assert command("score", *arguments(cohort, tmp_path), "--model", trained, "--output", output) in (2, 3)
    error = capsys.readouterr().err
    message = error[error.index("Error: ") :]
    assert all(word in message for word in words), message
    assert "Traceback" not in error
    assert not list(tmp_path.glob("out/**/*.nii.gz")), "nothing plausible is left behind"


def test_the_bundle_command_is_as_plain(trained: Path, tmp_path: Path) -> None:
    config = trained / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
    done = subprocess.run(
        [*command, "--datalist", str(tmp_path / "none.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "none.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "words"), [("pach_size=32", "Did you mean 'patch_size'"), ("patch_size", "KEY=VALUE")]
)
def test_settings_are_checked(
    command: Callable[..., int],
    setting: str,
    words: str,
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("train", "--datalist", cohort, "--output", tmp_path / "m", "--set", setting) == 2
    assert words in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(
    command: Callable[..., int], trained: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", "--datalist", cohort, "--model", trained, "--output", tmp_path]
    assert command(*arguments, "--device", "gpu7") == 2
    assert "--device gpu7 cannot be used here" in capsys.readouterr().err
    assert command(*arguments, "--device", "cpu") == 0


def test_a_heatmap_of_another_scan_is_not_replaced(
    command: Callable[..., int], cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (cohort.parent / case / "image0.nii.gz" for case in ("test-0", "test-1"))
    arguments = ["--model", trained, "--output", tmp_path, "--brain", "nonzero"]
    assert command("score", first, *arguments) == 0
    assert command("score", first, *arguments) == 0, "the same scan may be scored again"
    written = (tmp_path / "image0" / "image0_heatmap.nii.gz").read_bytes()
    assert command("score", second, *arguments) == 3
    assert "would replace it" in capsys.readouterr().err
    assert (tmp_path / "image0" / "image0_heatmap.nii.gz").read_bytes() == written


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["stride=20"], "stride=20 must be from 1 to patch_size=16"),
        (["spacing=[3,3]"], "spacing is [3, 3]"),
        (["spacing=[0,1,1]"], "spacing is [0, 1, 1]"),
        (["spacing=1,1,3"], "spacing is '1,1,3'"),
        (["max_epochs=0"], "max_epochs is 0"),
        (["patience=0"], "patience is 0"),
        (["batch_size=0"], "batch_size is 0"),
        (["patches_per_epoch=0"], "patches_per_epoch is 0"),
        (["planes=[]"], "planes is ()"),
    ],
)
def test_settings_that_cannot_work_are_found_before_training(
    command: Callable[..., int],
    settings: list[str],
    words: str,
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = [word for setting in settings for word in ("--set", setting)]
    assert command("train", "--datalist", cohort, "--output", tmp_path / "m", *pairs) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "m" / "checkpoints").exists()


def test_there_must_be_something_to_resume(
    command: Callable[..., int], cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("train", "--datalist", cohort, "--output", tmp_path / "m", "--resume") == 3
    assert "no training to go on with" in capsys.readouterr().err


def test_heatmaps_of_two_models_are_not_mixed(
    command: Callable[..., int], cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    weights = torch.load(other / "models" / "model.pt", weights_only=True)
    torch.save({**weights, next(iter(weights)): next(iter(weights.values())) + 0.01}, other / "models" / "model.pt")
    scan, arguments = cohort.parent / "test-0" / "image0.nii.gz", ["--output", tmp_path / "out", "--brain", "nonzero"]
    assert command("score", scan, "--model", trained, *arguments) == 0
    assert command("score", scan, "--model", other, *arguments) == 3
    assert "holds heatmaps of the model" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [(["--seed", 1], "another seed"), (["--set", "stride=8"], "settings")])
def test_a_demo_is_not_mixed_with_another(
    command: Callable[..., int], arguments: list[object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "datalist.json").write_text(json.dumps({"seed": 0}))
    (tmp_path / "models" / "ganomaly" / "checkpoints").mkdir(parents=True)
    (tmp_path / "models" / "ganomaly" / "checkpoints" / "last.pt").touch()
    assert command("demo", "--output", tmp_path, *arguments) == 3
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "sub/folder"])
@pytest.mark.parametrize("verb", ["demo", "train", "score", "evaluate", "benchmark"])
def test_an_output_that_is_a_file_is_refused_before_any_work(
    command: Callable[..., int],
    small: list[str],
    verb: str,
    below: str,
    cohort: Path,
    trained: Path,
    scores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(*arguments: object, **settings: object) -> None:
        raise AssertionError("work was done")

    for place in ("workflows.bundles.run_bundle", "data.demo_cohort.make_demo_cohort"):
        monkeypatch.setattr(f"medanomaly.{place}", work)
    monkeypatch.setattr(import_module("medanomaly.workflows.benchmark"), "timed", work)
    file = tmp_path / "file"
    file.write_text("mine")
    others: dict[str, list[object]] = {
        "train": ["--datalist", cohort, *small],
        "score": ["--datalist", cohort, "--model", trained],
        "evaluate": ["--datalist", cohort, "--scores", scores],
        "benchmark": ["toy-lesions", "--detectors", "intensity", "--seeds", "0", "--reduced"],
    }
    assert command(verb, *others.get(verb, []), "--output", file / below) == 3
    message = capsys.readouterr().err
    assert f"{file} is a file" in message
    assert "choose another" in message
    assert file.read_text() == "mine"

"""Nothing that a user gives as a value, a file name or a datalist is ever run as code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

CODE = "$__import__('os').system('touch pwned')"
AS_COMPONENT = {"_target_": "os.system", "command": "touch pwned"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, where code that was run would leave a file."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_case_id_is_not_run(
    command: Callable[..., int], cohort: Path, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, brain = (str(cohort.parent / "test-0" / name) for name in ("image0.nii.gz", "brain.nii.gz"))
    (here / "list.json").write_text(json.dumps({"test": [{"case": CODE, "image": scan, "region": brain}]}))
    assert command("score", "--datalist", "list.json", "--model", trained, "--output", "out") == 3
    assert "list.json, 'test', entry 1: the case id" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["list.json"]


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("spacing", ["--set", f"spacing={CODE}"]),
        ("spacing", ["--set", f"spacing={json.dumps([2, 2, CODE])}"]),
        ("spacing", ["--set", "spacing=@patch_size"]),
        ("spacing", ["--set", "spacing=%patch_size"]),
        ("network_def", ["--set", f"network_def={json.dumps(AS_COMPONENT)}"]),
        ("network_def#features", ["--set", f"network_def#features={json.dumps([{'a': AS_COMPONENT}])}"]),
        ("network_def::features", ["--set", f"network_def::features={CODE}"]),
        ("network_def#_target_", ["--set", "network_def#_target_=os.system"]),
        ("network_def#_mode_", ["--set", "network_def#_mode_=debug"]),
        ("run", ["--set", f"run={json.dumps([CODE])}"]),
        ("run", ["--set", "run=[]"]),
        ("run#0", ["--set", "run#0=1"]),
        ("imports", ["--set", 'imports=["os"]']),
        ("initialize", ["--set", f"initialize={CODE}"]),
        ("region", ["--brain", CODE]),
        ("region", ["--brain", f"{CODE} {{image}} {{mask}}"]),
        ("planes", ["--set", 'planes=["a#b"]']),
    ],
)
def test_a_setting_is_a_value(
    key: str,
    arguments: list[str],
    command: Callable[..., int],
    cohort: Path,
    small: list[str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("train", "--datalist", cohort, "--output", "model", "--epochs", 1, *small, *arguments) == 2
    error = capsys.readouterr().err
    assert key in error and ("settings are values" in error or "'#'" in error), error
    assert not list(here.iterdir()), "neither run nor written into a config"


def test_a_setting_of_the_demo_is_a_value(
    command: Callable[..., int], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medanomaly.data.demo_cohort.make_demo_cohort", lambda folder, seed: None)
    assert command("demo", "--output", "demo", "--set", f"spacing={CODE}") == 2
    assert "settings are values" in capsys.readouterr().err
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--brain", f"{CODE} {{mask}}"], "region"),
        (["--brain", "@spacing {mask}"], "region"),
        (["--section", CODE], "section"),
        (["--sign", CODE], "sign"),
    ],
)
def test_an_option_of_score_is_a_value(
    arguments: list[str],
    words: str,
    command: Callable[..., int],
    cohort: Path,
    trained: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("score", "--datalist", cohort, "--model", trained, "--output", "out", *arguments) in (2, 3)
    assert words in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.parametrize("key", ["region", "sign"])
@pytest.mark.parametrize("value", [CODE, AS_COMPONENT, [CODE]], ids=str)
def test_what_a_folder_of_scores_says_is_a_value(
    key: str,
    value: object,
    command: Callable[..., int],
    cohort: Path,
    trained: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "run.json").write_text(json.dumps({"model": str(trained), "cases": [], key: value}))
    assert command("evaluate", "--datalist", cohort, "--scores", here) in (2, 3)
    assert key in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["run.json"]


def test_a_program_that_a_folder_of_scores_names_is_not_run_unasked(
    command: Callable[..., int],
    cohort: Path,
    trained: Path,
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = {"test": json.loads(cohort.read_text())["test"]}
    for case in content["test"]:
        case.pop("region")
        case.update({key: str(cohort.parent / case[key]) for key in ("image", "label")})
    (tmp_path / "list.json").write_text(json.dumps(content))
    script, out = tmp_path / "brain.sh", tmp_path / "out"
    script.write_text('#!/bin/sh\ntouch ran\ncp "$1" "$2"\n')
    script.chmod(0o755)
    assert command("score", "--datalist", cohort, "--model", trained, "--output", out) == 0
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "region": f"{script} {{image}} {{mask}}"}))
    given, extractor = ["--datalist", tmp_path / "list.json"], ["--brain", f"{script} {{image}} {{mask}}"]
    assert command("evaluate", *given, "--scores", out) == 2
    error = capsys.readouterr().err
    assert "run.json" in error and f"--brain '{extractor[1]}'" in error
    assert not (here / "ran").exists()
    assert command("evaluate", *given, "--scores", out, "--brain", "nonzero") == 2
    assert "leave it out" in capsys.readouterr().err
    assert command("evaluate", *given, "--scores", out, *extractor) == 0
    assert (here / "ran").exists()


def test_the_section_of_an_evaluation_is_a_value(
    command: Callable[..., int], cohort: Path, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run.json").write_text(json.dumps({"model": str(trained), "cases": []}))
    assert command("evaluate", "--datalist", cohort, "--scores", here, "--section", CODE) == 2
    assert "section" in capsys.readouterr().err
    assert not (here / "pwned").exists()


def test_file_names_may_hold_any_character(
    command: Callable[..., int], cohort: Path, trained: Path, here: Path
) -> None:
    data = here / "$(touch pwned)#@y%z"
    data.mkdir()
    for name in ("image0", "brain", "label"):
        shutil.copy(cohort.parent / "test-1" / f"{name}.nii.gz", data / f"${name}(x)@y%z#.nii.gz")
    case = {"case": "sane", "image": "$image0(x)@y%z#.nii.gz"}
    case |= {"region": "$brain(x)@y%z#.nii.gz", "label": "$label(x)@y%z#.nii.gz"}
    (here / "@x.json").write_text(json.dumps({"test": [case]}))
    model = shutil.copytree(trained, here / "$m@d%")
    given = ["--datalist", "@x.json", "--data-root", data.name]
    assert command("score", *given, "--model", model.name, "--output", "%out") == 0
    assert command("evaluate", *given, "--scores", "%out", "--output", "@results#") == 0
    assert (here / "%out" / "sane" / "sane_heatmap.nii.gz").exists()
    assert json.loads((here / "@results#" / "metrics.json").read_text())["n_cases"] == 1
    assert not (here / "pwned").exists()
    scan = data / "$image0(x)@y%z#.nii.gz"
    shutil.copy(scan, here / "@scan.nii.gz")
    shutil.copy(data / "$brain(x)@y%z#.nii.gz", here / "$mask.nii.gz")
    assert command("score", "@scan.nii.gz", "--model", model.name, "--output", "$o") == 3, "no sane id"
    (here / "@scan.nii.gz").rename(here / "scan.nii.gz")
    assert command("score", "scan.nii.gz", "--brain", "$mask.nii.gz", "--model", model.name, "--output", "#o") == 0
    assert (here / "#o" / "scan" / "scan_heatmap.nii.gz").exists()
    one, two = (nib.load(here / p) for p in ("#o/scan/scan_heatmap.nii.gz", "%out/sane/sane_heatmap.nii.gz"))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))


def test_training_takes_odd_names_or_says_which_it_cannot(
    command: Callable[..., int], cohort: Path, small: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(cohort, here / "@x.json")
    arguments = ["--data-root", cohort.parent, "--epochs", 1, *small]
    assert command("train", "--datalist", "@x.json", "--output", "$m@d%", *arguments) == 0
    assert command("train", "--output", "$m@d%", "--epochs", 2, "--resume") == 0
    shutil.copy(cohort, here / "a#b.json")
    for given in (["--datalist", "a#b.json", "--output", "m"], ["--datalist", "@x.json", "--output", "m#n"]):
        assert command("train", *given, *arguments) == 2
        error = capsys.readouterr().err
        assert "'#'" in error and "rename" in error
    assert {path.name for path in here.iterdir()} == {"@x.json", "a#b.json", "$m@d%"}
    (here / "$m@d%").rename(here / "m#n")
    capsys.readouterr()
    assert command("score", "--datalist", cohort, "--model", "m#n", "--output", "out") == 2
    assert "rename" in capsys.readouterr().err


def test_a_brain_mask_that_each_case_names_can_be_asked_for(
    command: Callable[..., int], cohort: Path, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", trained, "--brain", "given"]
    assert command("score", "--datalist", cohort, *arguments, "--output", "out") == 0
    assert command("score", cohort.parent / "test-0" / "image0.nii.gz", *arguments, "--output", "single") == 3
    assert "image0.nii.gz has no brain mask: name one under 'brain'" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["test_patient", "training_patient"])
def test_the_patient_of_a_benchmark_is_a_folder_in_the_data_root(
    key: str, command: Callable[..., int], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["benchmark", "white-matter-paper", "--detectors", "intensity", "--seeds", 0, "--data-root", here]
    assert command(*arguments, "--output", "results", "--set", f"{key}=../../x") == 3
    error = capsys.readouterr().err
    assert key in error and "'../../x'" in error and "letters" in error
    assert not list(here.iterdir())

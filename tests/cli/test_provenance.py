"""One model and one scan for each heatmap, one cohort for each training: what does not belong together is refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medanomaly.errors import MedanomalyError
from medanomaly.workflows.bundles import run_bundle

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def mine(cohort: Path, tmp_path: Path) -> Path:
    """The datalist of a cohort that a test may change."""
    return shutil.copytree(cohort.parent, tmp_path / "cohort") / cohort.name


def change_weights(model: Path) -> None:
    """As another training would."""
    weights = torch.load(model / "models" / "model.pt", weights_only=True)
    name = next(key for key, value in weights.items() if value.is_floating_point())
    weights[name] += 0.01
    torch.save(weights, model / "models" / "model.pt")


def change_calibration(model: Path) -> None:
    file = model / "models" / "calibration.json"
    file.write_text(file.read_text().replace('"source": "1', '"source": "01'))


def change_scan(scan: Path) -> None:
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * np.float32(1.01), image.affine, image.header), scan)


def change_list(datalist: Path, change: Callable[[dict[str, Any]], object], name: str = "changed.json") -> Path:
    content = json.loads(datalist.read_text())
    change(content)
    (datalist.parent / name).write_text(json.dumps(content))
    return datalist.parent / name


def uncompressed(scan: Path, copy: Path) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(gzip.decompress(scan.read_bytes()))
    return copy


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def maps(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.glob("*/*.nii.gz")}


def test_run_json_says_what_made_the_heatmaps(command: Command, cohort: Path, trained: Path, tmp_path: Path) -> None:
    assert command("score", "--datalist", cohort, "--model", trained, "--output", tmp_path) == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["model"] == str(trained)
    assert run["model_sha256"] == sha256(trained / "models" / "model.pt")
    assert run["calibration_sha256"] == sha256(trained / "models" / "calibration.json")
    assert (run["sign"], run["region"], run["score_amp"]) == ("both", "auto", False)
    assert run["date"] and run["version"]
    first = run["cases"][0]
    scan = cohort.parent / "test-0" / "image0.nii.gz"
    assert (first["case"], first["image"]) == ("test-0", [str(scan)])
    data = gzip.decompress(scan.read_bytes())
    offset = int(np.frombuffer(data[108:112], "<f4")[0])
    assert first["sha256"] == [hashlib.sha256(b"(40, 44, 20)" + data[offset:]).hexdigest()]


@pytest.mark.parametrize("change", [change_weights, change_calibration])
def test_a_model_that_was_trained_again_does_not_add_to_its_old_heatmaps(
    change: Callable[[Path], None], command: Command, cohort: Path, model: Path, tmp_path: Path, capsys: Captured
) -> None:
    first, second = (cohort.parent / f"test-{n}" / "image0.nii.gz" for n in (0, 1))
    shutil.copy(second, tmp_path / "second.nii.gz")
    arguments = ["--model", model, "--brain", "nonzero", "--output", tmp_path / "out"]
    assert command("score", first, *arguments) == 0
    change(model)
    before = maps(tmp_path / "out")
    for scan in (first, tmp_path / "second.nii.gz"):
        assert command("score", scan, *arguments) == 3
        assert "another --output" in capsys.readouterr().err
    with pytest.raises(MedanomalyError, match="another --output"):  # the bundle alone, as python -m monai.bundle run
        run_bundle(model, "inference", output_dir=tmp_path / "out")
    assert maps(tmp_path / "out") == before


def test_a_model_that_was_moved_is_the_same(command: Command, cohort: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("score", "--datalist", cohort, "--model", model, "--output", out) == 0
    model.rename(tmp_path / "moved")
    assert command("score", "--datalist", cohort, "--model", tmp_path / "moved", "--output", out) == 0
    assert json.loads((out / "run.json").read_text())["model"] == str(tmp_path / "moved")
    assert command("evaluate", "--datalist", cohort, "--scores", out) == 0
    copied = shutil.copytree(tmp_path / "moved", tmp_path / "copied")
    assert command("evaluate", "--datalist", cohort, "--scores", out, "--model", copied) == 0


def test_heatmaps_of_an_unknown_model_are_left_alone(
    command: Command, cohort: Path, trained: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    arguments = ["score", "--datalist", cohort, "--model", trained, "--output", out]
    assert command(*arguments) == 0
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").unlink()
    before = maps(out)
    assert command(*arguments) == 3
    assert "no run.json" in capsys.readouterr().err
    assert command("evaluate", "--datalist", cohort, "--scores", out, "--model", trained) == 3
    assert "run.json" in capsys.readouterr().err
    (out / "run.json").write_text(json.dumps({"model": run["model"], "cases": []}))
    for again in (arguments, ["evaluate", "--datalist", cohort, "--scores", out]):
        assert command(*again) == 3
        assert "older version" in capsys.readouterr().err
    assert maps(out) == before
    (out / "run.json").write_text("{")
    assert command(*arguments) == 3
    assert "run.json" in capsys.readouterr().err


def test_a_scan_that_changed_does_not_replace_its_heatmap(
    command: Command, mine: Path, trained: Path, tmp_path: Path, capsys: Captured
) -> None:
    arguments = ["score", "--datalist", mine, "--model", trained, "--output", tmp_path / "out"]
    assert command(*arguments) == 0
    scan = mine.parent / "test-0" / "image0.nii.gz"
    copy = uncompressed(scan, tmp_path / "elsewhere" / "x.nii")
    other = change_list(mine, lambda content: content["test"][0].update(image=str(copy)))
    assert command(*["score", "--datalist", other], *arguments[3:]) == 0, "the same scan at another place"
    before = maps(tmp_path / "out")
    change_scan(scan)
    assert command(*arguments) == 3
    assert "would replace it" in capsys.readouterr().err
    assert maps(tmp_path / "out") == before


def test_an_interrupted_run_leaves_no_heatmaps_of_an_unknown_model(
    command: Command, mine: Path, model: Path, tmp_path: Path, capsys: Captured
) -> None:
    out, scan = tmp_path / "out", mine.parent / "test-1" / "image0.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[:3000])
    arguments = ["score", "--datalist", mine, "--model", model, "--output", out]
    assert command(*arguments) == 3
    assert (out / "test-0" / "test-0_heatmap.nii.gz").exists() and not (out / "test-1").exists()
    run = json.loads((out / "run.json").read_text())
    assert run["model_sha256"] == sha256(model / "models" / "model.pt") and run["cases"] == []
    scan.write_bytes(whole)
    only_first = change_list(mine, lambda content: content["test"].pop())
    assert command("evaluate", "--datalist", only_first, "--scores", out) == 3
    assert "test-0" in capsys.readouterr().err, "it was not told to be whole"
    change_weights(model)
    assert command(*arguments) == 3
    assert "another --output" in capsys.readouterr().err


def test_an_evaluation_is_of_the_model_and_the_scans_that_were_scored(
    command: Command, mine: Path, model: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    assert command("score", "--datalist", mine, "--model", model, "--output", out) == 0
    arguments = ["evaluate", "--datalist", mine, "--scores", out]
    assert command(*arguments) == 0
    shutil.rmtree(out / "evaluation")
    other = shutil.copytree(model, tmp_path / "other")
    change_weights(other)
    assert command(*arguments, "--model", other) == 3
    assert "trained again since" in capsys.readouterr().err
    with pytest.raises(MedanomalyError, match="trained again since"):
        run_bundle(other, "evaluate", datalist=mine, scores_dir=out)
    swapped = change_list(mine, lambda c: c["test"][0].update(image=c["test"][1]["image"], label=c["test"][1]["label"]))
    assert command("evaluate", "--datalist", swapped, "--scores", out) == 3
    error = capsys.readouterr().err
    assert "test-0" in error and "the datalist or the scan changed since" in error
    change_scan(mine.parent / "test-1" / "image0.nii.gz")
    assert command(*arguments) == 3
    error = capsys.readouterr().err
    assert "test-1" in error and "the datalist or the scan changed since" in error
    shutil.rmtree(model)
    assert command(*arguments) == 3
    assert "--model" in capsys.readouterr().err
    assert not (out / "evaluation").exists()


@pytest.mark.parametrize("section", ["validation", "test"])
def test_a_scan_that_is_trained_on_is_in_no_other_section(
    section: str, command: Command, mine: Path, small: list[str], tmp_path: Path, capsys: Captured
) -> None:
    copy = uncompressed(mine.parent / "training-1" / "image0.nii.gz", mine.parent / "renamed" / "x.nii")
    datalist = change_list(mine, lambda content: content[section][0].update(image=str(copy), case="renamed"))
    arguments = ["train", "--datalist", datalist, "--output", tmp_path / "m", "--epochs", 1, *small]
    assert command(*arguments) == 3
    error = capsys.readouterr().err
    assert all(word in error for word in ("training-1", "renamed", str(copy), "training-1/image0.nii.gz", section))
    assert not (tmp_path / "m" / "checkpoints").exists()
    assert not (tmp_path / "m" / "models").exists()


def test_one_channel_is_enough_to_be_the_same_scan(
    command: Command, cohort_maker: Callable[..., Path], small: list[str], tmp_path: Path, capsys: Captured
) -> None:
    datalist = cohort_maker(tmp_path / "two", n_channels=2)
    shutil.copy(tmp_path / "two/training-0/image1.nii.gz", tmp_path / "two/validation-0/image0.nii.gz")
    assert command("train", "--datalist", datalist, "--output", tmp_path / "m", "--epochs", 1, *small) == 3
    error = capsys.readouterr().err
    assert "training-0" in error and "validation-0" in error and "image1.nii.gz" in error


def test_test_scans_that_are_not_here_do_not_stop_a_training(
    command: Command, mine: Path, small: list[str], tmp_path: Path
) -> None:
    shutil.rmtree(mine.parent / "test-0")
    assert command("train", "--datalist", mine, "--output", tmp_path / "m", "--epochs", 1, *small) == 0


@pytest.fixture
def begun(command: Command, mine: Path, small: list[str], tmp_path: Path) -> Path:
    """A training of one epoch on the cohort of ``mine``."""
    root = tmp_path / "begun"
    assert command("train", "--datalist", mine, "--output", root, "--epochs", 1, *small) == 0
    return root


def refused(command: Command, capsys: Captured, begun: Path, *arguments: object) -> str:
    """What ``--resume`` says, having changed nothing."""
    before = (begun / "checkpoints" / "last.pt").read_bytes()
    assert command("train", "--output", begun, "--resume", "--epochs", 2, *arguments) == 3
    assert (begun / "checkpoints" / "last.pt").read_bytes() == before
    return capsys.readouterr().err


def test_a_training_goes_on_with_its_datalist_alone(
    command: Command, begun: Path, mine: Path, cohort_maker: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    added = change_list(mine, lambda c: c["training"].append({**c["test"][0], "case": "new"}), "added.json")
    assert "added: new" in refused(command, capsys, begun, "--datalist", added)
    removed = change_list(mine, lambda c: c["training"].pop(0), "removed.json")
    assert "removed: training-0" in refused(command, capsys, begun, "--datalist", removed)
    renamed = change_list(mine, lambda c: c["validation"][0].update(case="held"), "renamed.json")
    error = refused(command, capsys, begun, "--datalist", renamed)
    assert "added: held" in error and "removed: validation-0" in error
    turned = change_list(mine, lambda c: c["training"].reverse(), "turned.json")
    assert "order" in refused(command, capsys, begun, "--datalist", turned)
    elsewhere = cohort_maker(tmp_path / "elsewhere", sections=(("validation", 1), ("training", 2)))
    error = refused(command, capsys, begun, "--datalist", mine, "--data-root", elsewhere.parent)
    assert "changed: training-0, training-1, validation-0" in error
    shutil.copytree(mine.parent, tmp_path / "copy")
    arguments = ["--datalist", tmp_path / "copy" / mine.name, "--data-root", tmp_path / "copy"]
    assert command("train", "--output", begun, "--resume", "--epochs", 2, *arguments) == 0, "the same cases"


def test_a_training_goes_on_only_while_its_scans_are_the_same(
    command: Command, begun: Path, mine: Path, capsys: Captured
) -> None:
    scan = mine.parent / "training-1" / "image0.nii.gz"
    kept = scan.read_bytes()
    change_scan(scan)
    assert "changed: training-1" in refused(command, capsys, begun)
    with pytest.raises(MedanomalyError, match="changed: training-1"):
        run_bundle(begun, "train", resume=True, max_epochs=2)
    scan.write_bytes(kept)
    change_list(mine, lambda c: c["training"].pop(0), mine.name)
    assert "removed: training-0" in refused(command, capsys, begun)


def test_a_model_is_not_tested_on_what_it_was_trained_on(
    command: Command, mine: Path, trained: Path, tmp_path: Path, capsys: Captured
) -> None:
    copy = uncompressed(mine.parent / "training-1" / "image0.nii.gz", tmp_path / "x.nii")
    label = mine.parent / "training-1" / "label.nii.gz"
    datalist = change_list(mine, lambda c: c["test"][0].update(image=str(copy), label=str(label), case="known"))
    out = tmp_path / "out"
    assert command("score", "--datalist", datalist, "--model", trained, "--output", out) == 0
    assert command("evaluate", "--datalist", datalist, "--scores", out) == 3
    error = capsys.readouterr().err
    assert "known" in error and "training-1" in error and "trained on" in error
    assert not (out / "evaluation").exists()


def test_thresholds_from_tested_scans_are_warned_of(
    command: Command, mine: Path, trained: Path, tmp_path: Path, capsys: Captured
) -> None:
    copy = uncompressed(mine.parent / "validation-0" / "image0.nii.gz", tmp_path / "x.nii")
    datalist = change_list(mine, lambda c: c["test"][0].update(image=str(copy), case="held"))
    out = tmp_path / "out"
    assert command("score", "--datalist", datalist, "--model", trained, "--output", out) == 0
    capsys.readouterr()
    assert command("evaluate", "--datalist", datalist, "--scores", out) == 0
    printed = "".join(capsys.readouterr())
    assert "Warning" in printed and "held" in printed and "validation" in printed
    assert (out / "evaluation" / "metrics.json").exists()


@pytest.mark.parametrize("kind", ["train", "inference", "evaluate"])
def test_a_bundle_that_checks_nothing_is_not_run(
    kind: str, command: Command, cohort: Path, model: Path, tmp_path: Path, capsys: Captured
) -> None:
    """A model of an older version would add its heatmaps to those of any other."""
    file, out = model / "configs" / f"{kind}.json", tmp_path / "out"
    arguments = {
        "train": ["train", "--output", model, "--resume"],
        "inference": ["score", "--datalist", cohort, "--model", model, "--output", out],
        "evaluate": ["evaluate", "--datalist", cohort, "--scores", out],
    }
    if kind == "evaluate":
        assert command(*arguments["inference"]) == 0
    content = json.loads(file.read_text())
    for key in ("initialize", "run"):
        content[key] = [line for line in content[key] if "begin_" not in line and "check_" not in line]
    file.write_text(json.dumps(content))
    assert command(*arguments[kind]) == 2
    error = capsys.readouterr().err
    assert str(file) in error and "older version" in error

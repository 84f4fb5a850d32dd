"""medanomaly data: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medanomaly.data import manifest_names
from tests.data.dataset_trees import plant, write

Command = Callable[..., int]


def test_list_and_describe(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("data", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == manifest_names()
    assert next(line for line in lines if line.startswith("ribfrac")).split()[1] == "bone_ct"
    assert command("data", "describe", "mura") == 0
    text = capsys.readouterr().out
    assert all(f"\n{word}: " in text for word in ("Source", "Access", "Licence", "Cite", "Layout", "Normal", "Split"))
    assert command("data", "describe", "murra") == 3
    assert "there is no manifest murra: name one of" in capsys.readouterr().err


def test_a_download_is_indexed(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, out = plant("chest_xray", tmp_path / "films"), tmp_path / "films.json"
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(content))
    assert command("data", "index", manifest, "--root", tmp_path / "films", "--output", out) == 0
    text = capsys.readouterr().out
    assert "36 training, 6 validation, 16 test (12 healthy, 4 not), 10 mixed" in text
    assert f"medanomaly train --datalist {out} --chain radiograph --region all --output ..." in text
    assert set(json.loads(out.read_text())) == {"training", "validation", "test", "mixed"}
    (tmp_path / "films/NORMAL/IM-0116-0001.jpeg").write_bytes(b"")
    assert command("data", "index", manifest, "--root", tmp_path / "films", "--output", tmp_path / "new.json") == 3
    assert "IM-0116-0001.jpeg cannot be read" in capsys.readouterr().err and not (tmp_path / "new.json").exists()
    assert command("data", "index", manifest, "--root", tmp_path / "films", "--output", out) == 3
    assert "exists: choose another --output" in capsys.readouterr().err


def test_own_folders_are_indexed(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        for kind in ("FLAIR", "T1w"):
            write(tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_{kind}.nii.gz")
    out, pattern = tmp_path / "list.json", "sub-{case}/anat/*_{channel}.nii.gz"
    options = ["--pattern", pattern, "--channels", "FLAIR,T1w", "--shares", "training=0.8,validation=0.2"]
    assert command("data", "index", "--root", tmp_path, "--output", out, *options, "--quick") == 0
    assert "16 training, 4 validation" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["training"][0]["image"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name a public dataset (see 'medanomaly data list'), or give --pattern"),
        (["ixi", "--pattern", "{case}.nii.gz"], "one of the two"),
        (["ixi", "--healthy", "a=b"], "--healthy: of ixi the manifest says that"),
        (["ixi", "--channels", "T2"], "has no channel T2"),
        (["open_ms"], "4 of 4 files of Open MS"),
        (["--pattern", "{case}.nii.gz", "--shares", "training"], "write training=0.7,validation=0.15,test=0.15"),
    ],
)
def test_mistakes_are_told(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert command("data", "index", *options, "--root", tmp_path, "--output", tmp_path / "list.json") == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "list.json").exists()

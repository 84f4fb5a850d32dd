"""The documents hold together: links lead somewhere, examples run, and what they name is in the repository."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.main import get_command

from medanomaly import cli
from medanomaly.detectors import GANomaly
from medanomaly.evaluation import Calibration
from medanomaly.training import GridSettings
from medanomaly.training.grid_stage import GridStage

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "bundles", "models", "studies", "results", "benchmarks")
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")), ROOT / "mkdocs.yml"}
)
ELSEWHERE = re.compile(r"\.\./shared|\bpaper 0\d\d\b|\b(?:facts|methods|design)\.md", re.IGNORECASE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", document.read_text()):
        place = (document.parent / target).resolve()
        if place.parent == ROOT / "docs" / "api":  # made from the package when the site is built
            place = ROOT / "medanomaly" / place.stem
            place = place if place.is_dir() else place.with_suffix(".py")
        assert place.exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_document_names_what_is_not_in_the_repository(document: Path) -> None:
    assert not ELSEWHERE.search(document.read_text())


def test_pictures_that_are_kept_are_those_that_documents_show() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "results/"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    kept = {name for name in listed.stdout.split("\0") if name.endswith(".png")}
    text = "".join(document.read_text() for document in DOCUMENTS)
    assert kept == set(re.findall(r"!\[[^\]]*\]\((?:\.\./)*(results/[^)]+)\)", text))


def test_the_examples_in_python_run(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heatmap, figures = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/python.md").read_text(), re.DOTALL)
    (tmp_path / "runs/mine/models").mkdir(parents=True)
    torch.save(GANomaly().state_dict(), tmp_path / "runs/mine/models/model.pt")
    Calibration.fit([np.linspace(0, 1, 1000)], "made").save(tmp_path / "runs/mine/models/calibration.json")
    shutil.copy(cohort.parent / "test-1/image0.nii.gz", tmp_path / "scan.nii.gz")
    shutil.copy(cohort.parent / "test-1/brain.nii.gz", tmp_path / "mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec(heatmap.replace("spacing=(1, 1, 1)", "spacing=(2, 2, 3)"), {})
    assert len(list((tmp_path / "out-python/scan").iterdir())) == 3
    exec(figures, {})


def test_the_settings_are_those_of_the_default_bundle() -> None:
    page = (ROOT / "docs/how-to/settings.md").read_text()
    configs = [
        json.loads((ROOT / f"bundles/ganomaly/configs/{name}.json").read_text()) for name in ("inference", "train")
    ]
    defaults = configs[0] | configs[1]
    rows = re.findall(r"^\| (`.*?`) \| `?(.*?)`? \|", page, re.MULTILINE)
    assert len(rows) > 10
    for names, default in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert name in defaults
            if "~" not in default:
                assert defaults[name] == json.loads(default), name


def test_the_grid_of_that_page_evolves_and_its_settings_are_those_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/how-to/coevolution.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    made: dict[str, torch.Tensor] = {}
    exec(example.replace("iterations=5", "iterations=1"), made)
    assert made["samples"].shape == (1000, 2) and len(list((tmp_path / "runs/points").glob("cell*.pt"))) == 4
    defaults = asdict(GridSettings())
    for names, values in re.findall(r"^\| (`.*?`) \| ([\d., ]+) \|", page, re.MULTILINE):
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(", "), strict=True):
            assert defaults.pop(name) == float(value), name
    assert list(defaults) == ["seed"]
    for grid in re.findall(r"train#trainer#grid=(\{.*?\})'", page):
        GridStage(json.loads(grid), 0)


OWN = (ROOT / "docs/own_detector.md").read_text()


def block(name: str) -> str:
    """The block below the comment ``name`` in the page on a detector of one's own."""
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n```\w*\n(.*?)```", OWN, re.DOTALL)
    return str(found)


def run_commands(commands: str, monkeypatch: pytest.MonkeyPatch, *further: str) -> None:
    """The commands of a page in this process; ``further`` arguments for the training."""
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "medanomaly"
        monkeypatch.setattr(sys, "argv", words + list(further if words[1] == "train" else ()))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, line


def test_the_page_on_a_detector_of_ones_own_shows_the_files_as_they_are() -> None:
    shown = re.findall(r"^--8<-- \"(.*)\"$", OWN, re.MULTILINE)
    files = ["medanomaly/detectors/pca.py", "bundles/pca/model.json", "bundles/pca/docs/README.md"]
    assert shown == [*files, "tests/detectors/catalogue/pca.py"]
    assert all((ROOT / file).is_file() for file in shown)
    assert block("stages") in (ROOT / "medanomaly/detectors/autoencoder.py").read_text()
    for name in re.findall(r"`(\w+)`(?:, there| in `tests/detectors/toys.py`)", OWN):
        assert f"class {name}(" in (ROOT / "tests/detectors/toys.py").read_text()


def test_the_commands_of_that_page_are_there() -> None:
    commands = get_command(cli.app).commands
    makefile = (ROOT / "Makefile").read_text()
    for line in block("commands").splitlines() + block("commands outside").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert f"\n{words[1]}:" in makefile
        elif words[:1] == ["medanomaly"]:
            options = {option for parameter in commands[words[1]].params for option in parameter.opts}
            assert {word for word in words[2:] if word.startswith("--")} <= options, line
        elif "pytest" in words:
            assert all((ROOT / word).is_dir() for word in words if word.startswith("tests/"))
        else:
            assert not words or words[0] == "export", line


def test_a_detector_outside_the_package_is_trained_and_scores(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mean_patch").mkdir()
    for name in ("my_detector.py", "mean_patch/model.json"):
        (tmp_path / name).write_text(block(name))
    for path in cohort.parent.iterdir():
        (tmp_path / path.name.replace("datalist", "cohort")).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    path, _, commands = block("commands outside").partition("\n")
    assert path == "export PYTHONPATH=."
    monkeypatch.syspath_prepend(str(tmp_path))
    run_commands(commands, monkeypatch, "--set", "patches_per_epoch=256", "--set", "spacing=[2,2,3]")
    heatmap = np.asarray(nib.load(tmp_path / "out/test-1/test-1_heatmap.nii.gz").dataobj)
    lesion = np.asarray(nib.load(tmp_path / "test-1/label.nii.gz").dataobj) > 0
    assert np.median(heatmap[lesion]) > np.nanquantile(heatmap, 0.95)
    names = [row["name"] for row in json.loads((tmp_path / "out/evaluation/metrics.json").read_text())["detectors"]]
    assert names[0] == "intensity" and names[-1] == "mean patch"
    sys.modules.pop("my_detector")

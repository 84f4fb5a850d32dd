"""The documents hold together: links lead somewhere, examples run, and what they name is in the repository."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from medanomaly.detectors import GANomaly
from medanomaly.evaluation import Calibration

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "bundles", "studies", "results", "benchmarks")
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
    assert len(list((tmp_path / "out-python/scan").iterdir())) == 2
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

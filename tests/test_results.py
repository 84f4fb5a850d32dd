"""Figures in the documents are those of the result files, and result files say where they come from."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "results").glob("**/results/*.json"))
LIMIT = 2_500_000  # bytes of the whole folder, of 25 detectors
LEADERBOARDS = sorted((ROOT / "results").glob("**/leaderboard.md"))
WHITE_MATTER = [path.parent for path in LEADERBOARDS if path.parent.name == "white-matter-paper"]


def rows_of(text: str) -> list[list[str]]:
    """The rows of all Markdown tables in a text, without their headers, as cells."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines if not re.match(r"^[\s|:-]+$", line)]


def section(document: str, marker: str) -> str:
    """The table below a marker ``<!-- name table -->``."""
    return (ROOT / document).read_text().partition(f"<!-- {marker} table -->")[2].partition("\n\n")[0]


def voxels_of(metrics: dict) -> dict:
    """The voxel figures of a result, with the Dice at its threshold."""
    return {**metrics["voxels"], "dice": metrics["at_threshold"]["dice"]}


@pytest.mark.parametrize("file", RESULTS, ids=lambda path: path.stem)
def test_a_result_was_made_by_a_commit_that_is_in_the_repository(file: Path) -> None:
    assert re.fullmatch("[0-9a-f]{40}", json.loads(file.read_text())["commit"])


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("**/*.json")), ids=lambda path: path.stem)
def test_a_result_is_one_line(file: Path) -> None:
    assert len(file.read_text().splitlines()) == 1


def test_results_stay_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(path.stat().st_size for path in files if path.exists()) < LIMIT


@pytest.mark.parametrize("folder", WHITE_MATTER, ids=lambda path: path.parent.name)
def test_rows_of_white_matter_share_voxels_and_normals(folder: Path) -> None:
    metrics = [json.loads(path.read_text())["metrics"] for path in (folder / "results").glob("*.json")]
    assert len({voxels_of(m)["n_voxels"] for m in metrics}) == 1
    assert len({m["threshold_from"] for m in metrics}) == 1


@pytest.mark.parametrize(
    ("document", "marker", "leaderboard"),
    [
        ("docs/lesions.md", "white-matter", "white-matter-paper"),
        ("docs/lesions.md", "swapped", "swapped/white-matter-paper"),
        ("docs/lesions.md", "toy", "toy-lesions"),
        ("docs/reproduction.md", "white-matter", "white-matter-paper"),
        ("docs/reproduction.md", "fashion-mnist", "fashion-mnist"),
        ("docs/side_by_side.md", "side by side", "fashion-mnist"),
        ("docs/side_by_side.md", "films", "chest_xray"),
        ("docs/side_by_side.md", "white matter family", "open_ms"),
        ("docs/side_by_side.md", "glioma", "brats2013"),
        ("docs/side_by_side.md", "mixture", "brats2013_mixed"),
        ("docs/how-to/augmentation.md", "classifiers", "augmentation"),
        ("docs/how-to/augmentation.md", "synthetic films", "augmentation"),
        ("docs/unseen.md", "unseen white-matter", "white-matter"),
        ("docs/unseen.md", "unseen tumours", "tumours"),
    ],
)
def test_tables_in_the_documents_are_those_of_the_leaderboards(document: str, marker: str, leaderboard: str) -> None:
    header, *shown = rows_of(section(document, marker))
    tables = map(rows_of, (ROOT / "results" / leaderboard / "leaderboard.md").read_text().split("\n\n"))
    titles, *made = next(rows for rows in tables if rows and set(header) <= set(rows[0]))
    assert shown
    places = [titles.index(title) for title in header]
    known = [[row[place] for place in places] for row in made]
    for row in shown:
        assert row in known, row


def test_figures_in_the_readmes_of_bundles_are_those_of_the_leaderboard() -> None:
    table = pd.read_csv(ROOT / "results/fashion-mnist/leaderboard.csv", index_col="detector")
    said = {}
    for readme in ROOT.glob("bundles/*/docs/README.md"):
        found = re.search(r"Boots among clothes \(.*?AUROC ([\d., ]+) of dresses, sandals", readme.read_text())
        if found:
            said[readme.parent.parent.name.replace("_", "-")] = found[1].split(", ")
    assert len(said) > 5
    for name, figures in said.items():
        made = [table.loc[name, f"{anomaly} AUROC"] for anomaly in ("dress", "sandal", "sneaker")]
        assert figures == [f"{figure:.3f}" for figure in made], name


def test_the_readmes_benchmark_is_that_of_the_results() -> None:
    folder = ROOT / "results" / "white-matter-paper" / "results"
    files = {
        "brightness": "intensity_flair",
        "brightness, smoothed": "intensity-smoothed_flair",
        "tissue outlier, brighter than its own tissue classes (no training)": "tissue-outlier-bright_flair+t1+t2",
        "GANomaly K, 32 px, the best of the paper's detectors here": "ganomaly-k_flair+t1-32px",
        "`fusion`, brighter or darker than expected": "fusion_both",
        "`fusion`, brighter than expected": "fusion_bright",
        "the same, with an intensity prior": "fusion_bright+prior",
    }
    shown = {row[0]: row[1:] for row in rows_of(section("README.md", "white-matter"))[1:]}
    assert list(shown) == list(files)
    for name, file in files.items():
        metrics = json.loads((folder / f"{file}_seed0.json").read_text())["metrics"]
        voxels = voxels_of(metrics)
        figures = [voxels[key] for key in ("auroc", "average_precision", "best_dice", "dice")]
        assert shown[name] == [f"{value:.3f}" for value in figures], name


def test_the_readmes_demo_is_that_of_its_result_file() -> None:
    result = json.loads((ROOT / "results" / "demo" / "metrics.json").read_text())
    shown = {row[0].partition(" (")[0]: row[1:] for row in rows_of(section("README.md", "demo"))[1:]}
    assert list(shown) == [row["name"] for row in result["detectors"]]
    for row in result["detectors"]:
        voxels, cases, interval = row["voxels"], row["case_level"], row["intervals"]["auroc"]
        figures = [
            f"{voxels['auroc']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})",
            *(f"{voxels[key]:.3f}" for key in ("average_precision", "best_dice")),
            *(f"{cases[key]:.3f}" for key in ("auroc", "sensitivity", "specificity")),
        ]
        assert [cell.replace("**", "") for cell in shown[row["name"]]] == figures

"""Figures in the documents are those of the result files, and result files say where they come from."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from medanomaly.experiments.fashion_detectors import COMMON, TRAINED
from medanomaly.training.epoch_choice import debiased_auc

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "results").glob("**/results/*.json"))
LIMIT = 2_700_000  # bytes of the whole folder, of 25 detectors, some with three seeds
LEADERBOARDS = sorted((ROOT / "results").glob("**/leaderboard.md"))
WHITE_MATTER = [path.parent for path in LEADERBOARDS if path.parent.name == "white-matter-paper"]

# What the READMEs of bundles say of results, each in sentences of one form
READMES = {path.parent.parent.name: path for path in sorted(ROOT.glob("bundles/*/docs/README.md"))}
FASHION = re.compile(
    r"Boots among clothes \(Fashion-MNIST, three seeds, with \[settings for these images\]"
    r"\((?:\.\./){3}docs/side_by_side\.md#with-which-settings\), not the bundle's\): AUROC ([\d., ]+) of dresses, "
    r"sandals, sneakers, where the one-class SVM \(nu 0\.1\) has ([\d., ]+); (\d+) s of that training on one core, "
    r"([\d.]+) ms an image: "
)
BESIDE = re.compile(
    r"^AUROC beside the best (?:other )?plain baseline \(one seed where no spread is given; "
    r"\[side by side\]\((?:\.\./){3}docs/side_by_side\.md\)\): (.*)\.$",
    re.MULTILINE,
)
TIMED = re.compile(
    r"([a-z ]+?) (?:(\d+) epochs of ([\d,]+)(?: in each stage| at each size)?|that) took ([\d,.]+) s of one thread"
    r"(?: \(with (.*)\))?\."
)
FILM = 64  # pixels of a side
BOARDS = {  # what a data set is called there: the folder of its results, and the column that counts
    "chest films": ("chest_xray", "case AUROC"),
    "white matter": ("open_ms", "AUROC"),
    "a glioma": ("brats2013", "AUROC"),
}
PLAIN = {
    "intensity": "brightness",
    "intensity-smoothed": "smoothed brightness",
    "intensity-equalised": "equalised brightness",
    "intensity-inverted": "darkness",
    "intensity-mean": "mean brightness",
    "pca": "PCA",
    "nearest_neighbours": "nearest neighbours",
    "one_class_svm": "one-class SVM",
}


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
    said = {name.replace("_", "-"): readme.read_text() for name, readme in READMES.items()}
    said = {name: text for name, text in said.items() if "Boots among clothes" in text}
    assert len(said) > 5
    for name, text in said.items():
        found = FASHION.search(text)
        assert found, name
        for detector, figures in ((name, found[1]), ("one-class-svm-nu0.1", found[2])):
            made = [table.loc[detector, f"{anomaly} AUROC"] for anomaly in ("dress", "sandal", "sneaker")]
            assert figures == ", ".join(f"{figure:.3f}" for figure in made), name
        costs = table.loc[name, ["training (s)", "ms an image"]]
        assert found.group(3, 4) == (f"{costs.iloc[0]:.0f}", f"{costs.iloc[1]:.2g}"), name


def board(folder: str) -> dict[str, dict[str, str]]:
    """The cells of each detector in a leaderboard, of the last epoch where one has several rows."""
    titles, *rows = rows_of((ROOT / "results" / folder / "leaderboard.md").read_text().partition("\n\n")[0])
    cells = [dict(zip(titles, row, strict=True)) for row in rows]
    return {row["detector"]: row for row in cells if row.get("epoch", "-") in ("-", "the last")}


@pytest.mark.parametrize("bundle", READMES)
def test_a_readme_says_what_its_detector_reached_beside_the_best_plain_baseline(bundle: str) -> None:
    made = []
    for place, (folder, column) in BOARDS.items():
        figures = {name: row[column] for name, row in board(folder).items() if row[column] != "-"}
        if bundle in figures:
            plain = [name for name in PLAIN if name in figures and name != bundle]
            best = max(plain, key=lambda name: float(figures[name].split()[0]))
            made.append(f"{place} {figures[bundle]} ({PLAIN[best]} {figures[best]})")
    said = BESIDE.findall(READMES[bundle].read_text())
    assert said == ([", ".join(made)] if made else [])


@pytest.mark.parametrize("bundle", READMES)
def test_a_readme_says_how_long_its_detector_trains(bundle: str) -> None:
    rows = {place: board(folder).get(bundle) for place, (folder, _) in BOARDS.items()}
    said = re.findall("^How long it trains: (.*)$", READMES[bundle].read_text(), re.MULTILINE)
    assert len(said) == (bundle not in PLAIN and any(rows.values()))
    for sentence in said:
        own = json.loads((READMES[bundle].parents[1] / "configs/train.json").read_text())
        schedule, _, measured = sentence.partition("; on ")
        epochs = "once over" if own["max_epochs"] == 1 else f"{own['max_epochs']} epochs of"
        assert f"{epochs} {own['patches_per_epoch']:,} patches of {own['patch_size']} voxels" in schedule
        timed = {place: row for place, row in rows.items() if row and row["training (s)"] != "-"}
        if own["patch_size"] != FILM:
            timed.pop("chest films", None)
        found = TIMED.fullmatch(measured)
        assert bool(found) == bool(timed)
        if found:
            place, *schedule, seconds, others = found.groups()
            assert float(seconds) == pytest.approx(float(timed[place]["training (s)"].replace(",", "")), abs=0.5)
            changed = dict(zip(("max_epochs", "patches_per_epoch"), schedule, strict=True)) if schedule[0] else {}
            changed |= dict(re.findall(r"`(\w+)` ([\w.,]+)(?:, |$)", others or ""))
            for file in (ROOT / "results" / BOARDS[place][0] / "results").glob(f"{bundle}_*_seed*.json"):
                result = json.loads(file.read_text())
                ran = own | result["settings"]["settings"]
                for key in {"max_epochs", "patches_per_epoch", *changed}:
                    assert str(ran[key]) == str(changed.get(key, own[key])).replace(",", ""), key
                assert result["machine"]["threads"] == 1


def test_the_settings_of_boots_among_clothes_are_those_of_the_experiment() -> None:
    _, *shown = rows_of(section("docs/side_by_side.md", "settings of boots"))
    assert shown == [boots_settings(name) for name in TRAINED]
    for _, settings in TRAINED.values():  # the page says that no training ends early, and what an epoch is
        assert settings.get("patience", 1) in (1, settings.get("max_epochs"))
    assert COMMON["patches_per_epoch"] == 4200 and COMMON["patch_size"] == 32


def boots_settings(name: str) -> list[str]:
    """The cells of a detector: what differs from its bundle (whose own in brackets), epochs x images, and batch."""
    bundle, changed = TRAINED[name]
    own = json.loads((ROOT / f"bundles/{bundle}/configs/train.json").read_text())
    said = []
    for key, value in changed.items():
        kept = own.get(key.rpartition("#")[2])
        if key not in ("max_epochs", "stop_epochs", "patience", "batch_size", "max_samples") and value != kept:
            before = "" if kept is None or isinstance(value, bool) else f" ({as_json(kept)})"
            said.append(f"`{key.rpartition('#')[2]}` {as_json(value)}{before}")
    if own["max_epochs"] == 1:
        return [name, ", ".join(said) or "-", f"{changed.get('max_samples', COMMON['patches_per_epoch']):,}, once", "-"]
    before = f"{changed['stop_epochs']} + " if "stop_epochs" in changed else ""
    epochs = f"{before}{changed['max_epochs']} x {COMMON['patches_per_epoch']:,}"
    return [name, ", ".join(said) or "-", epochs, str(changed.get("batch_size", own["batch_size"]))]


def as_json(value: object) -> str:
    return json.dumps(value).strip('"')


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


def test_debiased_pseudo_auc_foretells_what_the_page_says() -> None:
    """The mixture has 121 healthy films of 502, by the folders that they lie in."""
    text = (ROOT / "docs/side_by_side.md").read_text()
    for detector, words in (("brainomaly", "Brainomaly"), ("healthygan", "HealthyGAN")):
        foretold, tested = [], []
        for seed in range(3):
            file = ROOT / f"results/chest_xray/results/{detector}_pseudo-auc_seed{seed}.json"
            metrics = json.loads(file.read_text())["metrics"]
            foretold.append(debiased_auc(max(metrics["epoch"]["pseudo_auc"]), 121 / 502))
            tested.append(metrics["case_level"]["auroc"])
        given = re.search(rf"{words} ([0-9., ]+), where (?:the test films|they) gave ([0-9., ]+\d)", text)
        assert given is not None
        assert given[1].split(", ") == [f"{value:.3f}" for value in foretold]
        assert given[2].split(", ") == [f"{value:.3f}" for value in tested]

"""Detectors that learn from a section 'mixed', unlabelled, too: trained, scored, published and benchmarked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from medanomaly import cli, workflows
from medanomaly.errors import InputError, MedanomalyError
from medanomaly.workflows.cohort import cohort_experiment

TINY = {"patch_size": 16, "features": 4, "max_epochs": 2, "patches_per_epoch": 32, "batch_size": 8}
OF_FILMS = {**TINY, "size": [16, 16], "stride": 16}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy films of 16 x 16 pixels; those that are ill, half of 'mixed' and of 'test', have a bright square."""
    folder, random = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    content: dict[str, list[dict[str, Any]]] = {}
    for section, n in (("training", 6), ("validation", 4), ("mixed", 6), ("test", 6)):
        for number in range(n):
            pixels = random.integers(90, 110, (16, 16)).astype(np.uint8)
            ill = section in ("mixed", "test") and number % 2
            pixels[4:9, 4:9] += np.uint8(60 if ill else 0)
            Image.fromarray(pixels).save(folder / f"{section}{number}.png")
            label = {"label": int(ill)} if section in ("mixed", "test") else {}
            content.setdefault(section, []).append({"image": f"{section}{number}.png", **label})
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def without(datalist: Path, section: str, folder: Path) -> Path:
    content = json.loads(datalist.read_text())
    del content[section]
    (folder / "less.json").write_text(json.dumps(content))
    return folder / "less.json"


@pytest.fixture(scope="module")
def done(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a benchmark whose epoch is chosen by pseudo-AUC."""
    settings = {**OF_FILMS, "choose_epoch": "pseudo_auc", "healthy_share": 0.5}
    output = tmp_path_factory.mktemp("bench")
    workflows.benchmark(films, ["intensity", "healthygan"], [0], output, chain="radiograph", settings=settings)
    return output / "cohort"


def test_one_training_is_scored_with_the_chosen_epoch_and_with_the_last(done: Path) -> None:
    table = pd.read_csv(done / "leaderboard.csv")
    assert list(zip(table["detector"], table["epoch"], strict=True)) == [
        ("intensity", "-"),
        ("healthygan", "the last"),
        ("healthygan", "by pseudo-AUC on 'mixed'"),
    ]
    models = sorted(path.parent.name for path in done.glob("runs/*/model"))
    assert models == ["healthygan_pseudo-auc_seed0"], "one training"
    chosen, last = (
        json.loads((done / f"results/healthygan_{name}_seed0.json").read_text())
        for name in ("pseudo-auc", "last-epoch")
    )
    told = chosen["metrics"]["epoch"]
    assert len(told["pseudo_auc"]) == len(told["debiased_auc"]) == 2 and told["healthy_share"] == 0.5
    assert told["epoch"] == 1 + int(np.argmax(told["pseudo_auc"])) and "epoch" not in last["metrics"]
    assert last["settings"]["scoring"] == {"weights": "model_last.pt"}
    same = chosen["metrics"]["case_level"]["auroc"] == last["metrics"]["case_level"]["auroc"]
    assert same or told["epoch"] == 1


def test_it_is_declared_wherever_the_figures_are(done: Path) -> None:
    chosen = json.loads((done / "results/healthygan_pseudo-auc_seed0.json").read_text())
    words = "the 6 training cases of datalist.json and 6 under 'mixed', not told apart"
    assert (
        chosen["trained_on"].startswith(words) and "the epoch was chosen by pseudo-AUC on these" in chosen["trained_on"]
    )
    text = (done / "leaderboard.md").read_text()
    assert "| by pseudo-AUC on 'mixed' |" in text and "transductive for them, not for the test cases" in text
    assert "--set choose_epoch=pseudo_auc" in text
    record = json.loads((done / "runs/healthygan_pseudo-auc_seed0/model/models/cases.json").read_text())
    assert {section: len(record[section]) for section in ("training", "validation", "mixed")} == {
        "training": 6,
        "validation": 4,
        "mixed": 6,
    }


def test_who_needs_unlabelled_cases_is_refused_without_them_and_left_out_if_nobody_asks(
    films: Path, tmp_path: Path
) -> None:
    less = without(films, "mixed", tmp_path)
    of = {"data_root": films.parent, "chain": "radiograph"}
    with pytest.raises(InputError, match=r"less.json has none under 'mixed': add such cases"):
        workflows.benchmark(less, ["intensity", "healthygan"], [0], tmp_path / "o", **of, settings=OF_FILMS)
    assert not (tmp_path / "o").exists(), "before any work"
    missing = set(cohort_experiment(less, **of).named_only) - set(cohort_experiment(films, **of).named_only)
    assert missing == {"brainomaly", "healthygan"}


def test_runs_that_do_not_learn_from_them_do_not_depend_on_them(films: Path, tmp_path: Path) -> None:
    runs = {}
    for name, datalist in {"with": films, "without": without(films, "mixed", tmp_path)}.items():
        shutil.copytree(films.parent, tmp_path / name)
        (tmp_path / name / "datalist.json").write_text(datalist.read_text())
        (runs[name],) = cohort_experiment(tmp_path / name / "datalist.json", chain="radiograph").runs(
            ["pca"], [0], False
        )
    assert runs["with"].record == runs["without"].record
    (own,) = cohort_experiment(films, chain="radiograph").runs(["brainomaly"], [0], False)
    assert own.setting == "own" and own.options.keys() - runs["with"].options.keys() == {"mixed"}


@pytest.mark.parametrize("section", ["test", "validation"])
def test_a_mixed_case_that_is_tested_is_refused_by_content(films: Path, section: str, tmp_path: Path) -> None:
    content = json.loads(films.read_text())
    shutil.copytree(films.parent, tmp_path / "films")
    shutil.copy(films.parent / content["mixed"][0]["image"], tmp_path / "films/copy.png")
    content[section].append({"image": "copy.png", "label": 0})
    (tmp_path / "films/datalist.json").write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=f"the case mixed0 in 'mixed' and the case copy in '{section}' are the same scan"
    ):
        cohort_experiment(tmp_path / "films/datalist.json", chain="radiograph")
    arguments = ["train", "--datalist", tmp_path / "films/datalist.json", "--output", tmp_path / "m"]
    arguments += ["--bundle", "brainomaly", "--chain", "radiograph"]
    ran = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert ran.exit_code and f"copy in '{section}' are the same scan" in str(ran.exception)
    assert not (tmp_path / "m/models/model.pt").exists()


def test_what_was_chosen_goes_with_the_model(cohort: Path, tmp_path: Path) -> None:
    """Train, go on, score and publish: heads, of which the mixed ones are in no other section."""
    settings = {**TINY, "spacing": [3, 3, 3], "stride": 16, "choose_epoch": "pseudo_auc", "max_epochs": 1}
    model = workflows.train(cohort, tmp_path / "m", bundle="brainomaly", settings=settings)
    files = {path.name for path in (model / "models").iterdir()}
    assert {"model.pt", "model_last.pt", "epoch.json", "calibration_bright.json"} <= files
    workflows.train(output=model, resume=True, epochs=2)
    words = json.loads((model / "models/epoch.json").read_text())["words"]
    assert " of 2, chosen by pseudo-AUC: held-out healthy cases against the cases under 'mixed'" in words
    workflows.score(datalist=cohort, model=model, output=tmp_path / "out")
    assert json.loads((tmp_path / "out/run.json").read_text())["epoch"] == words
    assert words.split(";")[0] in (tmp_path / "out/test-1/report.html").read_text().replace("&#39;", "'")
    metrics = workflows.evaluate(cohort, tmp_path / "out")
    assert f"Brainomaly: epoch {words}" in metrics["warnings"]
    published = workflows.publish("made_anomaly", model, tmp_path / "published", region="nonzero")
    assert f"Epoch {words}." in (published / "docs/README.md").read_text()
    assert json.loads((published / "docs/provenance.json").read_text())["trained_with"]["epoch"] == words
    with pytest.raises(MedanomalyError, match="was trained on mixed-0"):
        content = json.loads(cohort.read_text())
        mixed = [{**case, "label": f"{case['case']}/label.nii.gz"} for case in content["mixed"]]
        (tmp_path / "list.json").write_text(json.dumps({"test": mixed}))
        workflows.score(datalist=tmp_path / "list.json", model=model, output=tmp_path / "o", data_root=cohort.parent)
        workflows.evaluate(tmp_path / "list.json", tmp_path / "o", data_root=cohort.parent)


def test_a_training_without_a_mixed_section_says_what_is_missing(cohort: Path, tmp_path: Path) -> None:
    less = without(cohort, "mixed", tmp_path)
    with pytest.raises(
        MedanomalyError, match=r"learns from healthy cases \(section 'training'\) and from healthy and diseased"
    ):
        workflows.train(less, tmp_path / "m", bundle="healthygan", data_root=cohort.parent)
    assert not (tmp_path / "m/models").exists()

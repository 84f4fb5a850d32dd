"""What a user does in the shell is done in three lines of Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medanomaly.errors import ConfigError, InputError
from medanomaly.workflows import bundles, evaluate, score, train
from medanomaly.workflows.evaluate import compare
from medanomaly.workflows.score import closing_words

SMALL = {"patches_per_epoch": 64, "batch_size": 64, "spacing": [2, 2, 3]}


@pytest.fixture(scope="module")
def model(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(cohort, tmp_path_factory.mktemp("run") / "model", epochs=1, settings=SMALL)


def test_three_lines_train_score_and_evaluate(cohort: Path, model: Path, tmp_path: Path) -> None:
    table = score(model=model, output=tmp_path, datalist=cohort)
    metrics = evaluate(cohort, tmp_path)
    assert model.is_absolute() and (model / "models" / "model.pt").exists()
    assert list(table["case"]) == ["test-0", "test-1"] and table["case_score"].notna().all()
    for row in table.itertuples():
        heatmap, display = (np.asarray(nib.load(path).dataobj) for path in (row.heatmap, row.display))
        assert np.isfinite(heatmap).any() and 50 < display.max() <= 100
    assert metrics["detectors"][0]["name"] == "intensity"
    assert metrics == json.loads((tmp_path / "evaluation" / "metrics.json").read_text())


def test_a_single_scan_has_a_row_of_its_own(cohort: Path, model: Path, tmp_path: Path) -> None:
    first, second = (cohort.parent / case for case in ("test-0", "test-1"))
    for number, folder in enumerate((first, second)):
        scan = tmp_path / f"scan{number}.nii.gz"
        scan.write_bytes((folder / "image0.nii.gz").read_bytes())
        table = score(scan, model, tmp_path / "out", region=folder / "brain.nii.gz")
        assert list(table["case"]) == [f"scan{number}"]


def test_detectors_are_compared_in_one_table(cohort: Path, model: Path, tmp_path: Path) -> None:
    few = {"max_samples": 20, "batch_size": 20, "spacing": SMALL["spacing"]}
    other = train(cohort, tmp_path / "svm", bundle="one_class_svm", settings=few)
    for name, root in (("gan", model), ("svm", other)):
        score(model=root, output=tmp_path / name, datalist=cohort)
    both = compare(cohort, [tmp_path / "gan", tmp_path / "svm"], tmp_path / "both")
    names = [row["name"] for row in both["detectors"]]
    assert names == ["intensity", "intensity, smoothed", "intensity, equalised", "GANomaly", "one-class SVM"]
    alone = evaluate(cohort, tmp_path / "svm", output=tmp_path / "alone")
    assert alone["detectors"][-1] == both["detectors"][-1] and alone["detectors"][0] == both["detectors"][0]
    with pytest.raises(InputError, match="give each of them once"):
        compare(cohort, [tmp_path / "gan", tmp_path / "gan"], tmp_path / "twice")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, InputError, "nothing to train on"),
        ({"resume": True}, InputError, "no training to go on with"),
        ({"datalist": "cohort", "settings": {"pach_size": 32}}, ConfigError, "Did you mean 'patch_size'"),
        ({"datalist": "cohort", "bundle": "gan"}, InputError, "gan is not a bundle"),
        ({"datalist": "cohort", "chain": "film"}, InputError, "film is not a chain"),
        ({"datalist": "cohort", "device": "gpu7"}, ConfigError, "gpu7 cannot be used here"),
    ],
    ids=str,
)
def test_mistakes_of_training_are_found_before_work(
    arguments: dict[str, Any],
    error: type[Exception],
    words: str,
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundles, "run_bundle", lambda *_, **__: pytest.fail("work was done"))
    if "datalist" in arguments:
        arguments = {**arguments, "datalist": cohort}
    with pytest.raises(error, match=words):
        train(output=tmp_path / "model", **arguments)


def test_what_is_asked_for_reaches_the_bundle(
    cohort: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bundles, "run_bundle", lambda root, config, **settings: called.append((root, config, settings)))
    root = train(cohort, tmp_path / "m", region="nonzero", seed=3, epochs=2, device="cpu", settings={"stride": 8})
    config = json.loads((root / "configs" / "train.json").read_text())
    assert (config["region"], config["seed"], config["max_epochs"], config["stride"]) == ("nonzero", 3, 2, 8)
    (trained,) = called
    assert trained[:2] == (root, "train") and trained[2]["max_epochs"] == 2 and str(trained[2]["device"]) == "cpu"
    monkeypatch.setattr("pandas.read_csv", lambda *_, **__: pytest.skip("nothing was scored"))
    for region in ("given", "nonzero", "all", "bet {image} {mask}"):
        with pytest.raises(pytest.skip.Exception):
            score(model=model, output=tmp_path / "o", datalist=cohort, region=region, amp=True)
        assert (called[-1][2]["region"], called[-1][2]["score_amp"]) == (region, True)


def test_films_are_trained_scored_and_evaluated_by_their_chain(tmp_path: Path) -> None:
    row, column = np.indices((70, 60))
    datalist: dict[str, list[dict[str, str]]] = {}
    for number, section in enumerate(("training", "training", "validation", "test", "test")):
        case, label = f"{section}{number}", np.zeros((70, 60), np.uint8)
        if case == "test4":
            label[20:34, 18:32] = 255
        film = 100 + 40 * np.sin(row / 15 + number) * np.cos(column / 12) + (label > 0) * 80
        for name, pixels in ((f"{case}.png", film), (f"{case}_label.png", label)):
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        labelled = {"label": f"{case}_label.png"} if section == "test" else {}
        datalist.setdefault(section, []).append({"case": case, "image": f"{case}.png", **labelled})
    (tmp_path / "films.json").write_text(json.dumps(datalist))
    few = {"patches_per_epoch": 16, "batch_size": 8, "features": 8}
    model = train(
        tmp_path / "films.json",
        tmp_path / "m",
        bundle="denoising_autoencoder",
        chain="radiograph",
        epochs=1,
        settings=few,
    )
    table = score(model=model, output=tmp_path / "out", datalist=tmp_path / "films.json")
    assert [Path(path).name for path in table["display"]] == ["test3_display.png", "test4_display.png"]
    assert "load CASE_display.png over the scan" in closing_words(table, tmp_path / "out")
    metrics = evaluate(tmp_path / "films.json", tmp_path / "out")
    assert metrics["detectors"][0]["voxels"]["auroc"] > 0.9, "the mark is brighter than all else"
    assert json.loads((model / "models" / "calibration.json").read_text())["settings"]["size"] == [64, 64]

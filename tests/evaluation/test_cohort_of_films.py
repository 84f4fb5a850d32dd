"""Cohorts whose labels are numbers: figures of whole cases against scikit-learn, and none of voxels."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

from medanomaly.data import display_path
from medanomaly.detectors import IntensityBaseline
from medanomaly.errors import InputError
from medanomaly.evaluation import Calibration, HeatmapFolder, HeatmapOnTheSpot, bootstrap_of_cases, calibrate
from medanomaly.evaluation.cohort import evaluate_cohort
from medanomaly.preprocessing import heatmap_to_scan, radiograph
from medanomaly.report.figures import case_figure, roc_figure
from medanomaly.report.tables import detector_table

LABELS = [0, 1] * 10
SHAPE = (16, 24)


def pixels(number, label):
    film = np.random.default_rng(number).normal(100, 8, SHAPE)
    film[4:7, 15:18] += 25 * label
    return np.clip(np.rint(film), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number, label in enumerate(LABELS):
        Image.fromarray(pixels(number, label)).save(tmp_path / f"c{number}.png")
    for number in range(30, 36):
        Image.fromarray(pixels(number, 0)).save(tmp_path / f"c{number}.png")
    drawn = np.zeros(SHAPE, np.uint8)
    Image.fromarray(drawn).save(tmp_path / "none.png")
    drawn[4:7, 15:18] = 255
    Image.fromarray(drawn).save(tmp_path / "lesion.png")
    return tmp_path


def film(folder, number, label=None):
    case = {"case": f"c{number}", "image": [str(folder / f"c{number}.png")]}
    return case if label is None else case | {"label": label}


def cases(folder):
    return [film(folder, number, label) for number, label in enumerate(LABELS)]


def noisy(case):
    """One score for a whole film, somewhat higher for the ill."""
    number = int(case["case"][1:])
    score = np.random.default_rng(number).normal() + number % 2
    return np.full((SHAPE[1], SHAPE[0], 1), score, np.float32)


def score_of(number):
    return float(noisy({"case": f"c{number}"})[0, 0, 0])


def test_whole_images_have_figures_that_equal_scikit_learn_and_no_voxel_figures(folder):
    normals = [film(folder, number) for number in range(30, 36)]
    result = evaluate_cohort(cases(folder), {"one": noisy}, folder / "out", normals, n_replicates=50)
    (row,) = result["detectors"]
    assert set(row) == {"name", "cases", "case_level", "case_roc", "case_pr"}
    assert set(row["cases"][0]) == {"case", "abnormal", "case_score"}
    scores = np.array([score_of(number) for number in range(len(LABELS))])
    np.testing.assert_allclose([case["case_score"] for case in row["cases"]], scores, rtol=1e-6)
    found, called = row["case_level"], scores > max(score_of(number) for number in range(30, 36))
    assert found["auroc"] == pytest.approx(roc_auc_score(LABELS, scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(LABELS, scores))
    assert found["sensitivity"] == recall_score(LABELS, called)
    assert found["specificity"] == recall_score(np.array(LABELS) == 0, ~called)
    assert found["f1"] == pytest.approx(f1_score(LABELS, called))
    for key, interval in found["intervals"].items():
        assert 0 <= interval["low"] <= found[key] <= interval["high"] <= 1
    assert np.trapezoid(row["case_roc"]["tpr"], row["case_roc"]["fpr"]) == pytest.approx(found["auroc"])
    columns = pd.read_csv(folder / "out/detectors.csv").columns
    assert "case_level.intervals.f1.low" in columns and not any("voxel" in column for column in columns)
    assert list(pd.read_csv(folder / "out/cases.csv").columns) == ["detector", "case", "abnormal", "case_score"]


def test_intervals_are_those_of_drawn_cases():
    rng = np.random.default_rng(0)
    abnormal, scores = rng.random(40) < 0.4, rng.normal(size=40)
    found = bootstrap_of_cases(scores, abnormal, 0.2, n_replicates=200, seed=3)
    draws = np.random.default_rng(3).integers(40, size=(200, 40))
    expected = {
        "auroc": [roc_auc_score(abnormal[draw], scores[draw]) for draw in draws],
        "average_precision": [average_precision_score(abnormal[draw], scores[draw]) for draw in draws],
        "sensitivity": [recall_score(abnormal[draw], scores[draw] > 0.2) for draw in draws],
        "f1": [f1_score(abnormal[draw], scores[draw] > 0.2) for draw in draws],
    }
    for key, replicates in expected.items():
        assert found[key] == pytest.approx(np.quantile(replicates, [0.025, 0.975])), key
    assert set(bootstrap_of_cases(scores, abnormal, n_replicates=5)) == {"auroc", "average_precision"}
    assert set(bootstrap_of_cases(scores[:1], abnormal[:1], 0.2, n_replicates=5).values()) == {None}


def test_without_thresholds_there_is_what_needs_none(folder):
    result = evaluate_cohort(cases(folder), {"one": noisy}, folder / "out", n_replicates=5)
    assert set(result["detectors"][0]["case_level"]) == {"auroc", "average_precision", "intervals"}
    table = detector_table(result)
    assert [column.header for column in table.columns][1] == "case AUROC"
    assert table.caption == "abnormal cases: 10 of 20"
    roc_figure(result, folder / "roc.png")
    assert (folder / "roc.png").stat().st_size > 1000
    one_kind = evaluate_cohort(cases(folder)[::2], {"one": noisy}, folder / "out", n_replicates=5)["detectors"][0]
    assert np.isnan(one_kind["case_level"]["auroc"]) and "case_roc" not in one_kind
    assert json.loads((folder / "out/metrics.json").read_text())["detectors"][0]["case_level"]["auroc"] is None


def test_masks_and_numbers_in_one_cohort(folder):
    """Label 0 is an empty mask; of label 1 without a mask nothing is known of the voxels."""
    lesion = str(folder / "lesion.png")
    drawn = [film(folder, n, lesion if label else str(folder / "none.png")) for n, label in enumerate(LABELS)]
    mixed = [film(folder, n, (1 if n == 1 else lesion) if label else 0) for n, label in enumerate(LABELS)]
    source = {"intensity": HeatmapOnTheSpot(radiograph(1), IntensityBaseline(spacing=None))}
    normals = [film(folder, number) for number in range(30, 36)]
    masks, both, fewer = (
        evaluate_cohort(given, source, folder / "out", normals, n_replicates=5)
        for given in (drawn, mixed, [case for n, case in enumerate(drawn) if n != 1])
    )
    assert both["detectors"][0]["case_level"] == masks["detectors"][0]["case_level"]
    assert both["detectors"][0]["voxels"] == fewer["detectors"][0]["voxels"]
    assert masks["warnings"] == [] and both["warnings"] == [
        "1 cases have the label 1 and no mask, and are in no voxel figure: c1."
    ]
    assert "auroc" not in both["detectors"][0]["cases"][1]


def test_films_that_were_scored_before_and_plain_intensity_go_one_way(folder):
    chain = radiograph(1, (8, 12))
    baseline = IntensityBaseline(spacing=None)
    prepared = [chain(film(folder, number)) for number in range(30, 36)]
    calibration = calibrate(prepared, baseline, None, preprocessing=chain)
    for case in cases(folder):
        made = chain(case)
        scored = baseline(made["image"][None], mask=made["region"][None])[0]
        heatmap_to_scan(chain, folder / "scores", calibration.percentile)({**made, "pred": torch.as_tensor(scored)})
    sources = {"intensity": HeatmapOnTheSpot(chain, baseline), "scored": HeatmapFolder(folder / "scores")}
    rows = evaluate_cohort(
        cases(folder), sources, folder / "out", calibrations=dict.fromkeys(sources, calibration), n_replicates=5
    )["detectors"]
    np.testing.assert_allclose(*([case["case_score"] for case in row["cases"]] for row in rows), rtol=1e-5)
    assert rows[0]["case_level"]["auroc"] > 0.8
    shown = display_path(folder / "scores", "c1", folder / "c1.png")
    case_figure([folder / "c1.png"], shown, folder / "figure.png", label=folder / "lesion.png")
    assert (folder / "figure.png").stat().st_size > 1000


def test_a_normal_case_of_label_1_and_heatmaps_of_two_shapes_are_refused(folder):
    with pytest.raises(InputError, match="the normal cases: c31 in 'validation' have the label 1"):
        evaluate_cohort(cases(folder), {"one": noisy}, folder / "out", [film(folder, 31, 1)])
    sources = {"one": noisy, "other": lambda case: noisy(case)[:-1]}
    with pytest.raises(InputError, match=r"the heatmaps of c0 differ in shape: \(24, 16, 1\) of one, \(23, 16, 1\)"):
        evaluate_cohort(cases(folder), sources, folder / "out")
    with pytest.raises(InputError, match=r"no 'label': .* or give 0 for a healthy case and 1 for another"):
        evaluate_cohort([film(folder, 0)], {"one": noisy}, folder / "out")
    assert not (folder / "out").exists()


def test_the_case_score_of_a_constant_heatmap_is_its_constant(folder):
    for number in range(30, 36):
        assert Calibration.fit([noisy({"case": f"c{number}"})], "one").case_scores == (score_of(number),)

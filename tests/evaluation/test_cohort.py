"""A whole cohort of made volumes against scikit-learn and known answers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from medanomaly.detectors import base
from medanomaly.detectors.intensity import IntensityBaseline
from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation import Calibration
from medanomaly.evaluation.cohort import evaluate_cohort
from medanomaly.evaluation.heatmaps import HeatmapFolder, HeatmapOnTheSpot
from medanomaly.evaluation.normals import SIGNS, calibrate, calibrate_model, calibration_file
from medanomaly.preprocessing import brain_mri
from medanomaly.report.tables import detector_table

SHAPE = (9, 8, 7)
AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])
ABNORMAL = {"a": True, "b": False, "c": True, "d": False}


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def brain_and_lesion(case):
    brain, lesion = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    brain[1:8, 1:7, 1:6] = True
    if ABNORMAL.get(case):
        lesion[5:7, 2:4, 1:3] = True
        lesion[0, 0, 0] = True  # outside the brain: no score lies there
    return brain, lesion


def heatmap_of(case):
    """Noise, higher in lesions, NaN outside the brain."""
    brain, lesion = brain_and_lesion(case)
    scores = np.random.default_rng(ord(case)).normal(size=SHAPE) + 2.0 * lesion
    return np.where(brain, scores, np.nan).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    for case in "abcdxyz":
        save(tmp_path / "scores" / case / f"{case}_heatmap.nii.gz", heatmap_of(case))
        save(tmp_path / f"{case}.nii", np.random.default_rng(ord(case)).gamma(2, 50, SHAPE).astype(np.float32))
        save(tmp_path / f"{case}_brain.nii", brain_and_lesion(case)[0].astype(np.uint8))
        save(tmp_path / f"{case}_label.nii", 2 * brain_and_lesion(case)[1].astype(np.uint8))
    return tmp_path


def cases(folder, names="abcd", **changes):
    files = {"image": ".nii", "region": "_brain.nii", "label": "_label.nii"}
    return [{"case": n} | {k: str(folder / f"{n}{end}") for k, end in files.items()} | changes for n in names]


def healthy(folder, names):
    return cases(folder, names, label=None)


def evaluate(folder, names="abcd", **options):
    given = options.pop("given", None) or cases(folder, names)
    source = {"made": HeatmapFolder(folder / "scores")}
    return evaluate_cohort(given, source, folder / "out", n_replicates=20, **options)["detectors"][0]


def pooled(names):
    scores, labels = [], []
    for case in names:
        brain, lesion = brain_and_lesion(case)
        scores.append(heatmap_of(case)[brain])
        labels.append(lesion[brain])
    return np.concatenate(scores), np.concatenate(labels)


def top_mean(case):
    """The mean of the highest 1 % of 210 voxels, which is two."""
    return np.sort(heatmap_of(case)[brain_and_lesion(case)[0]])[-2:].mean(dtype=float)


def test_voxel_metrics_equal_scikit_learn_in_the_brain(folder):
    row = evaluate(folder)
    scores, labels = pooled("abcd")
    assert row["voxels"]["n_voxels"] == 4 * 210
    assert row["voxels"]["prevalence"] == 16 / 840
    assert row["voxels"]["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert row["voxels"]["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    dice = [2 * (labels & (scores >= t)).sum() / (labels.sum() + (scores >= t).sum()) for t in scores]
    assert row["voxels"]["best_dice"] == pytest.approx(max(dice))
    low, high = (row["intervals"]["auroc"][end] for end in ("low", "high"))
    assert low <= row["voxels"]["auroc"] <= high
    area = np.trapezoid(row["roc"]["tpr"], row["roc"]["fpr"])
    assert area == pytest.approx(row["voxels"]["auroc"], abs=2e-3)


def test_each_case_has_its_own_figures(folder):
    rows = evaluate(folder)["cases"]
    assert [row["case"] for row in rows] == list("abcd")
    assert {row["case"]: row["abnormal"] for row in rows} == ABNORMAL
    for row in rows:
        assert row["case_score"] == pytest.approx(top_mean(row["case"]))
        scores, labels = pooled(row["case"])
        expected = roc_auc_score(labels, scores) if row["abnormal"] else np.nan
        assert row["auroc"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("from_calibration", [False, True])
def test_the_case_threshold_comes_from_normals_alone(folder, from_calibration):
    normal_scores = [top_mean(case) for case in "xyz"]
    if from_calibration:
        maps = [heatmap_of(case)[brain_and_lesion(case)[0]] for case in "xyz"]
        row = evaluate(folder, calibrations={"made": Calibration.fit(maps, "3 of mine")}, normals=cases(folder, "ac"))
        source = "3 of mine"
    else:
        row = evaluate(folder, normals=healthy(folder, "xyz"))
        source = "3 held-out normal cases"
    assert row["case_level"]["threshold_from"] == (
        f"the highest case score of {source}: at most 25 % of new normal cases exceed it (5 % would need 19 normals)"
    )
    threshold = max(normal_scores)
    assert row["case_level"]["threshold"] == pytest.approx(threshold)
    called = {case: int(top_mean(case) > threshold) for case in "abcd"}
    assert row["case_level"]["tp"] == called["a"] + called["c"]
    assert row["case_level"]["fp"] == called["b"] + called["d"]
    assert row["case_level"]["auroc"] == roc_auc_score(list(ABNORMAL.values()), [top_mean(case) for case in "abcd"])


def test_lesions_of_labelled_normals_are_left_out_of_the_threshold(folder):
    row = evaluate(folder, "bd", normals=cases(folder, "a"))
    brain, lesion = brain_and_lesion("a")
    normal = heatmap_of("a")[brain & ~lesion]
    assert row["case_level"]["threshold"] == pytest.approx(np.sort(normal)[-2:].mean(dtype=float))


def test_all_rows_get_case_level_figures_or_none(folder):
    sources = {"plain": lambda case: -heatmap_of(case["case"]), "made": HeatmapFolder(folder / "scores")}
    calibrations = {"made": Calibration.fit([heatmap_of("x")[brain_and_lesion("x")[0]]], "1 of mine")}
    result = evaluate_cohort(cases(folder), sources, folder / "out", calibrations=calibrations, n_replicates=2)
    assert not any("case_level" in row for row in result["detectors"])
    assert "no thresholds from normals for plain, so no row" in " ".join(result["warnings"])
    both = {**calibrations, "plain": calibrations["made"]}
    rows = evaluate_cohort(cases(folder), sources, folder / "out", calibrations=both, n_replicates=2)["detectors"]
    assert all("case_level" in row for row in rows)


def test_rows_that_were_scored_on_other_brains_are_refused(folder):
    def smaller(case):
        heatmap = heatmap_of(case["case"])
        if case["case"] == "c":
            heatmap[1] = np.nan
        return heatmap

    sources = {"small": smaller, "made": HeatmapFolder(folder / "scores")}
    words = "regions of c differ: small has scores at 180 voxels, made at 210, and 30 voxels"
    with pytest.raises(InputError, match=words):
        evaluate_cohort(cases(folder), sources, folder / "out", n_replicates=2)
    assert not (folder / "out").exists()


def test_a_lesion_that_the_mask_cuts_off_still_makes_its_case_abnormal(folder):
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, :3] = 1
    save(folder / "b_label.nii", label)
    given = cases(folder)
    result = evaluate_cohort(given, {"made": HeatmapFolder(folder / "scores")}, folder / "out", n_replicates=2)
    rows = {row["case"]: row for row in result["detectors"][0]["cases"]}
    assert {case: row["abnormal"] for case, row in rows.items()} == {**ABNORMAL, "b": True}
    assert {case: row["lesion_voxels_outside"] for case, row in rows.items()} == {"a": 1, "b": 3, "c": 1, "d": 0}
    assert result["detectors"][0]["voxels"]["lesion_voxels_outside"] == 5
    assert "5 lesion voxels lie outside the regions" in result["warnings"][0]
    assert "a (1), b (3), c (1)" in " ".join(detector_table(result).caption.split())
    assert pd.read_csv(folder / "out/cases.csv")["lesion_voxels_outside"].tolist() == [1, 3, 1, 0]


def test_without_normals_there_is_no_case_level(folder):
    assert "case_level" not in evaluate(folder)


def test_healthy_cases_alone_have_no_lesion_metrics(folder):
    row = evaluate(folder, "bd", normals=healthy(folder, "xyz"))
    assert "roc" not in row
    assert np.isnan(row["voxels"]["auroc"])
    assert row["voxels"]["prevalence"] == 0
    assert np.isnan(row["case_level"]["sensitivity"])
    assert row["case_level"]["tp"] == row["case_level"]["fn"] == 0


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


@pytest.mark.parametrize("names", ["abcd", "bd", "a"])
def test_files_hold_what_is_returned(folder, names):
    row = evaluate(folder, names, normals=healthy(folder, "xyz"))
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["cases.csv", "detectors.csv", "metrics.json"]
    written = json.loads((folder / "out/metrics.json").read_text(), parse_constant=refuse)
    assert written["n_cases"] == len(names)
    auroc = written["detectors"][0]["voxels"]["auroc"]
    assert (np.nan if auroc is None else auroc) == pytest.approx(row["voxels"]["auroc"], nan_ok=True)
    table = pd.read_csv(folder / "out/detectors.csv")
    assert table["name"].tolist() == ["made"]
    assert table["voxels.auroc"][0] == pytest.approx(row["voxels"]["auroc"], nan_ok=True)
    assert table["case_level.threshold"][0] == pytest.approx(row["case_level"]["threshold"])
    table = pd.read_csv(folder / "out/cases.csv")
    assert table["case"].tolist() == list(names)
    assert set(table["detector"]) == {"made"}
    np.testing.assert_allclose(table["case_score"], [case["case_score"] for case in row["cases"]])


def test_detectors_keep_their_order(folder):
    sources = {"plain": lambda case: -heatmap_of(case["case"]), "better": HeatmapFolder(folder / "scores")}
    rows = evaluate_cohort(cases(folder), sources, folder / "out", n_replicates=2)["detectors"]
    assert [row["name"] for row in rows] == ["plain", "better"]
    assert rows[0]["voxels"]["auroc"] == pytest.approx(1 - rows[1]["voxels"]["auroc"])
    assert pd.read_csv(folder / "out/cases.csv")["detector"].tolist() == ["plain"] * 4 + ["better"] * 4


def test_a_label_with_other_axes_is_the_same_label(folder):
    """Its file alone would put the lesions on the other side, and nobody would notice: the shape is the same."""
    expected = repr(evaluate(folder))
    for case in "ac":
        image = nib.Nifti1Image(brain_and_lesion(case)[1].astype(np.uint8), AFFINE)
        nib.save(image.as_reoriented(np.array([[0, -1], [1, 1], [2, -1]])), folder / f"{case}_label.nii")
    assert repr(evaluate(folder)) == expected


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda f: (f / "scores/b/b_heatmap.nii.gz").unlink(),
            "there is no heatmap .*b_heatmap.nii.gz: score the case b",
        ),
        (
            lambda f: save(f / "scores/b/b_heatmap.nii.gz", np.ones((7, 8, 9), np.float32)),
            r"heatmap of b has shape \(7, 8, 9\).*b_label.nii has \(9, 8, 7\)",
        ),
        (lambda f: save(f / "scores/b/b_heatmap.nii.gz", np.full(SHAPE, np.nan, np.float32)), "None of the 504 voxels"),
    ],
)
def test_a_heatmap_that_does_not_fit_is_an_error_and_no_file(folder, break_it, message):
    break_it(folder)
    with pytest.raises(InputError, match=message):
        evaluate(folder)
    assert not (folder / "out").exists()


def test_cases_without_label_and_no_cases_at_all_are_errors(folder):
    given = cases(folder, "a") + cases(folder, "b", label=None) + [{"case": "c"}]
    with pytest.raises(InputError, match=r"case\(s\) b, c have no 'label'"):
        evaluate(folder, given=given)
    with pytest.raises(InputError, match="there are no cases"):
        evaluate_cohort([], {"made": HeatmapFolder(folder)}, folder / "out")


def test_the_intensity_on_the_spot_is_the_normalised_scan(folder):
    source = HeatmapOnTheSpot(brain_mri(spacing=None), IntensityBaseline(spacing=None))
    case = cases(folder, "a")[0]
    array, (brain, _) = np.asarray(nib.load(case["image"]).dataobj), brain_and_lesion("a")
    low, high = np.percentile(array[brain], [5, 95])
    np.testing.assert_allclose(source(case), np.where(brain, (array - low) / (high - low), np.nan), atol=1e-5)
    auroc = evaluate_cohort([case], {"intensity": source}, folder / "out", n_replicates=1)["detectors"][0]["voxels"][
        "auroc"
    ]
    assert auroc == pytest.approx(roc_auc_score(pooled("a")[1], array[brain]))


def first_channel(volume, network, mask, exclude=None):
    scored = (mask > 0) if exclude is None else (mask > 0) & (exclude == 0)
    return torch.where(scored, volume[:, :1], torch.nan)


def test_calibration_leaves_out_what_touches_a_label():
    shape = (20, 18, 16)
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    brain, label = torch.zeros(1, *shape), torch.zeros(1, *shape)
    brain[:, 2:18, 1:17, 1:15] = 1
    label[:, 8:11, 8:10, 3] = 1
    dataset = [{"image": image, "region": brain}, {"image": image + 1, "region": brain, "label": label}]
    inside, normal = brain[0].numpy() > 0, (brain[0].numpy() > 0) & (label[0].numpy() == 0)
    expected = [image[0].numpy()[inside], image[0].numpy()[normal] + 1]
    assert expected[0].size - expected[1].size == 6
    found = calibrate(dataset, first_channel, None, settings={"stride": 4})
    assert found == Calibration.fit(expected, "2 held-out normal cases", {"stride": 4})
    assert calibrate(dataset[:1], first_channel, None, held_out=False).source.startswith("1 training case, because")
    with pytest.raises(InputError, match="no tissue that is free of lesion"):
        calibrate([{"image": image, "region": brain, "label": brain}], first_channel, None)


def test_each_sign_gets_a_calibration_of_its_own(tmp_path):
    def signed(volume, network, mask):
        part = {"both": volume.abs(), "bright": volume.clamp(min=0), "dark": (-volume).clamp(min=0)}[network.sign]
        return torch.where(mask > 0, part, torch.nan)

    generator = torch.Generator().manual_seed(0)
    dataset = [{"image": torch.randn(1, 12, 12, 12, generator=generator), "region": torch.ones(1, 12, 12, 12)}]
    network = SimpleNamespace(sign="dark", signed=True)
    network.set_sign = lambda sign: setattr(network, "sign", sign)
    calibrate_model(dataset, signed, network, tmp_path, held_out=False, settings={"stride": 4})
    assert network.sign == "dark"  # as it was
    files = ["calibration.json", "calibration_bright.json", "calibration_dark.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert [calibration_file(tmp_path, sign).name for sign in SIGNS] == files and SIGNS == base.SIGNS
    for sign in SIGNS:
        expected = calibrate(dataset, signed, SimpleNamespace(sign=sign), False, {"stride": 4, "sign": sign})
        assert Calibration.load(calibration_file(tmp_path, sign)) == expected
    with pytest.raises(ConfigError, match="sign is 'up': use one of both, bright, dark"):
        calibration_file(tmp_path, "up")
    network.signed = False
    calibrate_model(dataset, signed, network, tmp_path / "unsigned")
    assert [path.name for path in (tmp_path / "unsigned").iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    ("saved", "asked", "wrong"),
    [
        ({"spacing": (1, 1, 1)}, {"spacing": [1, 1, 1]}, None),
        ({"spacing": (1, 1, 1), "stride": 4}, {"spacing": (1, 1, 2), "stride": 4}, "spacing"),
        ({"spacing": None, "stride": 4}, {"spacing": None, "stride": 2}, "stride"),
        ({"stride": 4}, {"stride": 4, "planes": "axial"}, None),  # a newer setting that the file does not know
    ],
)
def test_scores_made_with_other_settings_are_a_config_error(tmp_path, saved, asked, wrong):
    calibration = Calibration.fit([np.arange(5.0)], "made", saved)
    calibration.save(tmp_path / "calibration.json")
    if wrong is None:
        assert Calibration.load(tmp_path / "calibration.json", asked).quantiles == calibration.quantiles
    else:
        with pytest.raises(ConfigError, match=f"trained with {wrong} = "):
            Calibration.load(tmp_path / "calibration.json", asked)

"""What scoring says of each case, a mask that cannot be the brain's included."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medanomaly.data import heatmap_path
from medanomaly.evaluation import Calibration
from medanomaly.report import write_score_summary
from medanomaly.report.summaries import summarise_case
from medanomaly.report.tables import score_table

SHARES = {"fine": 0.3, "everything": 0.99, "nothing": 0.004}


@pytest.fixture
def calibration():
    return Calibration.fit([np.linspace(0, 1, 1001)], "1 normal case")


@pytest.fixture
def cases(tmp_path):
    """Three cases whose heatmaps cover some share of their images."""
    for name, share in SHARES.items():
        heatmap = np.full(1000, np.nan, np.float32)
        heatmap[: int(1000 * share)] = 0.5
        file = heatmap_path(tmp_path, name)
        file.parent.mkdir()
        nib.save(nib.Nifti1Image(heatmap.reshape(10, 10, 10), np.eye(4)), file)
    nib.save(nib.Nifti1Image(np.ones((10, 10, 10), np.float32), np.eye(4)), tmp_path / "scan.nii")
    return [{"case": name, "image": [str(tmp_path / "scan.nii")]} for name in SHARES]


def test_a_summary_tells_the_share_of_the_brain_and_what_is_odd_about_it(cases, tmp_path, calibration):
    found = [summarise_case(case, tmp_path, calibration) for case in cases]
    assert [summary["region_fraction"] for summary in found] == pytest.approx(list(SHARES.values()))
    assert found[0]["warning"] == ""
    assert "99.0 % of the image" in found[1]["warning"]
    assert "0.4 % of the image" in found[2]["warning"]


def test_a_scan_that_the_normals_do_not_resemble_is_warned_of(cases, tmp_path):
    elsewhere = Calibration.fit([np.linspace(2, 3, 1001), np.linspace(2, 3.1, 1001)], "2 normal cases")
    assert "medanomaly calibrate" in summarise_case(cases[0], tmp_path, elsewhere)["warning"]


def test_the_file_and_the_table_name_the_cases_concerned(cases, tmp_path, calibration, capsys):
    pd.DataFrame([{"case": "earlier", "case_score": 1.0}]).to_csv(tmp_path / "cases.csv", index=False)
    write_score_summary(cases, tmp_path, calibration, report=False)
    table = pd.read_csv(tmp_path / "cases.csv", keep_default_na=False).set_index("case")
    assert table.loc[["earlier", "fine"], "warning"].tolist() == ["", ""]
    assert table.loc["everything", "warning"].startswith("the brain mask covers 99.0 %")
    printed = capsys.readouterr().out
    below = " ".join(printed[printed.index("case threshold:") :].split())
    assert "everything: the brain mask covers 99.0 %" in below
    assert "nothing: the brain mask covers 0.4 %" in below
    assert "fine:" not in below


def test_where_all_is_fine_the_table_is_what_it_was(cases, tmp_path, calibration):
    fine = summarise_case(cases[0], tmp_path, calibration)
    assert fine["warning"] == ""
    without = {key: value for key, value in fine.items() if key not in ("region_fraction", "warning")}
    assert score_table([fine], "1 case").caption == score_table([without], "1 case").caption == "case threshold: 1 case"


def test_of_a_film_and_where_all_was_asked_for_no_share_is_odd(cases, tmp_path, calibration):
    everything = cases[1]
    assert summarise_case(everything, tmp_path, calibration)["warning"]
    run = {"model": "made", "sign": "both", "region": "all", "cases": []}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert summarise_case(everything, tmp_path, calibration)["warning"] == ""
    (tmp_path / "run.json").write_text(json.dumps(run | {"region": "given"}))
    assert summarise_case(everything, tmp_path, calibration)["warning"]
    file = heatmap_path(tmp_path, "everything")
    nib.save(nib.Nifti1Image(np.full((10, 10, 1), 0.5, np.float32), np.eye(4)), file)
    assert summarise_case(everything, tmp_path, calibration)["warning"] == ""

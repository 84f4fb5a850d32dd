"""DICOM on the command line: the heatmap of the same volume as NIfTI, and nothing of the patient anywhere."""

from __future__ import annotations

import gzip
import json
import logging
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.data.made_dicom import slices_of, write_slices

NAME, ID, BIRTH = "Mustermann^Erika", "PAT004711", "19560812"
PATIENT = {
    "PatientName": NAME,
    "PatientID": ID,
    "PatientBirthDate": BIRTH,
    "OtherPatientIDs": "OLD0815",
    "PatientComments": "Erika Mustermann, 1956-08-12",
    "ReferringPhysicianName": "Doktor^Allwissend",
    "AccessionNumber": "ACC112233",
}
PLANTED = ("mustermann", "erika", ID, BIRTH, "1956-08-12", "OLD0815", "Allwissend", "ACC112233")


@pytest.fixture
def scans(cohort, tmp_path):
    """A case with a lesion in whole numbers: as NIfTI, and as a series in a study, all named like the patient."""
    scan = nib.load(cohort.parent / "test-1" / "image0.nii.gz")
    volume = np.rint(np.asarray(scan.dataobj) * 4).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, scan.affine), tmp_path / "scan.nii.gz")
    study = tmp_path / "Mustermann_Erika_19560812"
    slices = slices_of(volume, scan.affine, 7, SeriesDescription="FLAIR of Erika", **PATIENT)
    write_slices(study, slices, "MUSTERMANN.ERIKA.")
    write_slices(study / ID, slices_of(volume[:9], scan.affine, 8, SeriesDescription="T1", **PATIENT), "T1.")
    return tmp_path / "scan.nii.gz", study


def everything_in(folders):
    """What stands in the files of some folders, unpacked, and how they are called, as one text of small letters."""
    texts = []
    for folder in folders:
        for file in folder.rglob("*"):
            texts.append(str(file.relative_to(folder)).encode())
            if file.is_file():
                content = file.read_bytes()
                texts.append(gzip.decompress(content) if file.suffix == ".gz" else content)
    return b"\n".join(texts).lower()


def test_a_series_has_the_heatmap_of_the_nifti_file_and_names_nobody(
    cohort, command, model, scans, tmp_path, monkeypatch, capfd, recwarn, caplog
):
    nifti, study = scans
    caplog.set_level(logging.DEBUG)
    out, cache, temporary = tmp_path / "out", tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("MEDANOMALY_CACHE", str(cache))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    score = ("score", "--model", model, "--output", out)
    assert command(*score, study) == 3  # which of the two series is not said
    said = capfd.readouterr().err
    assert "7: (its description may name the patient), MR, 20 image(s)" in said and "8: T1, MR, 20 image(s)" in said
    assert command(*score, study, nifti, "--series", 7, "--brain", "nonzero", reports=True) == 0
    table = pd.read_csv(out / "cases.csv")
    (series,) = [case for case in table["case"] if case != "scan"]
    assert re.fullmatch(r"series-7-[0-9a-f]{8}", series) and set(table["image"]) == {series, str(nifti)}

    for kind in ("heatmap", "display"):
        ours, known = (
            nib.as_closest_canonical(nib.load(out / case / f"{case}_{kind}.nii.gz")) for case in (series, "scan")
        )
        np.testing.assert_allclose(ours.affine, known.affine, atol=1e-5)
        np.testing.assert_allclose(ours.get_fdata(), known.get_fdata(), atol=1e-3, rtol=1e-3)

    entry = {"image": str(study), "series": "flair of erika", "label": str(cohort.parent / "test-1" / "label.nii.gz")}
    (tmp_path / "list.json").write_text(json.dumps({"test": [entry]}))
    assert command("evaluate", "--datalist", tmp_path / "list.json", "--scores", out) == 0
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert metrics["n_cases"] == 1 and metrics["detectors"][0]["voxels"]["auroc"] > 0.9  # the lesion is bright
    assert not list(temporary.iterdir())

    extract = tmp_path / "extract.py"  # a brain extractor that reads NIfTI alone
    extract.write_text(
        "import sys, nibabel as nib, numpy as np\nscan = nib.load(sys.argv[1])\n"
        "nib.save(nib.Nifti1Image((np.asarray(scan.dataobj) != 0).astype(np.uint8), scan.affine), sys.argv[2])\n"
    )
    again = tmp_path / "again"
    run = f"{sys.executable} {extract} {{image}} {{mask}}"
    assert command("score", study, "--series", "7", "--model", model, "--output", again, "--brain", run) == 0
    np.testing.assert_array_equal(
        *(nib.load(at / series / f"{series}_heatmap.nii.gz").get_fdata() for at in (out, again))
    )

    said = "\n".join([*capfd.readouterr(), caplog.text, *(str(warning.message) for warning in recwarn), said])
    found = everything_in([out, again, cache, temporary, model]) + said.lower().encode()
    assert len(list(cache.iterdir())) >= 2  # the cases were kept
    for word in PLANTED:
        assert word.lower().encode() not in found, word


def test_a_gap_is_refused_before_anything_is_written(command, model, scans, tmp_path, capfd):
    _, study = scans
    for file in study.iterdir():
        if file.is_file() and file.name.endswith("0003"):
            file.unlink()
    assert command("score", study, "--series", 7, "--model", model, "--output", tmp_path / "out") == 3
    said = capfd.readouterr().err
    assert re.search(
        r"command line: series-7-\w{8} has a gap, with slices 3 mm apart .* 1 missing between image \d+ and", said
    )
    assert not (tmp_path / "out").exists() and "ustermann" not in said


def test_series_go_with_named_scans(command, model, cohort, tmp_path, capfd):
    score = ("score", "--model", model, "--output", tmp_path / "out", "--series", "7")
    assert command(*score, "--datalist", cohort) == 3
    assert "--series goes with scans that are named" in capfd.readouterr().err
    assert command(*score, Path(cohort).parent / "test-0" / "image0.nii.gz") == 3
    assert "which is no DICOM folder, zip or file" in capfd.readouterr().err

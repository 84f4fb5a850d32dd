"""Manifests of public datasets become datalists; a download that is not whole is told."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from medanomaly.data import datalist_from_manifest, manifest_names, read_datalist, read_manifest, read_volume
from medanomaly.errors import InputError

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GROUPS = {
    "name": "made films",
    "source": "nowhere",
    "licence": "none",
    "layout": "healthy/*.png, ill/*.png",
    "split": "by patient",
    "groups": [
        {
            "files": "healthy/*.png",
            "count": 60,
            "patient": "^p([0-9]+)_",
            "label": 0,
            "shares": {"training": 0.5, "validation": 0.2, "test": 0.3},
        },
        {
            "files": "ill/*.png",
            "count": 40,
            "patient": "^q([0-9]+)_",
            "label": 1,
            "shares": {"mixed": 0.2, "test": 0.4},
        },
    ],
}


@pytest.fixture
def films(tmp_path):
    """Two films of each of 30 healthy and 20 ill patients."""
    for folder, letter, count in (("healthy", "p", 30), ("ill", "q", 20)):
        (tmp_path / folder).mkdir()
        for number in range(2 * count):
            (tmp_path / folder / f"{letter}{number // 2}_{number}.png").touch()
    return tmp_path


def patients(cases):
    return Counter(re.sub("_.*", "", case["case"]) for case in cases)


def test_groups_are_split_by_patient(films):
    datalist = datalist_from_manifest(GROUPS, films)
    assert {name: len(cases) for name, cases in datalist.items()} == {
        "training": 30,
        "validation": 12,
        "test": 18 + 16,
        "mixed": 8,
    }
    found = [patients(cases) for cases in datalist.values()]
    assert all(count == 2 for own in found for count in own.values())
    assert len({name for own in found for name in own}) == sum(map(len, found))  # nobody is on two sides
    assert Counter((case["case"][0], case["label"]) for case in datalist["test"]) == {("p", 0): 18, ("q", 1): 16}
    assert not any("label" in case for name in ("training", "validation", "mixed") for case in datalist[name])


def test_the_split_is_the_same_everywhere_and_a_datalist_can_be_written(films, tmp_path):
    datalist = datalist_from_manifest(GROUPS, films)
    assert datalist_from_manifest(GROUPS, str(films)) == datalist
    order = sorted(map(str, range(30)), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert set(patients(datalist["validation"])) == {f"p{name}" for name in order[15:21]}
    (tmp_path / "list.json").write_text(json.dumps(datalist))
    assert read_datalist(tmp_path / "list.json", "test") == datalist["test"]


def test_a_download_that_is_not_whole_is_told(films):
    (films / "ill" / "q3_7.png").unlink()
    with pytest.raises(InputError, match=r"has 39 files ill/\*.png, but 40 are those of made films"):
        datalist_from_manifest(GROUPS, films)
    (films / "ill" / "nobody.png").touch()
    with pytest.raises(InputError, match=r"nobody\.png does not say whose it is"):
        datalist_from_manifest(GROUPS, films)
    with pytest.raises(InputError, match=r"absent does not exist: give that of made films"):
        datalist_from_manifest(GROUPS, films / "absent")


@pytest.fixture
def patient_files(tmp_path):
    for patient in ("patient07", "patient26"):
        (tmp_path / patient).mkdir()
        for name in ("FLAIR", "T1", "T2", "lesions"):
            (tmp_path / patient / f"{name}.nii.gz").touch()
    return tmp_path


def test_channels_are_chosen_in_order(patient_files):
    datalist = datalist_from_manifest("open_ms", patient_files)
    assert datalist["test"][0]["image"] == [str(patient_files / "patient26/FLAIR.nii.gz")]
    datalist = datalist_from_manifest("open_ms", patient_files, ["T1", "FLAIR"])
    assert list(datalist) == ["training", "test"]
    assert datalist["training"] == [
        {
            "case": "patient07",
            "image": [str(patient_files / "patient07" / name) for name in ("T1.nii.gz", "FLAIR.nii.gz")],
            "label": str(patient_files / "patient07/lesions.nii.gz"),
        }
    ]
    with pytest.raises(InputError, match=r"has no channel PD: choose among FLAIR, T1, T2"):
        datalist_from_manifest("open_ms", patient_files, ["PD"])


def test_missing_files_are_counted_and_the_first_is_named(patient_files):
    (patient_files / "patient26" / "lesions.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 of 4 files of Open MS.* the first is patient26/lesions\.nii\.gz"):
        datalist_from_manifest("open_ms", patient_files)


def test_what_is_not_a_manifest_is_refused(tmp_path):
    (tmp_path / "list.json").write_text('{"test": []}')
    (tmp_path / "broken.json").write_text("{")
    for name, words in (
        ("list.json", "is not a manifest of a dataset: it lacks name, source"),
        ("broken.json", "is not valid JSON"),
        ("absent", "there is no manifest .*absent: name one of brats2013, brats2013_mixed, chest_xray, "),
    ):
        with pytest.raises(InputError, match=words):
            read_manifest(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in manifest_names() if name != "fashion_mnist"])
def test_every_manifest_fits_its_data(name):
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"the real scans are not on this machine: {SHARED_DATA / name} is absent")
    datalist = datalist_from_manifest(name, SHARED_DATA / name)
    assert ("training" in datalist and "test" in datalist) or list(datalist) == ["mixed"]
    files = [image for cases in datalist.values() for case in cases for image in case["image"]]
    assert len(set(files)) == len(files)
    first = next(iter(datalist.values()))[0]["image"][0]
    assert read_volume(first).ndim == 3

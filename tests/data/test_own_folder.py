"""One's own folders become a datalist: patterns, BIDS, who is healthy, several channels, nobody on two sides."""

from __future__ import annotations

import json

import pytest

from medanomaly.data import read_datalist
from medanomaly.data.file_patterns import find
from medanomaly.errors import InputError
from medanomaly.workflows.datasets import index_folder
from tests.data.dataset_trees import write

FLAIR = "sub-{case}/anat/*_FLAIR.nii.gz"
BOTH = "sub-{case}/anat/*_{channel}.nii.gz"


@pytest.fixture
def bids(tmp_path):
    """Twelve controls, four patients with lesion masks, FLAIR and T1."""
    root = tmp_path / "bids"
    rows = ["participant_id\tage\tgroup"]
    for number in range(16):
        name = f"sub-{number:02}"
        for kind in ("FLAIR", "T1w"):
            write(root / name / "anat" / f"{name}_acq-3d_{kind}.nii.gz")
        write(root / "derivatives" / "masks" / name / f"{name}_brain.nii.gz")
        rows.append(f"{name}\t50\t{'control' if number < 12 else 'patient'}")
    for number in range(12, 16):
        write(root / "derivatives" / "masks" / f"sub-{number}" / f"sub-{number}_lesions.nii.gz")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def sizes(sections):
    return {name: len(cases) for name, cases in sections.items()}


def test_a_pattern_finds_files_and_what_its_words_stand_for(tmp_path):
    names = ("a/b/p1_v2_T1.nii.gz", "a/p2_v1_T1.nii.gz", "a/._p3_v1_T1.nii.gz", "a/p4_v[1]_T1.nii.gz", "c/p5_v1_T1.nii")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find(tmp_path, "a/**/{patient}_v{visit}_T1.nii.gz") == {
        "a/b/p1_v2_T1.nii.gz": {"patient": "p1", "visit": "2"},
        "a/p2_v1_T1.nii.gz": {"patient": "p2", "visit": "1"},
        "a/p4_v[1]_T1.nii.gz": {"patient": "p4", "visit": "[1]"},
    }
    assert list(find(tmp_path, "*/{patient}_v[?]_T1.nii.gz")) == ["a/p4_v[1]_T1.nii.gz"]
    assert find(tmp_path, "{case}/") == {"a": {"case": "a"}, "c": {"case": "c"}}
    assert list(find(tmp_path, "{x}/{x}/*")) == []


def test_a_bids_folder_of_controls_and_patients(bids, tmp_path):
    out = tmp_path / "list.json"
    sections = index_folder(FLAIR, bids, out, healthy="group=control")
    assert sizes(sections) == {"training": 8, "validation": 2, "test": 6}
    assert {case["case"]: case["label"] for case in sections["test"] if case["label"]} == dict.fromkeys(
        ("12", "13", "14", "15"), 1
    )
    assert sum(case["label"] == 0 for case in sections["test"]) == 2
    assert not any("label" in case for case in sections["training"] + sections["validation"])
    assert read_datalist(out, "test") == sections["test"] and len(json.loads(out.read_text())) == 3


def test_channels_masks_and_shares(bids):
    sections = index_folder(
        BOTH,
        bids,
        channels=["T1w", "FLAIR"],
        region="derivatives/masks/sub-{case}/*_brain.nii.gz",
        label="derivatives/masks/sub-{case}/sub-{case}_lesions.nii.gz",
        healthy="group=control",
        shares={"training": 0.75, "validation": 0.25},
    )
    assert sizes(sections) == {"training": 9, "validation": 3, "test": 4}
    case = next(case for case in sections["test"] if case["case"] == "13")
    anat, masks = bids / "sub-13" / "anat", bids / "derivatives" / "masks" / "sub-13"
    assert case["image"] == [str(anat / f"sub-13_acq-3d_{kind}.nii.gz") for kind in ("T1w", "FLAIR")]
    assert case["region"] == str(masks / "sub-13_brain.nii.gz")
    assert case["label"] == str(masks / "sub-13_lesions.nii.gz")
    assert not any("label" in case for case in sections["training"])


def test_visits_of_a_patient_stay_together_and_the_split_is_the_same(tmp_path):
    for patient in range(10):
        for visit in (1, 2, 3):
            write(tmp_path / f"p{patient}/v{visit}/flair.nii.gz")
    sections = index_folder("{patient}/{visit}/flair.nii.gz", tmp_path)
    owners = [{case["case"].split("_")[0] for case in cases} for cases in sections.values()]
    assert sizes(sections) == {"training": 21, "validation": 3, "test": 6} and sections["test"][0]["case"][3] == "v"
    assert len(set.union(*owners)) == sum(map(len, owners)) == 10
    assert index_folder("{patient}/{visit}/flair.nii.gz", str(tmp_path)) == sections


def test_a_word_of_the_pattern_says_who_is_healthy(tmp_path, capsys):
    for group, first in (("healthy", 0), ("ill", 8)):
        for number in range(first, first + 10):
            write(tmp_path / group / f"p{number}.png")
    sections = index_folder("{group}/{case}.png", tmp_path, healthy="group=healthy")
    told = {case["case"]: case["label"] for case in sections["test"]}
    trained = {case["case"].split("_")[1] for case in sections["training"] + sections["validation"]}
    both = {"p8", "p9"} & trained  # healthy first, and ill later
    assert not {f"ill_{name}" for name in both} & set(told)
    assert {f"ill_p{n}" for n in range(10, 18)} <= set(told) and all(told[f"ill_p{n}"] == 1 for n in range(10, 18))
    assert (f"{len(both)} cases are left out" in capsys.readouterr().err) == bool(both)


def test_a_mixture_holds_the_healthy_and_the_ill_and_nobody_who_is_tested(tmp_path):
    for number in range(20):
        write(tmp_path / f"healthy/p{number}.png")
        write(tmp_path / f"ill/q{number}.png")
    shares = {"training": 0.5, "validation": 0.1, "mixed": 0.1, "test": 0.3}
    sections = index_folder("{group}/{case}.png", tmp_path, healthy="group=healthy", shares=shares)
    assert sizes(sections) == {"training": 10, "validation": 2, "test": 6 + 15, "mixed": 2 + 5}
    ill = {name: sum("/ill/" in case["image"][0] for case in cases) for name, cases in sections.items()}
    assert ill == {"training": 0, "validation": 0, "test": 15, "mixed": 5}
    assert not any("label" in case for case in sections["mixed"])
    names = [case["case"] for cases in sections.values() for case in cases]
    assert len(names) == len(set(names)) == 40


def test_patients_alone_with_masks_of_lesions(tmp_path):
    for number in range(4):
        for kind in ("flair", "lesions"):
            write(tmp_path / f"p{number}/{kind}.nii.gz")
    shares = {"training": 0.5, "test": 0.5}
    sections = index_folder("{case}/flair.nii.gz", tmp_path, label="{case}/lesions.nii.gz", shares=shares)
    assert sizes(sections) == {"training": 2, "test": 2}
    assert all(case["label"].endswith("lesions.nii.gz") for cases in sections.values() for case in cases)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "sub-*/anat/*_FLAIR.nii.gz"}, "does not say whose a file is: put {case}"),
        ({"pattern": "sub-{case}/anat/*_PD.nii.gz"}, r"has no file sub-\{case\}/anat/\*_PD"),
        ({"pattern": BOTH}, "and --channels belong together"),
        ({"channels": ["FLAIR"]}, "and --channels belong together"),
        ({"pattern": BOTH, "channels": ["FLAIR", "T2w"]}, "16 of 32 files are not in .*, the first is sub-"),
        ({"pattern": "sub-{case}/anat/*.nii.gz"}, "the case ids .* appear more than once"),
        ({"region": "derivatives/masks/sub-{case}/*.nii.gz"}, "2 files derivatives/masks/sub-1[2-5]/.*: one is needed"),
        ({"healthy": "group"}, "has no value: write COLUMN=VALUE"),
        ({"healthy": "grop=control"}, "has no column grop: choose among participant_id, age, group"),
        ({"healthy": "group=controls"}, "nobody is healthy: group is 'controls' of no patient"),
        ({"healthy": "group=control", "table": "absent.csv"}, "the table absent.csv does not exist"),
        ({"shares": {"train": 1.0}}, "must be of the sections training, validation, test, mixed"),
        ({"shares": {"training": 0.9, "test": 0.2}}, "at most 1 in all"),
    ],
)
def test_what_has_no_meaning_is_told(bids, options, words):
    options = {"pattern": FLAIR, **options}
    with pytest.raises(InputError, match=words):
        index_folder(root=bids, quick=True, **options)


def test_a_patient_without_a_row_and_a_broken_scan_are_told_together(bids, tmp_path):
    write(bids / "sub-99" / "anat" / "sub-99_FLAIR.nii.gz")
    scan = bids / "sub-13" / "anat" / "sub-13_acq-3d_FLAIR.nii.gz"
    scan.write_bytes(scan.read_bytes()[:60])
    with pytest.raises(InputError) as error:
        index_folder(FLAIR, bids, tmp_path / "list.json", healthy="group=control")
    assert "1 patients are in no row of participants.tsv, the first is 99" in str(error.value)
    assert f"{scan} cannot be read" in str(error.value)
    assert not (tmp_path / "list.json").exists()

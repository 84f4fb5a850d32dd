"""Every manifest, on a small made download: whole, with a file missing, with one cut short, with what is not of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medanomaly.data import datalist_from_manifest, manifest_names, read_datalist, read_manifest
from medanomaly.errors import InputError
from medanomaly.workflows.datasets import closing_words, index_dataset, manifest_in_words
from tests.data.dataset_trees import TREES, plant, write

TOLD = (
    "name",
    "description",
    "source",
    "licence",
    "access",
    "citation",
    "layout",
    "normal",
    "split",
    "chain",
    "region",
)
REGIONS = ("given", "nonzero", "all", "deepbet")  # deepbet finds the brain of a whole head
SEEN = {  # cases of the made downloads by section
    "brats2013": {"training": 3, "test": 1},
    "brats2013_mixed": {"training": 2, "test": 1, "mixed": 1},
    "chest_xray": {"training": 36, "validation": 6, "test": 16, "mixed": 10},
    "covidx": {"training": 24, "validation": 2, "test": 3, "mixed": 16},
    "fashion_mnist": {},
    "ixi": {"training": 14, "validation": 2, "test": 4},
    "ixi_t1": {"training": 16, "validation": 4, "test": 8},
    "lesjak_ms": {"training": 6, "validation": 1, "test": 3},
    "mood": {"training": 15, "validation": 1, "test": 4},
    "ms_whole_head": {"mixed": 3},
    "open_ms": {"training": 1, "test": 1},
    "ribfrac": {"training": 18, "validation": 2, "test": 2},
    "wmh2017": {"training": 12, "validation": 3, "test": 3},
    "xvertseg": {"mixed": 3},
}


def test_there_is_a_made_download_for_every_manifest():
    assert sorted(TREES) == manifest_names()


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_manifest_says_what_a_reader_needs(name):
    content = read_manifest(name)
    assert not [key for key in TOLD if not content.get(key)]
    assert content["chain"] in ("brain_mri", "radiograph", "head_ct", "bone_ct", "none")
    assert content["region"] in REGIONS
    for group in content.get("groups", []):
        assert sum(group["shares"].values()) <= 1 + 1e-9
        if group.get("label") == 1:
            assert set(group["shares"]) <= {"mixed", "test"}
    text = manifest_in_words(read_manifest(name))
    assert content["licence"] in text and content["split"] in text


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_whole_download_becomes_a_datalist_and_nobody_is_on_two_sides(name, tmp_path):
    content = plant(name, tmp_path / "data")
    output = tmp_path / "datalist.json"
    sections = index_dataset(content, tmp_path / "data", output)
    if name in SEEN:
        assert {section: len(cases) for section, cases in sections.items()} == SEEN[name]
    sides = {}
    for section, cases in sections.items():
        for case in cases:
            path = str((tmp_path / "data").joinpath(case["image"][0]).relative_to(tmp_path / "data"))
            assert sides.setdefault(TREES[name].owner(path), section) == section
    if name == "fashion_mnist":
        assert "no datalist" in closing_words(sections, output, name) and not output.exists()
        return
    written = json.loads(output.read_text())
    assert list(written) == list(sections)
    for section in written:
        assert read_datalist(output, section) == sections[section]
    assert f"{output} is written" in closing_words(sections, output, name)
    if all(image_label(case) for case in sections.get("test", [])) and "test" in sections and name != "ixi":
        assert {case["label"] for case in sections["test"]} == {0, 1}


def image_label(case):
    return isinstance(case.get("label"), int)


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_missing_file_is_named(name, tmp_path):
    content = plant(name, tmp_path)
    victim = TREES[name].files[0]
    (tmp_path / victim).unlink()
    with pytest.raises(InputError) as error:
        index_dataset(content, tmp_path, tmp_path / "datalist.json")
    counted = [count for count in TREES[name].counts if f"{count} are those of {content['name']}" in str(error.value)]
    assert Path(victim).name in str(error.value) or counted
    assert content["source"] in str(error.value)
    assert not (tmp_path / "datalist.json").exists()


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_file_that_is_cut_short_is_named(name, tmp_path):
    content = plant(name, tmp_path)
    sections = datalist_from_manifest(content, tmp_path)
    victim = tmp_path / (next(iter(sections.values()))[0]["image"][0] if sections else TREES[name].files[0])
    victim = victim.with_suffix(".raw") if victim.suffix == ".mhd" else victim
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(InputError, match=victim.stem) as error:
        index_dataset(content, tmp_path, tmp_path / "datalist.json")
    assert "cannot be read" in str(error.value) or "cut short" in str(error.value)
    assert not (tmp_path / "datalist.json").exists()


@pytest.mark.parametrize("name", sorted(TREES))
def test_what_is_not_of_the_dataset_is_told(name, tmp_path):
    content = plant(name, tmp_path)
    foreign = TREES[name].foreign
    write(tmp_path / (foreign or TREES[name].files[0]), (9, 8, 7))
    words = "are in no list of" if foreign and TREES[name].tables else "are those of"
    with pytest.raises(InputError, match=words):
        index_dataset(content, tmp_path)


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    content = plant("mura", tmp_path)
    files = [file for file in TREES["mura"].files if "train" in file and "negative" in file]
    (tmp_path / files[0]).unlink()
    write(tmp_path / "MURA-v1.1/train/XR_HAND/patient00099/study1_negative/image1.png")
    with (tmp_path / "MURA-v1.1/valid_image_paths.csv").open("a") as table:
        table.write("what is this?\n")
    with pytest.raises(InputError) as error:
        index_dataset(content, tmp_path)
    text = str(error.value)
    assert (
        f"1 of 40 files that MURA-v1.1/train_image_paths.csv lists are not in {tmp_path}" in text and files[0] in text
    )
    assert "1 lines that cannot be read, the first is 'what is this?'" in text
    assert "are in no list of MURA" in text and "patient00099" in text
    assert "is not whole:\n- " in text


def test_a_table_without_its_column_or_its_file_is_told(tmp_path):
    content = plant("chestxray14", tmp_path)
    table = tmp_path / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Patient ID", "Patient"))
    with pytest.raises(InputError, match="has no column Patient ID; its columns are Image Index"):
        datalist_from_manifest(content, tmp_path)
    table.unlink()
    with pytest.raises(InputError, match=r"Data_Entry_2017_v2020\.csv cannot be read"):
        datalist_from_manifest(content, tmp_path)


def test_channels_of_a_group_are_chosen_in_order(tmp_path):
    content = plant("wmh2017", tmp_path)
    sections = datalist_from_manifest(content, tmp_path, ["T1", "FLAIR"])
    case = next(case for case in sections["test"] if case["case"] == "160")
    folder = tmp_path / "test/Amsterdam/Philips_VU .PETMR_01./160"
    assert case["image"] == [str(folder / "pre/T1.nii.gz"), str(folder / "pre/FLAIR.nii.gz")]
    assert case["label"] == str(folder / "wmh.nii.gz")
    content = plant("ms_whole_head", tmp_path / "heads")
    with pytest.raises(InputError, match=r"1 of 9 files .* the first is patient03_scan1/T1\.nii\.gz"):
        datalist_from_manifest(content, tmp_path / "heads", ["FLAIR", "T1"])


def test_quick_does_not_read_and_a_datalist_is_not_replaced(tmp_path):
    content = plant("ixi", tmp_path / "data")
    (tmp_path / "data" / TREES["ixi"].files[0]).write_bytes(b"")
    assert index_dataset(content, tmp_path / "data", tmp_path / "list.json", quick=True)
    with pytest.raises(InputError, match=r"list\.json exists: choose another --output"):
        index_dataset(content, tmp_path / "data", tmp_path / "list.json", quick=True)

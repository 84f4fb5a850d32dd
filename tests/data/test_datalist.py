"""Datalists and command lines: what is read, and what is said of every mistake."""

from __future__ import annotations

import json

import pytest

from medanomaly.data import cases_from_files, read_datalist
from medanomaly.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Files that need only exist: a datalist is checked before any volume is read."""
    for name in ("a/flair.nii.gz", "a/t1.nii.gz", "b/flair.nii.gz", "b/t1.nii.gz", "c.nii", "mask.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def written(folder, content):
    path = folder / "datalist.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_paths_become_absolute_and_channels_stay_in_order(folder):
    entry = {
        "image": ["a/t1.nii.gz", "a/flair.nii.gz"],
        "region": "mask.nii.gz",
        "label": str(folder / "c.nii"),
        "case": 7,
    }
    cases = read_datalist(written(folder, {"test": [entry]}), "test")
    assert cases == [
        {
            "image": [str(folder / "a/t1.nii.gz"), str(folder / "a/flair.nii.gz")],
            "region": str(folder / "mask.nii.gz"),
            "label": str(folder / "c.nii"),
            "case": "7",
        }
    ]


def test_relative_paths_start_from_the_base_folder_if_one_is_given(folder):
    datalist = written(folder, {"test": [{"image": "flair.nii.gz"}]})
    assert read_datalist(datalist, "test", base_dir=folder / "a")[0]["image"] == [str(folder / "a/flair.nii.gz")]
    with pytest.raises(InputError, match="does not exist"):
        read_datalist(datalist, "test")


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        (["a/flair.nii.gz", "c.nii"], ["flair", "c"]),
        (["a/flair.nii.gz", "b/flair.nii.gz"], ["a", "b"]),  # file names repeat: the folder tells the cases apart
        ([["a/t1.nii.gz", "a/flair.nii.gz"], "c.nii"], ["t1", "c"]),
    ],
)
def test_cases_without_an_id_are_called_after_their_file_or_folder(folder, images, ids):
    cases = read_datalist(written(folder, {"test": [{"image": image} for image in images]}), "test")
    assert [case["case"] for case in cases] == ids


def test_null_stands_for_a_key_that_is_not_there(folder):
    entry = {"image": "c.nii", "region": None, "label": None, "case": None}
    assert read_datalist(written(folder, {"test": [entry]}), "test") == [
        {"image": [str(folder / "c.nii")], "case": "c"}
    ]


def test_sections_that_may_be_missing(folder):
    datalist = written(folder, {"training": [{"image": "c.nii"}], "validation": []})
    assert read_datalist(None, "training") == []
    assert read_datalist(datalist, "validation", required=False) == []
    assert read_datalist(datalist, "test", required=False) == []
    for section in ("validation", "test"):
        with pytest.raises(InputError, match=f"no cases in '{section}'.*Add the section"):
            read_datalist(datalist, section)


CASE = {"image": "c.nii"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"test": [}', r"datalist\.json is not valid JSON .*line 1"),
        ([CASE], "holds a list, but an object with training, validation, test, mixed"),
        ({"tests": [CASE]}, "Did you mean to call 'tests' 'test'"),
        ({"test": {"image": "c.nii"}}, "'test' is a dict, but a list"),
        ({"test": ["c.nii"]}, "'test', entry 1 is 'c.nii', but an object with the key 'image'"),
        ({"test": [CASE, {"images": "c.nii"}]}, "entry 2: unknown key 'images'.*Did you mean 'image'"),
        ({"test": [CASE | {"xyz": 1}]}, "unknown key 'xyz'; a case has image, series, region, label, case. Remove it"),
        ({"test": [{"region": "c.nii"}]}, "entry 1 has no 'image'"),
        ({"test": [{"image": []}]}, "entry 1 has no 'image'"),
        ({"test": [{"image": None}]}, "entry 1 has no 'image'"),
        ({"test": [{"image": "d.nii"}]}, r"entry 1: the file .*d\.nii does not exist"),
        ({"test": [{"image": ["c.nii", "d.nii"]}]}, r"the file .*d\.nii does not exist"),
        ({"test": [CASE | {"region": "d.nii"}]}, r"the file .*d\.nii does not exist"),
        ({"test": [CASE | {"label": "d.nii"}]}, r"the file .*d\.nii does not exist"),
        ({"test": [CASE | {"label": 2}]}, "entry 1: the label is 2; give a mask file, or 0 for a healthy case and 1"),
        ({"test": [CASE | {"label": True}]}, "the label is True; give a mask file"),
        ({"test": [CASE | {"label": 0.5}]}, "the label is 0.5; give a mask file"),
        ({"test": [CASE, CASE | {"case": "x"}, CASE | {"case": "x"}]}, r"case ids \['x'\] appear more than once"),
        *(
            ({"test": [CASE | {"case": bad}]}, "cannot name a folder")
            for bad in ("", ".", "..", "../up", "/etc", "a/b", "a\\b")
        ),
    ],
)
def test_a_mistake_is_an_input_error_that_names_it(folder, content, message):
    with pytest.raises(InputError, match=message):
        read_datalist(written(folder, content), "test")


@pytest.mark.parametrize("good", ["a", "7", "sub-01_T1.v2+x", "Jörg 2", "a b c", "é", "e\u0301"])
def test_case_ids_that_may_be_given(folder, good):
    assert read_datalist(written(folder, {"test": [CASE | {"case": good}]}), "test")[0]["case"] == good


@pytest.mark.parametrize(
    "bad",
    ["$x", "@x", "%x", "a#b", "a::b", "a\nb", "a ", " a", "a  b", "-a", ".a", "_a", "+a", "a$", "a\t", "a\n", "a*"],
)
def test_case_ids_that_may_not(folder, bad):
    with pytest.raises(
        InputError, match=r"entry 1: the case id is .* cannot name a folder.*begin with a letter or digit"
    ):
        read_datalist(written(folder, {"test": [CASE | {"case": bad}]}), "test")
    (folder / f"{bad}.nii").touch()
    if "." not in bad:
        with pytest.raises(InputError, match=r"(?s)\.nii gives the case id.*rename it, or give a 'case' in a datalist"):
            cases_from_files([folder / f"{bad}.nii"])
        with pytest.raises(InputError, match=r"(?s)\.nii gives the case id.*rename it, or give a 'case' in a datalist"):
            read_datalist(written(folder, {"test": [{"image": f"{bad}.nii"}]}), "test")


def test_an_id_that_comes_from_a_folder_is_checked(folder):
    for name in ("$(x)", "b"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "scan.nii").touch()
    with pytest.raises(InputError, match=r"\$\(x\)/scan.nii gives the case id '\$\(x\)'"):
        cases_from_files([folder / "$(x)" / "scan.nii", folder / "b" / "scan.nii"])


def test_a_misspelt_section_is_an_error_even_where_the_section_may_be_missing(folder):
    with pytest.raises(InputError, match="Did you mean to call 'validaton' 'validation'"):
        read_datalist(written(folder, {"validaton": [CASE]}), "validation", required=False)


def test_a_datalist_must_be_a_json_file(folder):
    with pytest.raises(InputError, match="is a folder"):
        read_datalist(folder, "test")
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        read_datalist(folder / "none.json", "test")
    (folder / "scan.nii.gz").write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    with pytest.raises(InputError, match=r"scan\.nii\.gz is not valid JSON"):
        read_datalist(folder / "scan.nii.gz", "test")


def test_a_datalist_is_utf8_whatever_the_locale(folder):
    (folder / "é.nii").touch()
    datalist = folder / "datalist.json"
    datalist.write_bytes('{"test": [{"image": "é.nii"}]}'.encode())
    assert read_datalist(datalist, "test")[0]["case"] == "é"


@pytest.mark.parametrize(
    ("images", "in_channels", "expected"),
    [
        (["c.nii"], 1, [("c", ["c.nii"])]),
        (["c.nii", "a/t1.nii.gz"], 1, [("c", ["c.nii"]), ("t1", ["a/t1.nii.gz"])]),
        (["a"], 1, [("flair", ["a/flair.nii.gz"]), ("t1", ["a/t1.nii.gz"])]),  # a folder of NIfTI files
        (["a/t1.nii.gz", "a/flair.nii.gz"], 2, [("t1", ["a/t1.nii.gz", "a/flair.nii.gz"])]),
        (["a"], 2, [("flair", ["a/flair.nii.gz", "a/t1.nii.gz"])]),
    ],
)
def test_files_on_the_command_line(folder, images, in_channels, expected):
    cases = cases_from_files([folder / image for image in images], in_channels)
    assert [(case["case"], case["image"]) for case in cases] == [
        (name, [str(folder / file) for file in files]) for name, files in expected
    ]


def test_a_brain_mask_on_the_command_line(folder):
    assert cases_from_files([folder / "c.nii"], brain=folder / "mask.nii.gz")[0]["region"] == str(
        folder / "mask.nii.gz"
    )
    channels = [folder / "a/t1.nii.gz", folder / "a/flair.nii.gz"]
    assert cases_from_files(channels, 2, folder / "mask.nii.gz")[0]["region"] == str(folder / "mask.nii.gz")
    with pytest.raises(InputError, match="one mask was given for 2 scans"):
        cases_from_files(channels, 1, folder / "mask.nii.gz")


@pytest.mark.parametrize(
    ("images", "in_channels", "message"),
    [
        (["d.nii"], 1, r"command line: the file .*d\.nii does not exist"),
        (["c.nii"], 2, "1 image file.* takes 2 channels"),
        (["a", "c.nii"], 2, "3 image file.* takes 2 channels"),
        (["c.nii", "c.nii"], 1, "appear more than once"),
    ],
)
def test_mistakes_on_the_command_line(folder, images, in_channels, message):
    with pytest.raises(InputError, match=message):
        cases_from_files([folder / image for image in images], in_channels)


def test_the_region_may_be_called_brain_but_not_both(folder):
    write = (folder / "list.json").write_text
    write(json.dumps({"test": [{"image": "c.nii", "brain": "mask.nii.gz"}]}))
    (case,) = read_datalist(folder / "list.json", "test")
    assert case["region"] == str(folder / "mask.nii.gz") and "brain" not in case
    write(json.dumps({"test": [{"image": "c.nii", "brain": "mask.nii.gz", "region": "mask.nii.gz"}]}))
    with pytest.raises(InputError, match=r"list.json, 'test', entry 1 has 'brain' and 'region', two names"):
        read_datalist(folder / "list.json", "test")


def test_a_label_may_be_a_number_for_the_whole_image(folder):
    entries = [CASE | {"label": label, "case": str(n)} for n, label in enumerate((0, 1, 1.0, "mask.nii.gz"))]
    for section in ("test", "mixed"):
        cases = read_datalist(written(folder, {section: entries}), section, skip_missing=True)
        assert [case["label"] for case in cases] == [0, 1, 1, str(folder / "mask.nii.gz")]


@pytest.mark.parametrize("section", ["training", "validation"])
def test_what_is_learnt_from_must_be_healthy(folder, section):
    healthy = [CASE | {"label": 0, "case": "a"}, CASE | {"label": "mask.nii.gz", "case": "b"}]
    assert len(read_datalist(written(folder, {section: healthy}), section)) == 2
    ill = [*healthy, CASE | {"label": 1, "case": "c"}]
    with pytest.raises(InputError, match=rf"c in '{section}' have the label 1, .* or to 'mixed'"):
        read_datalist(written(folder, {section: ill}), section)


def test_a_folder_of_films_on_the_command_line(folder):
    (folder / "films").mkdir()
    for name in ("b.PNG", "a.jpeg", "c.jpg", "notes.txt", ".hidden.png"):
        (folder / "films" / name).touch()
    assert [case["case"] for case in cases_from_files([folder / "films"])] == ["a", "b", "c"]

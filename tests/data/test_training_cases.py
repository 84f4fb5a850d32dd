"""What a training writes down of its cases, and which it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from medanomaly.data import begin_training, unlabelled
from medanomaly.data.digests import case_digests
from medanomaly.data.training_cases import check_unseen
from medanomaly.errors import InputError

BOTH = ("training", "mixed")


@pytest.fixture
def films(tmp_path):
    """Six films; d is a copy of c under another name."""
    for seed, name in enumerate("abcef"):
        pixels = np.random.default_rng(seed).integers(0, 255, (6, 8)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "c.png").read_bytes())
    return lambda names, **keys: [{"case": n, "image": [str(tmp_path / f"{n}.png")], **keys} for n in names]


def test_mixed_cases_are_trained_on_and_written_down(films, tmp_path):
    begin_training(tmp_path / "model", None, None, films("a", label=0), films("b"), False, films("ce", label=1), BOTH)
    record = json.loads((tmp_path / "model/models/cases.json").read_text())
    assert {key: list(record[key]) for key in ("training", "validation", "mixed")} == {
        "training": ["a"],
        "validation": ["b"],
        "mixed": ["c", "e"],
    }
    assert set(record["training"]["a"]) == {"image"}  # a number is no file
    with pytest.raises(InputError, match=r"was trained on d \(c of the training\)"):
        check_unseen(tmp_path / "model", case_digests(films("df")))
    check_unseen(tmp_path / "model", case_digests(films("f")))


def test_without_mixed_cases_or_a_detector_that_learns_from_them_the_record_is_what_it_was(films, tmp_path):
    begin_training(tmp_path / "model", None, None, films("a"), films("b"), mixed=films("c"))
    assert "mixed" not in json.loads((tmp_path / "model/models/cases.json").read_text())


def test_a_mixed_case_is_neither_held_out_nor_tested(films, tmp_path):
    with pytest.raises(InputError, match="the case c in 'mixed' and the case d in 'validation' are the same scan"):
        begin_training(tmp_path / "model", None, None, films("a"), films("d"), False, films("c"), BOTH)
    with pytest.raises(InputError, match="the case c in 'mixed' and the case d in 'training' are the same scan"):
        begin_training(tmp_path / "model", None, None, films("ad"), films("b"), False, films("c"), BOTH)
    datalist = tmp_path / "list.json"
    datalist.write_text(json.dumps({"test": films("d", label=1)}))
    with pytest.raises(InputError, match="the case c in 'mixed' and the case d in 'test' are the same scan"):
        begin_training(tmp_path / "model", datalist, None, films("a"), films("b"), False, films("c"), BOTH)
    assert not (tmp_path / "model").exists()


def test_a_detector_that_learns_from_both_needs_both(films, tmp_path):
    with pytest.raises(InputError, match=r"section 'mixed'\), but the cohort has none under 'mixed': add such cases"):
        begin_training(tmp_path / "model", None, None, films("a"), films("b"), streams=BOTH)
    assert not (tmp_path / "model").exists()


def test_labels_of_mixed_cases_are_forgotten(films):
    assert unlabelled(films("a", label=1)) == films("a")


def test_cases_that_are_not_healthy_are_not_trained_on(films, tmp_path):
    for training, validation in ((films("a", label=1), films("b")), (films("b"), films("a", label=1))):
        with pytest.raises(InputError, match=r"a in '(training|validation)' have the label 1"):
            begin_training(tmp_path / "model", None, None, training, validation)
    assert not (tmp_path / "model").exists()

"""The ways to find a brain by name: deepbet on any grid, scans that are extracted already, programs, and "auto"."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medanomaly.data import LoadCased
from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing import RegionMaskd, brain_mri, deepbet_mask, extracted_brain, head_ct, heatmap_to_scan
from tests.preprocessing.made_head import as_image, made_head

IMAGE, BRAIN, AFFINE = made_head()
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, -0.15, 0.2) @ AFFINE[:3, :3], AFFINE[:3, 3])
DEEPBET = sys.modules["medanomaly.preprocessing.deepbet_mask"]
REGION_MASK = sys.modules["medanomaly.preprocessing.region_mask"]


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture
def bright_is_brain(monkeypatch):
    """In place of deepbet's networks: what is bright is brain, whatever its shape, and the rest is not."""

    def network(name, sha256):
        return lambda patch: torch.cat([(patch <= 0.55).float(), (patch > 0.55).float()], dim=1)

    monkeypatch.setattr(DEEPBET, "_network", network)


def block(shape=(40, 60, 24), affine=None):
    """A scan whose brain is a bright block near one corner, with a bright speck elsewhere and a hole in the block."""
    mask = np.zeros(shape, bool)
    mask[4:20, 30:56, 6:20] = True
    image = np.where(mask, 100, 1).astype(np.float32)
    image[10:12, 40:43, 12:14] = 0
    image[35, 5, 3] = 100
    return image, mask, np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine


@pytest.mark.parametrize("axes", ["PSR", "LAS"])
def test_the_mask_lies_where_the_scan_lies(axes, bright_is_brain):
    array, mask, affine = block(affine=OBLIQUE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    scan = nib.Nifti1Image(array, affine).as_reoriented(turn)
    there = nib.Nifti1Image(mask.astype(np.uint8), affine).as_reoriented(turn)
    found = deepbet_mask(as_image(scan.get_fdata(), scan.affine))
    assert found.shape == scan.shape and found.dtype == bool
    np.testing.assert_array_equal(found, np.asarray(there.dataobj) > 0)  # the speck is gone, the hole is filled


def test_deepbet_finds_the_brain_of_a_made_head():
    found = deepbet_mask(as_image(IMAGE, AFFINE))
    assert dice(found, BRAIN) > 0.9


def test_deepbet_says_so_where_there_is_no_brain(monkeypatch):
    monkeypatch.setattr(DEEPBET, "_network", lambda name, sha256: lambda patch: torch.zeros(1, 2, *patch.shape[2:]))
    with pytest.raises(InputError, match=r"deepbet finds no brain in the image.*--brain"):
        deepbet_mask(as_image(IMAGE, AFFINE))
    with pytest.raises(InputError, match="one and the same value"):
        deepbet_mask(as_image(np.zeros((20, 20, 20)), np.eye(4)))


def test_deepbet_is_named_if_it_is_not_there_or_not_the_one_that_is_known(monkeypatch):
    name, sha256 = DEEPBET.FINDER
    with pytest.raises(InputError, match=r"model\.pt is not that of deepbet 1\.0\.2.*pip install --force-reinstall"):
        DEEPBET._network.__wrapped__(name, "0" * 64)

    def absent(name):
        raise DEEPBET.PackageNotFoundError(name)

    monkeypatch.setattr(DEEPBET, "distribution", absent)
    with pytest.raises(InputError, match=r"not installed: install it \(pip install deepbet==1\.0\.2\)"):
        DEEPBET._network.__wrapped__(name, sha256)


@pytest.mark.parametrize("background", [0, -3])
def test_a_brain_that_was_extracted_is_recognised(background):
    extracted = np.where(BRAIN, IMAGE, np.float32(background))
    np.testing.assert_array_equal(extracted_brain(as_image(extracted, AFFINE)), BRAIN)


def test_a_head_is_not_taken_for_a_brain():
    assert extracted_brain(as_image(IMAGE, AFFINE)) is None
    cut = np.where(IMAGE < 100, 0, IMAGE)  # a background of 0, as in 8 bits
    assert extracted_brain(as_image(cut, AFFINE)) is None
    without_neck = np.where(np.arange(60) > 20, cut, 0)
    assert extracted_brain(as_image(without_neck, AFFINE)) is None
    small = np.diag([*(0.75 * AFFINE.diagonal()[:3]), 1])  # a child: as large as the brain of an adult
    assert extracted_brain(as_image(without_neck, small)) is None


def write(path: Path, array, affine=AFFINE) -> str:
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), affine), path)
    return str(path)


def test_auto_takes_the_given_mask_then_the_extracted_brain_then_deepbet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(REGION_MASK, "deepbet_mask", lambda image: BRAIN)
    head, extracted = (
        write(tmp_path / "head.nii.gz", IMAGE),
        write(tmp_path / "brain.nii.gz", np.where(BRAIN, IMAGE, 0)),
    )
    given = np.zeros_like(BRAIN)
    given[20:40, 20:50, 20:40] = True
    find = RegionMaskd("auto")
    for scan, mask, wanted, origin in (
        (head, write(tmp_path / "given.nii", given), given, "given"),
        (extracted, None, BRAIN, "brain-extracted already"),
        (head, None, BRAIN, "deepbet"),
        (head, None, BRAIN, "deepbet"),
    ):
        region = find(LoadCased()({"image": scan, **({"region": mask} if mask else {})}))["region"]
        np.testing.assert_array_equal(region[0], wanted)
        assert region.meta["region_from"] == origin
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[-1].split(".")[0] for line in said] == [
        "it is brain-extracted already",
        "deepbet finds its brain",
    ]


def test_auto_wants_a_mask_of_a_film(tmp_path):
    film = write(tmp_path / "film.nii", np.ones((8, 9, 1)))
    with pytest.raises(InputError, match="has no region mask"):
        RegionMaskd("auto")(LoadCased()({"image": film}))


def test_ct_is_not_given_to_what_was_made_for_mri():
    for way in ("auto", "deepbet", "hd-bet"):
        with pytest.raises(ConfigError, match=f"region is '{way}', which finds the brain in MRI"):
            head_ct(region=way)


PROGRAM = """#!{python}
import sys
import nibabel as nib
import numpy as np
words = sys.argv[1:]
open({log!r}, "w").write(" ".join(words))
scan = nib.load(words[words.index("-i") + 1])
mask = nib.Nifti1Image((np.asarray(scan.dataobj) > 380).astype(np.uint8), scan.affine)
nib.save(mask, {mask})
"""


@pytest.mark.parametrize(
    ("way", "program", "mask", "words"),
    [
        (
            "hd-bet",
            "hd-bet",
            'words[words.index("-o") + 1].replace(".nii.gz", "_bet.nii.gz")',
            "--save_bet_mask --no_bet_image -device cpu --disable_tta",
        ),
        ("synthstrip", "mri_synthstrip", 'words[words.index("-m") + 1]', "-m"),
        ("synthstrip", "synthstrip-docker", 'words[words.index("-m") + 1]', "-m"),
    ],
    ids=["HD-BET", "FreeSurfer", "container"],
)
def test_a_program_by_name(way, program, mask, words, tmp_path, monkeypatch):
    file, log = tmp_path / "bin" / program, tmp_path / "words"
    file.parent.mkdir()
    file.write_text(PROGRAM.format(python=sys.executable, log=str(log), mask=mask))
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(file.parent))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    case = LoadCased()({"image": write(tmp_path / "Jane Doe.nii", IMAGE)})
    region = RegionMaskd(way)(case)["region"]
    np.testing.assert_array_equal(region[0], IMAGE > 380)
    assert region.meta["region_from"] == way
    assert words in log.read_text() and "Jane" not in log.read_text()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("hd-bet", r"not installed.*pip install hd-bet;.*--brain deepbet"),
        ("synthstrip", r"mri_synthstrip, synthstrip-docker.*chmod \+x.*--brain deepbet"),
    ],
)
def test_a_program_that_is_not_there_is_told_how_to_install(way, message, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=message):
        RegionMaskd(way)(LoadCased()({"image": write(tmp_path / "head.nii", IMAGE)}))


def test_a_mask_is_made_once_and_its_oddness_is_told_each_time_and_kept_with_the_results(tmp_path, monkeypatch):
    calls = []
    eroded = np.roll(BRAIN, 7, 0)
    monkeypatch.setattr(REGION_MASK, "deepbet_mask", lambda image: calls.append(1) or eroded)
    case = {"case": "head", "image": [write(tmp_path / "head.nii.gz", IMAGE)]}
    for turn in range(2):
        chain = brain_mri(spacing=(4, 4, 4), cache_dir=tmp_path / "cache")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepared = chain(dict(case))
        told = [str(w.message) for w in caught if "brain mask" in str(w.message)]
        assert len(calls) == 1 and len(told) == 1, turn
        assert (
            "head.nii.gz: below the border" in told[0] and "(mask from: deepbet); look at it over the scan" in told[0]
        )
    prepared["pred"] = prepared["region"].clone()
    heatmap_to_scan(chain, tmp_path / "out")(prepared)
    kept = json.loads((tmp_path / "out" / "head" / "head_mask.json").read_text())
    assert kept["from"] == "deepbet" and kept["warning"] in told[0]
    assert kept["volume_ml"] == pytest.approx(eroded.sum() * 3 * 3 * 3.5 / 1000, abs=0.1)
    drawn = nib.load(tmp_path / "out" / "head" / "head_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(drawn.dataobj), eroded)
    np.testing.assert_allclose(drawn.affine, AFFINE)

    given = {**case, "region": write(tmp_path / "mask.nii", BRAIN)}
    prepared = chain(given)
    prepared["pred"] = prepared["region"].clone()
    heatmap_to_scan(chain, tmp_path / "out")(prepared)
    kept = json.loads((tmp_path / "out" / "head" / "head_mask.json").read_text())
    assert kept["from"] == "given" and kept["warning"] == ""
    assert not (tmp_path / "out" / "head" / "head_mask.nii.gz").exists()

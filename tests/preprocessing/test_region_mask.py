"""Every source of a brain mask, and what is said when it gives none."""

from __future__ import annotations

import sys
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch

from medanomaly.data import LoadCased
from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing import RegionMaskd

SHAPE = (6, 7, 5)
AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])
# An 'extractor': the mask is where the image exceeds 5, written with the last axis turned round.
EXTRACTOR = """
import sys
import nibabel as nib
import numpy as np
image = nib.load(sys.argv[1])
mask = nib.Nifti1Image((np.asarray(image.dataobj) > 5).astype(np.uint8), image.affine)
nib.save(mask.as_reoriented(np.array([[0, 1], [1, 1], [2, -1]])), sys.argv[2])
"""


@pytest.fixture
def scan(tmp_path):
    """The file of a scan with 0 outside a block, and 1 to 9 in it."""
    array = np.zeros(SHAPE, np.float32)
    array[1:5, 2:6, 1:4] = np.random.default_rng(0).integers(1, 10, (4, 4, 3))
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def with_mask(scan, mask):
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), scan.with_name("mask.nii.gz"))
    return str(scan.with_name("mask.nii.gz"))


def voxels(scan):
    return np.asarray(nib.load(scan).dataobj)


def command(tmp_path, script):
    (tmp_path / "extract it.py").write_text(script)
    return f"'{sys.executable}' '{tmp_path / 'extract it.py'}' {{image}} {{mask}}"


def brain_of(scan, source, **keys):
    return RegionMaskd(source)(LoadCased()({"image": str(scan), **keys}))["region"]


def test_given(scan):
    mask = voxels(scan) > 3
    brain = brain_of(scan, "given", region=with_mask(scan, mask))
    np.testing.assert_array_equal(brain[0], mask)
    np.testing.assert_allclose(brain.affine, AFFINE)


def test_nonzero_in_some_channel(scan):
    second = np.zeros(SHAPE, np.float32)
    second[0, 0, 0] = -1
    nib.save(nib.Nifti1Image(second, AFFINE), scan.with_name("second.nii"))
    case = LoadCased()({"image": [str(scan), str(scan.with_name("second.nii"))]})
    np.testing.assert_array_equal(RegionMaskd("nonzero")(case)["region"][0], (voxels(scan) != 0) | (second != 0))


@pytest.mark.parametrize(
    "source",
    [
        lambda image: image[0] > 5,
        lambda image: image > 5,
        lambda image: np.asarray(image[0] > 5).astype(np.uint8) * 255,
    ],
)
def test_a_callable(scan, source):
    brain = brain_of(scan, source)
    assert brain.shape == (1, *SHAPE)
    assert brain.dtype == torch.float32
    np.testing.assert_array_equal(brain[0], voxels(scan) > 5)


def test_a_command_line_whose_paths_have_blanks_and_whose_mask_is_flipped(scan):
    brain = brain_of(scan, command(scan.parent, EXTRACTOR))
    np.testing.assert_array_equal(brain[0], voxels(scan) > 5)
    np.testing.assert_allclose(brain.affine, AFFINE)


@pytest.mark.parametrize("source", ["given", lambda image: 1 / 0, "no-such-program {image} {mask}"])
def test_a_mask_that_the_case_names_need_not_be_computed(scan, source):
    mask = voxels(scan) > 3
    np.testing.assert_array_equal(brain_of(scan, source, region=with_mask(scan, mask))[0], mask)


def test_nonzero_wins_over_a_mask_that_the_case_names(scan):
    brain = brain_of(scan, "nonzero", region=with_mask(scan, voxels(scan) > 3))
    np.testing.assert_array_equal(brain[0], voxels(scan) != 0)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "import sys; sys.exit('no GPU here')",
            r"failed on .*scan.nii.gz \(exit 1, mask written: False\)(?s:.*)no GPU here",
        ),
        ("print('done')", r"exit 0, mask written: False(?s:.*)done"),
        (EXTRACTOR + "sys.exit(3)", "exit 3, mask written: True"),
        (EXTRACTOR.replace("> 5", "> 50"), "brain mask of .*scan.nii.gz is empty"),
    ],
)
def test_a_command_that_fails(scan, script, message):
    with pytest.raises(InputError, match=message):
        brain_of(scan, command(scan.parent, script))


def test_a_program_that_is_missing_or_cannot_be_run(scan):
    with pytest.raises(InputError, match="'no-such-program' is not installed"):
        brain_of(scan, "no-such-program {image} {mask}")
    with pytest.raises(InputError, match=r"scan\.nii\.gz' cannot be run: Permission denied"):  # a file, but no program
        brain_of(scan, f"{scan} {{image}} {{mask}}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("given", "scan.nii.gz has no brain mask: name one under 'brain'"),
        (lambda image: np.zeros(SHAPE), "scan.nii.gz is empty"),
        (lambda image: np.ones(SHAPE[::-1]), r"has shape \(1, 5, 7, 6\), but \(1, 6, 7, 5\) is needed"),
        (lambda image: np.ones((2, *SHAPE)), r"has shape \(2, 6, 7, 5\)"),
    ],
)
def test_a_mask_that_cannot_be_used(scan, source, message):
    with pytest.raises(InputError, match=message):
        brain_of(scan, source)


def test_a_given_mask_that_is_empty(scan):
    with pytest.raises(InputError, match=r"scan\.nii\.gz is empty"):
        brain_of(scan, "given", region=with_mask(scan, np.zeros(SHAPE)))


@pytest.mark.parametrize("source", ["gven", "hd-bet -i {image}", "", None])
def test_an_unknown_source_is_a_config_error(source):
    with pytest.raises(ConfigError, match=r"use one of 'auto', 'given', .*'deepbet', .* a callable, or a command line"):
        RegionMaskd(source)


def test_the_probabilities_of_an_extractor_are_cut_at_one_half(scan):
    np.testing.assert_array_equal(brain_of(scan, lambda image: image[0] / 9)[0], voxels(scan) / 9 >= 0.5)
    script = EXTRACTOR.replace("(np.asarray(image.dataobj) > 5).astype(np.uint8)", "np.asarray(image.dataobj) / 9")
    np.testing.assert_array_equal(brain_of(scan, command(scan.parent, script))[0], voxels(scan) / 9 >= 0.5)


@pytest.mark.parametrize(
    ("start", "stop", "words"),
    [(0, 10, "100.0 % of the image"), (0, 1, None), (0, 9, None), (4, 4, "0.1 % of the image")],
)
def test_a_mask_of_nearly_everything_or_next_to_nothing_is_named(tmp_path, start, stop, words):
    mask = np.zeros((10, 10, 10))
    mask[start:stop] = 1
    mask[5, 5, 5] = 1
    file = str(tmp_path / "whole.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((10, 10, 10), np.float32), AFFINE), file)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        brain_of(file, lambda image: mask)
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(messages) == (words is not None)
    for message in messages:
        assert words in message
        assert file in message
        assert "look at it over the scan" in message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hd-bet -i '{image} -o {mask}", r"hd-bet .* quot.*close it"),
        ("hd-bet -i {image} -o {mask} --device {gpu}", r"\{gpu\}.* \{image\} and \{mask\}"),
        ("tool {image} {mask} {image.__class__}", r"\{image\.__class__\}"),
        ("tool {image} {mask} {image!r}", r"\{image!r\}"),
        ("tool {image} {mask} {}", r"\{\}"),
        ("tool {image} {mask} {0}", r"\{0\}"),
        ("tool {image} {mask} {image:>999999999}", r"\{image:>999999999\}"),
    ],
)
def test_a_command_that_cannot_be_taken_apart_is_a_config_error(source, message):
    with pytest.raises(ConfigError, match=message):
        RegionMaskd(source)


def test_the_paths_are_put_in_as_they_are(scan):
    odd = scan.with_name("{mask} {0} {.nii.gz")
    odd.write_bytes(scan.read_bytes())
    np.testing.assert_array_equal(brain_of(odd, command(scan.parent, EXTRACTOR))[0], voxels(scan) > 5)


def with_intercept(path, array, slope, inter):
    image = nib.Nifti1Image(array.astype(np.int16), AFFINE)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return str(path)


def test_nonzero_on_a_background_that_is_not_0_is_refused(scan):
    stored = np.zeros(SHAPE)
    stored[1:5, 2:6, 1:4] = 7
    for name in ("shifted.nii.gz", "shifted.nii"):
        file = with_intercept(scan.with_name(name), stored, 2.0, -1024.0)
        with pytest.raises(InputError, match=rf"{name}.* -1024, .*intercept .*-1024.* brain mask"):
            brain_of(file, "nonzero")
    whole_head = np.random.default_rng(0).integers(1, 5, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(whole_head, AFFINE), scan.with_name("head.nii.gz"))
    with pytest.raises(InputError, match=r"head\.nii\.gz(?!.*intercept)"):
        brain_of(scan.with_name("head.nii.gz"), "nonzero")
    both = LoadCased()({"image": [str(scan), str(scan.with_name("head.nii.gz"))]})
    with pytest.raises(InputError, match="channel 1"):
        RegionMaskd("nonzero")(both)


@pytest.mark.parametrize("depth", [1, 3])
def test_nonzero_takes_a_slab_whose_brain_reaches_two_of_its_faces(scan, depth):
    rows, columns = np.indices((40, 40)) - 19.5
    disk = (rows**2 + columns**2 < 20**2).astype(np.float32)
    slab = np.repeat(disk[..., None], depth, axis=2)
    nib.save(nib.Nifti1Image(slab, AFFINE), scan.with_name("slab.nii"))
    np.testing.assert_array_equal(brain_of(scan.with_name("slab.nii"), "nonzero")[0], slab)


def test_all_takes_every_voxel_whatever_mask_the_case_names(scan, recwarn):
    region = brain_of(scan, "all", region=with_mask(scan, voxels(scan) > 3))
    assert region.shape == (1, *SHAPE) and (region == 1).all()
    assert not [w for w in recwarn if "covers" in str(w.message)]

"""Reading: what every tool may have written becomes one grid, or a plain error."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from medanomaly.data import LoadCased, read_channels, read_volume
from medanomaly.errors import InputError

SHAPE = (12, 14, 10)
OBLIQUE = Rotation.from_euler("xyz", (10, -5, 15), degrees=True).as_matrix()
AFFINE = nib.affines.from_matvec(OBLIQUE @ np.diag([-2.0, 2.0, 3.0]), [30.0, -20.0, 5.0])


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), affine), path)
    return str(path)


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def world_of(affine, shape):
    return np.moveaxis(nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)), -1, 0)


def test_a_volume_keeps_the_orientation_of_its_file(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii.gz", noise()))
    np.testing.assert_array_equal(volume, noise())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_a_trailing_axis_of_one_volume_is_dropped(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", noise()[..., None]))
    np.testing.assert_array_equal(volume, noise())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    case = LoadCased(1)({"image": [save(tmp_path / "b.nii", noise()), str(tmp_path / "a.nii")][1:]})
    assert case["image"].shape == (1, *SHAPE)


@pytest.mark.parametrize("shape", [(*SHAPE, 3), SHAPE[:1]])
def test_a_file_that_is_not_3d_is_named_with_its_shape(tmp_path, shape):
    path = save(tmp_path / "series.nii.gz", noise(shape))
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert path in str(error.value)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_formats_of_simpleitk_have_the_same_voxels_and_ras_affine(tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(noise().transpose(2, 1, 0))
    flip = np.diag([-1.0, -1.0, 1.0])  # ITK's world is LPS
    image.SetSpacing([2.0, 2.0, 3.0])
    image.SetOrigin((flip @ AFFINE[:3, 3]).tolist())
    image.SetDirection((flip @ OBLIQUE @ np.diag([-1.0, 1.0, 1.0])).ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(volume, noise())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b\x08\x00"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, suffix, content):
    (tmp_path / f"broken{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=f"broken{suffix} cannot be read as an image"):
        read_volume(tmp_path / f"broken{suffix}")


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "cut.nii.gz"
    save(path, noise())
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.nii\.gz cannot be read.*complete"):
        read_channels([path])


def test_channels_are_stacked_in_order_with_the_header_of_the_first(tmp_path):
    nearly = AFFINE + 5e-4  # headers of different tools round differently
    paths = [save(tmp_path / "b.nii", noise(seed=1)), save(tmp_path / "a.nii", noise(seed=2), nearly)]
    image = read_channels(paths)
    np.testing.assert_array_equal(image, np.stack([noise(seed=1), noise(seed=2)]))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert image.meta["filename_or_obj"] == paths[0]


@pytest.mark.parametrize(
    ("shape", "affine"),
    [(SHAPE, AFFINE + 0.1), (SHAPE, AFFINE @ np.diag([-1, 1, 1, 1])), ((12, 14, 9), AFFINE)],
)
def test_channels_on_different_grids_are_an_error_that_names_both(tmp_path, shape, affine):
    paths = [save(tmp_path / "a.nii", noise()), save(tmp_path / "b.nii", noise(shape), affine)]
    with pytest.raises(InputError, match=r"b\.nii does not lie on the grid of .*a\.nii"):
        read_channels(paths)


@pytest.mark.parametrize(("n_files", "in_channels"), [(1, 2), (2, 1)])
def test_a_wrong_number_of_channels_is_an_error(tmp_path, n_files, in_channels):
    paths = [save(tmp_path / f"{n}.nii", noise()) for n in range(n_files)]
    with pytest.raises(InputError, match=rf"the case s1 has {n_files} image channel.*0\.nii.* takes {in_channels}"):
        LoadCased(in_channels)({"image": paths, "case": "s1"})


def test_nan_is_background_and_infinity_is_an_error(tmp_path):
    array = noise()
    array[:3] = np.nan
    np.testing.assert_array_equal(read_channels([save(tmp_path / "nan.nii", array)])[0], np.nan_to_num(array))
    for value in (np.inf, -np.inf):
        array[5, 5, 5] = value
        with pytest.raises(InputError, match=r"infinite\.nii holds infinite values"):
            read_channels([save(tmp_path / "infinite.nii", array)])


def box(world, low=(5.0, -15.0, 8.0), high=(24.0, 6.0, 26.0)):
    return np.all([(low[k] < world[k]) & (world[k] < high[k]) for k in range(3)], axis=0)


@pytest.mark.parametrize("key", ["region", "label"])
@pytest.mark.parametrize(
    ("codes", "spacing"),
    [("LAS", 2.0), ("RAS", 1.0), ("PSR", 1.0), ("ILP", 1.5), ("ASL", 0.7)],
)
def test_a_mask_on_another_grid_agrees_in_world_space(tmp_path, key, codes, spacing):
    """A box in world space, drawn on an unrotated grid, arrives on the oblique grid of the scan."""
    shape = (int(70 / spacing), int(66 / spacing), int(74 / spacing))
    matrix = np.zeros((3, 3))
    for axis, code in enumerate(codes):
        row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        matrix[row, axis] = spacing if code in "RAS" else -spacing
    affine = nib.affines.from_matvec(matrix, np.array([14.0, -4.0, 17.0]) - matrix @ (np.array(shape) / 2))
    mask = save(tmp_path / "mask.nii.gz", 2 * box(world_of(affine, shape)), affine)
    case = LoadCased()({"image": save(tmp_path / "a.nii.gz", noise()), key: mask})
    world = world_of(AFFINE, SHAPE)
    found = np.asarray(case[key])
    np.testing.assert_allclose(case[key].affine, AFFINE, atol=1e-5)
    assert found.shape == (1, *SHAPE)
    assert set(np.unique(found)) == {0, 1}
    edge = spacing / 2 + 1e-3  # nearest neighbour errs by half a voxel of the mask in each of its directions
    surely = box(world, np.array([5.0, -15.0, 8.0]) + edge, np.array([24.0, 6.0, 26.0]) - edge)
    perhaps = box(world, np.array([5.0, -15.0, 8.0]) - edge, np.array([24.0, 6.0, 26.0]) + edge)
    assert surely.sum() > 200
    assert (~perhaps).sum() > 200
    assert found[0][surely].all()
    assert not found[0][~perhaps].any()


def test_the_same_mask_with_permuted_and_flipped_axes_is_voxel_for_voxel_the_same(tmp_path):
    mask = noise() > 100
    image = nib.Nifti1Image(mask.astype(np.uint8), AFFINE)
    turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    assert turned.shape != image.shape
    nib.save(turned, tmp_path / "mask.nii")
    case = LoadCased()({"image": save(tmp_path / "a.nii", noise()), "region": str(tmp_path / "mask.nii")})
    np.testing.assert_array_equal(case["region"][0], mask)
    assert case["region"].applied_operations == []


def test_a_mask_of_another_part_of_the_world_is_an_error(tmp_path):
    far = AFFINE.copy()
    far[:3, 3] += 500
    mask = save(tmp_path / "mask.nii", np.ones(SHAPE), far)
    with pytest.raises(InputError, match=r"mask\.nii and .*a\.nii share no voxel in world space"):
        LoadCased()({"image": save(tmp_path / "a.nii", noise()), "label": mask})


def test_an_empty_label_is_fine_and_nan_in_it_is_background(tmp_path):
    label = np.zeros(SHAPE)
    label[0] = np.nan
    files = {
        "image": save(tmp_path / "a.nii", noise()),
        "label": save(tmp_path / "l.nii", label, AFFINE @ np.diag([2, 2, 2, 1])),
    }
    assert not LoadCased()(files)["label"].any()


@pytest.mark.parametrize("affine", [AFFINE, AFFINE @ np.diag([0.5, 0.5, 0.5, 1])], ids=["same grid", "another"])
@pytest.mark.parametrize("key", ["region", "label"])
def test_probabilities_are_cut_at_one_half_before_any_resampling(tmp_path, key, affine):
    blocks = np.zeros(SHAPE)
    for start, value in enumerate((0.01, 0.49, 0.5, 0.99999997, 1, 4, 255)):
        blocks[start] = value
    case = LoadCased()({"image": save(tmp_path / "a.nii", noise()), key: save(tmp_path / "m.nii", blocks, affine)})
    found = case[key][0].numpy()
    assert set(np.unique(found)) == {0, 1}
    if affine is AFFINE:
        np.testing.assert_array_equal(found, blocks >= 0.5)
    else:  # the scan's voxels are twice as large: those at 0 and 1 lie in the blocks 0 and 2
        assert not found[0, :7, :5].any()
        assert found[1, :7, :5].all()


def with_sform(path, matrix, data=None):
    """A file whose sform, of code 1, is what it is told to be; nibabel itself would not always write it."""
    data = np.ones(SHAPE, np.float32) if data is None else data
    header = nib.Nifti1Image(data, np.eye(4)).header
    header["sform_code"], header["qform_code"] = 1, 0
    for row, values in zip(("srow_x", "srow_y", "srow_z"), matrix, strict=False):
        header[row] = values
    header.set_data_offset(352)
    path.write_bytes(header.binaryblock + bytes(4) + data.tobytes(order="F"))
    return str(path)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 4)), np.diag([1.0, 1.0, 0.0, 1.0]), np.ones((3, 4)), np.diag([1.0, np.nan, 1.0, 1.0])],
    ids=["zeros", "no third axis", "parallel axes", "nan"],
)
def test_an_affine_that_places_no_voxels_is_an_error(tmp_path, matrix):
    path = with_sform(tmp_path / "scan.nii", matrix)
    with pytest.raises(InputError, match=r"affine of .*scan\.nii is .* correct the sform"):
        read_volume(path)


def test_complex_and_colour_voxels_are_an_error_and_not_cast(tmp_path):
    nib.save(nib.Nifti1Image(noise() * np.complex128(1 + 2j), AFFINE), tmp_path / "complex.nii.gz")
    with pytest.raises(InputError, match=r"complex\.nii\.gz holds complex128 .*real numbers .*magnitude"):
        read_volume(tmp_path / "complex.nii.gz")
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, AFFINE), tmp_path / "colour.nii")
    with pytest.raises(InputError, match=r"colour\.nii holds colours"):
        read_volume(tmp_path / "colour.nii")

"""Films: what PNG, JPEG, NIfTI and DICOM files hold becomes the same slice, bright side up, or a plain error."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medanomaly.data import LoadCased, read_volume
from medanomaly.errors import InputError

ROWS, COLUMNS = 30, 44
AS_SEEN = np.diag([-1.0, -1.0, 1.0, 1.0])


def film(top=255, dtype=np.uint8):
    """A ramp (rows, columns) that is brightest at one pixel, near the upper right corner."""
    pixels = np.linspace(0, top // 2, ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(dtype)
    pixels[4, 37] = top
    return pixels


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("a.png", film()), ("A.PNG", film()), ("b.png", film(65535, np.uint16)), ("c.png", film() > 40)],
)
def test_a_grey_png_keeps_its_values_and_depth(tmp_path, name, pixels):
    Image.fromarray(pixels).save(tmp_path / name)
    volume = read_volume(tmp_path / name)
    assert volume.shape == (COLUMNS, ROWS, 1)
    np.testing.assert_array_equal(volume[..., 0].T, pixels * (255 if pixels.dtype == bool else 1))
    np.testing.assert_array_equal(volume.affine, AS_SEEN)
    assert volume.meta["filename_or_obj"] == str(tmp_path / name)


def test_a_jpeg_is_read_to_within_its_compression(tmp_path):
    smooth = film()
    smooth[4, 37] = smooth[4, 36]
    for mode, name in (("L", "a.jpg"), ("RGB", "b.jpeg")):
        Image.fromarray(smooth).convert(mode).save(tmp_path / name, quality=95)
        np.testing.assert_allclose(read_volume(tmp_path / name)[..., 0].T, smooth, atol=4)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colours_that_are_all_grey_are_grey(tmp_path, mode):
    Image.fromarray(film()).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png")[..., 0].T, film())


def with_alpha(pixels):
    return Image.merge("LA", [Image.fromarray(pixels), Image.fromarray(pixels)])


def in_colour(pixels):
    return Image.fromarray(np.stack([pixels, pixels, pixels[::-1]], axis=-1))


def test_what_is_no_grey_film_is_refused(tmp_path):
    with_alpha(film()).save(tmp_path / "alpha.png")
    in_colour(film()).save(tmp_path / "colour.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(film()).save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.fromarray(film()).save(tmp_path / "tif.tif")
    for name, words in {
        "alpha.png": "alpha.png has transparent parts.* without an alpha channel",
        "colour.png": "colour.png shows colours.* in grey",
        "turned.jpg": "turned.jpg is stored turned or mirrored .*orientation 6",
        "broken.png": "broken.png cannot be read as an image",
        "tif.tif": "tif.tif is an image of shape .*convert it",
    }.items():
        with pytest.raises(InputError, match=words):
            read_volume(tmp_path / name)


def test_a_colour_png_of_16_bits_is_refused_and_not_cut_to_8(tmp_path):
    Image.fromarray(film()).convert("RGB").save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[24] = 16  # the depth in its header
    (tmp_path / "a.png").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.png (has several channels of 16 bits|cannot be read)"):
        read_volume(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(COLUMNS, ROWS), (COLUMNS, ROWS, 1)])
def test_a_nifti_image_is_one_slice_on_its_own_grid(tmp_path, shape):
    affine = np.diag([-0.2, -0.3, 1.0, 1.0])
    nib.save(nib.Nifti1Image(film().T.reshape(shape), affine), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume[..., 0].T, film())
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / "a.nii.gz").affine)
    np.testing.assert_allclose(np.diag(volume.affine)[:2], [-0.2, -0.3])


def test_an_image_whose_third_axis_has_no_size_gets_one_of_1_mm(tmp_path):
    header = nib.Nifti1Image(film().T, np.eye(4)).header
    header["sform_code"], header["qform_code"] = 1, 0
    header["srow_x"], header["srow_y"], header["srow_z"] = (-0.2, 0, 0, 3), (0, -0.3, 0, 4), (0, 0, 0, 0)
    header.set_data_offset(352)
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + film().T.tobytes(order="F"))
    expected = [[-0.2, 0, 0, 3], [0, -0.3, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "rescale"), [(np.uint16, None), (np.uint16, (2, -10)), (np.uint8, None), (np.int16, None)]
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_dicom_radiograph_is_bright_where_it_is_shown_bright(
    tmp_path, radiograph_writer, photometric, dtype, rescale
):
    stored = film(250 if dtype is np.uint8 else 4095, dtype)
    radiograph_writer(tmp_path / "a.dcm", stored, photometric, spacing=(0.3, 0.2), rescale=rescale)
    (tmp_path / "folder").mkdir()
    radiograph_writer(tmp_path / "folder" / "1", stored, photometric, spacing=(0.3, 0.2), rescale=rescale)
    slope, intercept = rescale or (1, 0)
    shown = slope * stored.astype(float) * (1 if photometric == "MONOCHROME2" else -1) + intercept
    for path in (tmp_path / "a.dcm", tmp_path / "folder"):
        volume = read_volume(path)
        assert volume.shape == (COLUMNS, ROWS, 1)
        np.testing.assert_allclose(np.diag(volume.affine), [-0.2, -0.3, 1, 1])  # (rows, columns) in the header
        np.testing.assert_allclose(volume[..., 0].T - volume.min(), shown - shown.min())


def test_a_number_as_label_stays_a_number_apart_from_masks(tmp_path):
    Image.fromarray(film()).save(tmp_path / "a.png")
    Image.fromarray((film() > 40).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    for label in (0, 1):
        case = LoadCased(1)({"image": str(tmp_path / "a.png"), "label": label, "region": str(tmp_path / "mask.png")})
        assert case["image_label"] == label and "label" not in case
    np.testing.assert_array_equal(case["region"][0, ..., 0].T, film() > 40)


def test_a_mask_of_a_film_has_its_pixels(tmp_path, radiograph_writer):
    drawn = (film() > 40).astype(np.uint8)
    Image.fromarray(film()).save(tmp_path / "a.png")
    radiograph_writer(tmp_path / "a.dcm", film(4095, np.uint16), "MONOCHROME2", spacing=(0.3, 0.2))
    Image.fromarray(255 * drawn).save(tmp_path / "mask.png")
    nib.save(nib.Nifti1Image(drawn.T[..., None], AS_SEEN), tmp_path / "mask.nii")
    Image.fromarray(255 * drawn[::2, ::2]).save(tmp_path / "small.png")
    Image.fromarray(255 * drawn).save(tmp_path / "mask.jpg")
    nib.save(nib.Nifti1Image(drawn, np.eye(4)), tmp_path / "other.nii")

    def read(image, mask):
        return LoadCased()({"image": str(tmp_path / image), "label": str(tmp_path / mask)})["label"]

    for image, mask in (("a.png", "mask.png"), ("a.dcm", "mask.png"), ("a.png", "mask.nii")):
        found = read(image, mask)
        np.testing.assert_array_equal(found[0, ..., 0].T, drawn)
        np.testing.assert_array_equal(found.affine, read_volume(tmp_path / image).affine)
    for image, mask in (
        ("a.png", "small.png"),
        ("a.dcm", "small.png"),
        ("a.png", "other.nii"),
        ("other.nii", "mask.png"),
    ):
        with pytest.raises(InputError, match=f"{mask} .* does not lie on the grid of .*{image}.* has the pixels of"):
            read(image, mask)
    with pytest.raises(InputError, match=r"mask\.jpg is a JPEG picture, .* write it as PNG"):
        read("a.png", "mask.jpg")

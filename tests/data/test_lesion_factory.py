"""Made lesions in a made volume: three slabs of tissue whose means and standard deviations are known."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medanomaly.data.lesion_factory import LesionFactory, made_shapes, shapes_from_masks, tissue_classes
from medanomaly.errors import ConfigError, InputError

SHAPE = (60, 40, 36)
MEANS = np.array([[1.0, 1.3, 1.2], [0.2, 0.6, 1.0]])  # (channel, tissue): the last channel parts the tissues
SDS = np.array([[0.05, 0.08, 0.1], [0.02, 0.03, 0.04]])
MM = (1.0, 1.0, 1.0)
TISSUE = np.broadcast_to((np.arange(SHAPE[0]) // 20)[:, None, None], SHAPE)


def made_volume(seed=0):
    """Image (2, H, W, D) and brain: all but a border of 3 voxels."""
    rng = np.random.default_rng(seed)
    image = MEANS[:, TISSUE] + SDS[:, TISSUE] * rng.standard_normal((2, *SHAPE))
    brain = np.zeros(SHAPE, bool)
    brain[3:-3, 3:-3, 3:-3] = True
    return np.where(brain, image, 0), brain


def ball(diameter):
    grid = np.indices((diameter,) * 3) - (diameter - 1) / 2
    return (grid**2).sum(axis=0) <= (diameter / 2) ** 2


def lesions(mask):
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return [labels == number for number in range(1, count + 1)]


def factory(diameter=9, **settings):
    return LesionFactory([ball(diameter)], **{"n_lesions": 3, "texture": 0.0, **settings})


def test_the_same_seed_makes_the_same_lesions_and_another_makes_others():
    image, brain = made_volume()
    before = image.copy()
    make = LesionFactory(made_shapes(4, np.random.default_rng(1)), n_lesions=3)
    first, again, other = (make(image, brain, MM, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
    np.testing.assert_array_equal(image, before)
    assert first[0].dtype == image.dtype and first[0].shape == image.shape
    assert first[1].dtype == np.int8 and first[1].shape == SHAPE and set(np.unique(first[1])) <= {-1, 0, 1}


@pytest.mark.parametrize("seed", range(4))
def test_lesions_lie_in_the_brain_and_off_what_is_avoided(seed):
    image, brain = made_volume()
    avoid = np.zeros(SHAPE, bool)
    avoid[:, 15:22] = True
    made, where = factory()(image, brain, MM, np.random.default_rng(seed), avoid)
    assert where.any() and not where[~brain | avoid].any()
    np.testing.assert_array_equal(made[:, ~brain | avoid], image[:, ~brain | avoid])  # not even a soft border


def test_the_image_beyond_the_soft_border_stays():
    image, brain = made_volume()
    made, where = factory(border_mm=0.7)(image, brain, MM, np.random.default_rng(0))
    distance = ndimage.distance_transform_edt(where == 0)
    np.testing.assert_array_equal(made[:, distance > 9], image[:, distance > 9])
    assert np.abs(made - image)[:, distance > 4].max() < 0.02 * SDS.min()
    assert (made != image).any(axis=0)[(distance > 0) & (distance < 1.5)].any()
    assert (made != image).all(axis=0)[where != 0].all()


@pytest.mark.parametrize("signs", [(1,), (-1,), (-1, 1)])
def test_the_map_says_whether_the_first_channel_is_brighter(signs):
    image, brain = made_volume()
    seen = set()
    for seed in range(4):
        made, where = factory(contrast=(2.0, 3.0), signs=signs)(image, brain, MM, np.random.default_rng(seed))
        for sign in signs:
            for lesion in lesions(where == sign):
                if lesion.sum() > 50 and len(np.unique(TISSUE[lesion])) == 1:
                    assert np.sign((made - image)[0][lesion].mean()) == sign
                    seen.add(sign)
        assert set(np.unique(where)) - {0} <= set(signs)
    assert seen == set(signs)


@pytest.mark.parametrize("tissue", [0, 1, 2])
@pytest.mark.parametrize("contrast", [(1.0, 1.5), (3.0, 4.0)])
def test_contrast_is_in_standard_deviations_of_the_tissue(contrast, tissue):
    image, brain = made_volume()
    make = factory(13, n_lesions=1, contrast=contrast, scale=(1.0, 1.0))
    found = []
    for seed in range(4):
        made, where = make(image, brain, MM, np.random.default_rng(seed), tissue != TISSUE)
        core = ndimage.binary_erosion(where != 0, iterations=3)
        values = made[:, core]
        assert core.any() and np.ptp(values, axis=1).max() < 0.2 * SDS[:, tissue].min()  # no texture
        away = (values.mean(axis=1) - MEANS[:, tissue]) / SDS[:, tissue]
        assert np.sign(away[0]) == where[where != 0][0]
        found += list(np.abs(away))
    tolerance = 0.1  # of the mean of some 400 voxels, and of the standard deviation
    assert contrast[0] - tolerance < min(found) and max(found) < contrast[1] + tolerance
    assert np.ptp(found) > 0.2  # drawn


def test_channels_have_signs_and_contrasts_of_their_own():
    image, brain = made_volume()
    same = set()
    for seed in range(12):
        made, where = factory(n_lesions=1)(image, brain, MM, np.random.default_rng(seed), TISSUE != 1)
        change = (made - image)[:, where != 0].mean(axis=1)
        same.add(bool(np.sign(change[0]) == np.sign(change[1])))
    assert same == {True, False}


def test_texture_is_of_the_tissue_s_size():
    image, brain = made_volume()
    spread = []
    for seed in range(8):
        made, where = factory(n_lesions=1, texture=1.0)(image, brain, MM, np.random.default_rng(seed), TISSUE != 1)
        core = ndimage.binary_erosion(where != 0, iterations=2)
        spread += list(made[:, core].std(axis=1) / SDS[:, 1])
    assert 0.1 < np.mean(spread) < 0.9 and max(spread) < 1.4  # drawn from 0 to 1


@pytest.mark.parametrize("border", [0.3, 0.7, 1.5])
def test_border_voxels_lie_between_the_lesion_and_the_tissue(border):
    image, brain = made_volume()
    make = factory(13, n_lesions=1, border_mm=border, signs=(1,), contrast=(6.0, 6.0), scale=(1.0, 1.0))
    made, where = make(image, brain, MM, np.random.default_rng(3), TISSUE != 1)
    inside = made[0].max()  # the lesion is of one value, above all of the tissue
    changed = (made != image).any(axis=0)
    share = (made - image)[0][changed] / (inside - image[0][changed])
    assert share.min() >= 0 and share.max() <= 1 + 1e-9
    np.testing.assert_array_equal(share >= 0.5, (where != 0)[changed])
    # a shell of about 2.6 standard deviations of the border lies between a tenth and nine tenths
    shell = ((share > 0.1) & (share < 0.9)).sum() / (np.pi * 13**2)
    assert 2.0 * border < shell < 2.6 * border + 1.2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (2.0, 0.8, 1.0)], ids=str)
@pytest.mark.parametrize("scale", [0.8, 1.5])
def test_lesions_have_their_size_in_mm_whatever_the_spacing(scale, spacing):
    shape = tuple(int(n / s) for n, s in zip((60, 54, 54), spacing, strict=True))
    tissue = np.broadcast_to((3 * np.arange(shape[0]) // shape[0])[:, None, None], shape)
    image = (tissue + 0.05 * np.random.default_rng(0).standard_normal(shape))[None]
    make = factory(12, n_lesions=1, scale=(scale, scale))
    for seed in range(3):
        _, where = make(image, np.ones(shape, bool), spacing, np.random.default_rng(seed))
        widths = [
            (box.stop - box.start) * s for box, s in zip(ndimage.find_objects(abs(where))[0], spacing, strict=True)
        ]
        for width, voxel in zip(widths, spacing, strict=True):
            assert abs(width - 12 * scale) <= 1.5 * max(voxel, 1) + 0.5
        assert where.astype(bool).sum() * np.prod(spacing) == pytest.approx(ball(12).sum() * scale**3, rel=0.3)


def test_tissue_classes_go_by_the_last_channel():
    image, brain = made_volume()
    classes = tissue_classes(image, brain)
    assert classes.dtype == np.int8 and (classes[~brain] == -1).all()
    assert (classes == TISSUE)[brain].mean() > 0.999


def test_a_volume_without_three_tissues_is_refused():
    _, brain = made_volume()
    with pytest.raises(InputError, match="no three tissues"):
        factory()(brain[None].astype(float), brain, MM, np.random.default_rng(0))


def test_a_brain_without_room_is_refused():
    image, brain = made_volume()
    with pytest.raises(InputError, match="no made lesion found a place"):
        factory()(image, brain, MM, np.random.default_rng(0), np.ones(SHAPE, bool))
    with pytest.raises(InputError, match="no made lesion found a place"):
        factory(60)(image, brain, MM, np.random.default_rng(0))  # larger than the volume


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shapes": []}, "at least one shape"),
        ({"contrast": (0.0, 2.0)}, "contrast is 0.0 to 2.0"),
        ({"contrast": (3.0, 2.0)}, "contrast is 3.0 to 2.0"),
        ({"scale": (-1.0, 2.0)}, "scale is -1.0 to 2.0"),
        ({"signs": (0, 1)}, r"signs is \(0, 1\)"),
        ({"signs": ()}, r"signs is \(\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LesionFactory(**{"shapes": [ball(5)], **settings})


def write_mask(path, mask, spacing=MM):
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.diag([*spacing, 1.0])), path)
    return path


def test_shapes_are_the_components_of_the_masks(tmp_path):
    first, second = np.zeros((20, 20, 20)), np.zeros((16, 20, 12))
    first[2:7, 2:7, 2:7] = ball(5)
    first[7, 4, 4] = first[8, 5, 5] = 1  # joined to the ball by a face, and to one another by a corner
    first[12:14, 12:14, 12:14] = 3  # any value above 0; 8 voxels
    first[17, 17, 17] = 1  # too small
    second[:3, 10:14, 5] = 1
    files = [write_mask(tmp_path / f"{n}.nii.gz", mask) for n, mask in enumerate((first, second))]
    shapes = shapes_from_masks(files)
    assert sorted(shape.shape for shape in shapes) == [(2, 2, 2), (3, 4, 1), (7, 5, 5)]
    assert sorted(int(shape.sum()) for shape in shapes) == [8, 12, 83]
    assert all(shape.dtype == bool for shape in shapes)
    assert len(shapes_from_masks(files, least_voxels=13)) == 1 and len(shapes_from_masks(files, least_voxels=1)) == 4


def test_a_shape_holds_no_other_lesion_of_its_box(tmp_path):
    mask = np.zeros((12, 12, 12))
    mask[1:10, 1:10, 1] = mask[1:10, 1, 1:10] = 1  # an L, in whose box
    mask[6:9, 6:9, 6:9] = 1  # a cube lies
    assert sorted(s.sum() for s in shapes_from_masks([write_mask(tmp_path / "m.nii", mask)])) == [27, 153]


def test_masks_that_give_no_shapes_are_refused(tmp_path):
    cube = np.ones((4, 4, 4))
    coarse = write_mask(tmp_path / "coarse.nii.gz", cube, (1, 1, 3))
    with pytest.raises(InputError, match=r"coarse.nii.gz has voxels of \[1.0, 1.0, 3.0\] mm"):
        shapes_from_masks([coarse])
    empty = write_mask(tmp_path / "empty.nii.gz", 0 * cube)
    with pytest.raises(InputError, match="no lesion of at least 8 voxels in 1 lesion masks"):
        shapes_from_masks([empty])
    with pytest.raises(InputError, match="in 0 lesion masks"):
        shapes_from_masks([])


def test_made_shapes_are_lumps_of_the_size_that_was_asked_for():
    shapes, again, large = (
        made_shapes(12, np.random.default_rng(2), diameter_mm=diameter) for diameter in ((4, 20), (4, 20), (18, 20))
    )
    assert len(shapes) == 12 and all(np.array_equal(a, b) for a, b in zip(shapes, again, strict=True))
    assert all(shape.dtype == bool and shape.sum() >= 8 for shape in shapes)
    volumes = [shape.sum() for shape in large]
    assert np.pi / 6 * 10**3 * 0.6 < min(volumes) and max(volumes) < np.pi / 6 * 20**3 * 1.3
    assert len({shape.sum() for shape in shapes}) > 6

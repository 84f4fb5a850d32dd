"""A heatmap comes back to the very place in the patient that it was computed from, whatever the scan's grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Flip, Spacing
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medanomaly.preprocessing import FillOutsided, MaskOutsided, brain_mri, heatmap_to_scan

# axis codes, voxel size (mm), rotation about x, y, z (degrees), shape, (sform code, qform code), length unit
SCANS = {
    "RAS": ("RAS", (1.0, 1.0, 1.0), (0, 0, 0), (45, 48, 43), (1, 1), "mm"),
    "LPS-oblique": ("LPS", (1.6, 1.6, 2.5), (8, -4, 5), (29, 31, 18), (2, 1), "mm"),
    "PSR": ("PSR", (2.0, 2.0, 2.0), (0, 0, 0), (25, 23, 22), (0, 1), "mm"),
    "LAS-thick-slices": ("LAS", (1.4, 1.4, 3.5), (-10, 3, 0), (33, 36, 13), (4, 0), "mm"),
    "ASR-oblique": ("ASR", (1.8, 1.5, 2.0), (4, 6, -7), (27, 31, 24), (1, 2), "unknown"),
    "SLP-very-oblique": ("SLP", (3.0, 0.9, 1.2), (20, -25, 30), (16, 53, 41), (1, 1), "mm"),
}
SPACINGS = (None, (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.5, 1.5, 3.0))
CENTRE, RADII = np.array([12.0, -31.0, 40.0]), np.array([17.0, 19.0, 16.0])  # of the brain, mm in RAS
MARKER = CENTRE + np.array([6.0, -7.0, 5.5])  # right, posterior, superior


def world_of(affine, shape):
    """RAS coordinates (3, H, W, D) of all voxels, relative to no template."""
    return np.einsum("ij,jhwd->ihwd", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]


def from_centre(world):
    return world - CENTRE[:, None, None, None]


def ellipsoid(world, margin=0.0):
    return ((from_centre(world) / (RADII - margin)[:, None, None, None]) ** 2).sum(axis=0) < 1


def smooth(world):
    x, y, z = from_centre(world)
    return 400 + 100 * np.sin(x / 12 + 0.3) + 70 * np.cos(y / 14 + 0.9) + 2.5 * z + 0.1 * x * y


def marker(world):
    return 1000 * np.exp(-((world - MARKER[:, None, None, None]) ** 2).sum(axis=0) / (2 * 3.0**2))


def right_is_bright(world):
    return np.where(from_centre(world)[0] > 0, 900.0, 300.0)


PATTERNS = (smooth, marker, right_is_bright)


def scan_affine(codes, spacing, rotation, shape):
    direction = np.zeros((3, 3))
    for axis, code in enumerate(codes):
        row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        direction[row, axis] = 1 if code in "RAS" else -1
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ direction * spacing
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2) + [1.0, -0.7, 0.4]
    return affine


def write(path, array, affine, codes, unit):
    image = nib.Nifti1Image(array, affine)
    for form, code in zip((image.set_sform, image.set_qform), codes, strict=True):
        form(affine if code else None, code)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return str(path)


@pytest.fixture(scope="module", params=[(s, w) for s in SCANS for w in SPACINGS], ids=lambda p: f"{p[0]}-{p[1]}")
def flow(request, tmp_path_factory):
    """The whole way: files, working space, and there each channel taken as the heatmap, back to files."""
    codes, spacing, rotation, shape, form_codes, unit = SCANS[request.param[0]]
    folder = tmp_path_factory.mktemp("scan")
    affine = scan_affine(codes, spacing, rotation, shape)
    world = world_of(affine, shape)
    files = [
        write(folder / f"{f.__name__}.nii.gz", f(world).astype(np.float32), affine, form_codes, unit) for f in PATTERNS
    ]
    brain = write(folder / "brain.nii.gz", ellipsoid(world).astype(np.uint8), affine, form_codes, unit)
    chain = brain_mri(spacing=request.param[1])
    prepared = chain({"image": files, "region": brain, "case": "a"})
    heatmaps = {}
    for channel, pattern in enumerate(PATTERNS):
        pred = torch.where(prepared["region"] > 0, prepared["image"][channel : channel + 1], torch.nan).as_tensor()
        output = folder / pattern.__name__
        heatmap_to_scan(chain, output, display=lambda scores: 2 * scores + 5)({**prepared, "pred": pred})
        heatmaps[pattern.__name__] = [nib.load(output / "a" / f"a_{kind}.nii.gz") for kind in ("heatmap", "display")]
    working = np.asarray(request.param[1] or spacing)
    return {
        "scan": nib.load(files[0]),
        "world": world,
        "prepared": prepared,
        "heatmaps": heatmaps,
        "working": request.param[1],
        # mm from the edge where no filled score counts: linear interpolation in working space, nearest mask
        "margin": float(np.linalg.norm(working) + np.linalg.norm(spacing) / 2),
    }


def test_working_space_is_ras_at_the_spacing(flow):
    image = flow["prepared"]["image"]
    affine = np.asarray(image.affine)
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    assert image.shape[1:] == flow["prepared"]["region"].shape[1:]
    if flow["working"] is not None:
        np.testing.assert_allclose(nib.affines.voxel_sizes(affine), flow["working"], atol=1e-5)
    world = world_of(affine, image.shape[1:])
    inside, expected = ellipsoid(world, flow["margin"]), smooth(world)
    a, b = np.polyfit(np.asarray(image[0])[inside], expected[inside], 1)  # undo the normalisation
    assert a > 0
    np.testing.assert_allclose(a * np.asarray(image[0])[inside] + b, expected[inside], atol=8)  # of a range of 450


def test_files_lie_on_the_grid_of_the_scan(flow):
    scan = flow["scan"]
    for heatmap in (image for pair in flow["heatmaps"].values() for image in pair):
        assert heatmap.shape == scan.shape
        np.testing.assert_allclose(heatmap.affine, scan.affine, atol=1e-5)
        np.testing.assert_allclose(heatmap.header.get_zooms(), scan.header.get_zooms(), atol=1e-6)
        assert nib.aff2axcodes(heatmap.affine) == nib.aff2axcodes(scan.affine)
        for field in ("xyzt_units", "sform_code", "qform_code"):
            assert heatmap.header[field] == scan.header[field], field
        assert heatmap.get_data_dtype() == np.float32


def test_raw_is_nan_and_display_is_zero_exactly_outside_the_brain(flow):
    brain = ellipsoid(flow["world"])
    for raw, display in flow["heatmaps"].values():
        raw, display = np.asarray(raw.dataobj), np.asarray(display.dataobj)
        np.testing.assert_array_equal(np.isfinite(raw), brain)
        assert (display[~brain] == 0).all()
        np.testing.assert_allclose(display[brain], 2 * raw[brain] + 5, rtol=1e-6)


def test_smooth_values_come_back_to_where_they_were(flow):
    heatmap = np.asarray(flow["heatmaps"]["smooth"][0].dataobj)
    inside = ellipsoid(flow["world"], flow["margin"])
    assert inside.sum() > 100
    original = smooth(flow["world"])[inside]
    a, b = np.polyfit(heatmap[inside], original, 1)  # undo the normalisation
    assert a > 0
    np.testing.assert_allclose(a * heatmap[inside] + b, original, atol=0.01 if flow["working"] is None else 8)


def test_marker_comes_back_within_a_voxel(flow):
    brain = ellipsoid(flow["world"])
    heatmap = np.nan_to_num(np.asarray(flow["heatmaps"]["marker"][0].dataobj), nan=-np.inf)
    original = np.where(brain, marker(flow["world"]), -np.inf)
    n_top = np.count_nonzero(original > 400)
    found, true = (
        np.mean(np.unravel_index(np.argsort(m, axis=None)[-n_top:], m.shape), axis=1) for m in (heatmap, original)
    )
    assert np.abs(found - true).max() < 0.5
    to_world = flow["scan"].affine
    assert np.linalg.norm(nib.affines.apply_affine(to_world, found) - MARKER) < max(nib.affines.voxel_sizes(to_world))


def test_left_and_right_never_swap(flow):
    heatmap = np.asarray(flow["heatmaps"]["right_is_bright"][0].dataobj)
    x = from_centre(flow["world"])[0]
    inside = ellipsoid(flow["world"], flow["margin"])
    right, left = inside & (x > flow["margin"]), inside & (x < -flow["margin"])
    assert right.sum() > 10
    assert left.sum() > 10
    np.testing.assert_allclose(heatmap[right], 1, atol=1e-4)  # 900 is the 95th percentile, 300 the 5th
    np.testing.assert_allclose(heatmap[left], 0, atol=1e-4)


def test_fill_outside_takes_the_score_that_is_nearest_in_mm():
    spacing = np.array([1.0, 1.5, 3.0])
    scores = np.random.default_rng(0).random((1, 7, 8, 6)).astype(np.float32)
    scores[0, np.random.default_rng(1).random((7, 8, 6)) < 0.8] = np.nan
    image = MetaTensor(torch.zeros(1, 7, 8, 6), affine=np.diag([*spacing, 1]))
    filled = FillOutsided()({"pred": torch.from_numpy(scores), "image": image})["pred"]
    assert isinstance(filled, MetaTensor)
    covered = np.argwhere(np.isfinite(scores[0]))
    for voxel in np.ndindex(7, 8, 6):
        squared = (((covered - voxel) * spacing) ** 2).sum(axis=1)
        nearest = scores[0][tuple(covered[squared == squared.min()].T)]
        assert filled[0][voxel] in nearest


def centre_of(shape):
    """A volume with scores in a block in its middle, and NaN around."""
    scores = torch.full((1, *shape), torch.nan)
    scores[:, 6:9, 7:10, 5:9] = torch.rand(1, 3, 3, 4)
    return scores


def test_fill_outside_does_nothing_where_nothing_is_resampled_and_the_brain_is_covered():
    scores = centre_of((16, 17, 18))
    case = {"image": MetaTensor(torch.zeros(1, 16, 17, 18)), "region": torch.isfinite(scores).float()}
    moved = Flip(0)(case["image"])
    for image in (case["image"], moved):
        filled = FillOutsided()({**case, "image": image, "pred": scores})["pred"]
        np.testing.assert_array_equal(filled, scores)
    case["region"][0, 9, 8, 7] = 1  # a voxel of the brain that no patch covers
    filled = FillOutsided()({**case, "pred": scores})["pred"]
    assert filled[0, 9, 8, 7] == scores[0, 8, 8, 7]
    resampled = Spacing((1.0, 1.0, 2.0))(MetaTensor(torch.zeros(1, 16, 17, 36)))
    filled = FillOutsided()({"image": resampled, "region": torch.isfinite(scores).float(), "pred": scores})["pred"]
    assert torch.isfinite(filled).all()


def test_fill_outside_is_exact_within_the_margin_and_leaves_no_nan_beyond():
    scores = centre_of((16, 17, 18))
    case = {"image": MetaTensor(torch.zeros(1, 16, 17, 18)), "pred": scores}
    exact, near = (FillOutsided(margin)(case)["pred"] for margin in (99, 2))
    assert torch.isfinite(near).all()
    box = (0, slice(4, 11), slice(5, 12), slice(3, 11))
    np.testing.assert_array_equal(near[box], exact[box])


def test_mask_outside_sets_nan_where_the_scan_has_no_brain():
    heatmap, brain = torch.rand(1, 4, 5, 6), torch.zeros(1, 4, 5, 6)
    brain[:, 1:3, 2:4, :3] = 1
    masked = MaskOutsided()({"pred": heatmap, "scan_region": brain})["pred"]
    assert torch.equal(torch.isfinite(masked), brain > 0)
    assert torch.equal(masked[brain > 0], heatmap[brain > 0])


def test_no_file_is_written_without_an_output_folder(tmp_path):
    affine = np.diag([2.0, -2.0, 2.0, 1.0])
    array = np.random.default_rng(0).random((9, 10, 8)).astype(np.float32) + 1
    file = write(tmp_path / "scan.nii", array, affine, (1, 1), "mm")
    chain = brain_mri(spacing=None, region=lambda image: image[0] > 0)
    prepared = chain({"image": file, "case": "a"})
    back = heatmap_to_scan(chain)({**prepared, "pred": prepared["image"].as_tensor()})["pred"]
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii"]
    low, high = np.percentile(array, [5, 95])
    np.testing.assert_allclose(np.asarray(back)[0], (array - low) / (high - low), atol=1e-5)
    assert ndimage.label(np.isfinite(np.asarray(back)[0]))[1] == 1

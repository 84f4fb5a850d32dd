"""Every voxel of the made volumes holds a number of its own, so a patch tells where it was cut and how it lies."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medanomaly.errors import ConfigError, InputError
from medanomaly.patches import PatchSampler, PatchSpec

SHAPE = (13, 11, 12)
P = 4
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def numbered_case(first=0, channels=1):
    """Channel c of the voxel number n holds n + first + c * 1e6; the brain is a block, the label a few voxels of it."""
    numbers = torch.arange(torch.Size(SHAPE).numel(), dtype=torch.float32).view(1, *SHAPE) + first
    image = torch.cat([numbers + 1e6 * channel for channel in range(channels)])
    brain, label = torch.zeros(2, 1, *SHAPE)
    brain[:, 3:10, 4:8, 4:11] = 1
    brain[:, 5, 5] = 0
    label[:, 8, 4, 6] = label[:, 4, 7, 9:11] = 1
    return {"image": image, "region": brain, "label": label, "case": f"case_{first}"}


def directions_of(patch, spatial_dims, plane):
    """For each axis of a patch (C, p, p[, p]), the axis of the volume and the sense that it runs in."""
    numbers = patch[0].long()
    voxels = torch.stack(torch.unravel_index(numbers, SHAPE))  # (3, p, p[, p])
    directions = []
    for axis in range(spatial_dims):
        step = voxels.diff(dim=1 + axis).flatten(1)
        assert (step == step[:, :1]).all()  # a straight patch, one voxel a step
        (volume_axis,) = torch.nonzero(step[:, 0]).flatten().tolist()
        directions.append((volume_axis, int(step[volume_axis, 0])))
    if spatial_dims == 2:
        assert {axis for axis, _ in directions} == {0, 1, 2} - {AXES[plane]}
    return directions


def voxels_of(volume, patch):
    """The values of ``volume`` (1, H, W, D) where the voxels of a numbered patch lie."""
    return volume.flatten()[patch[0].long().flatten()]


def draw(dataset, n=300, epoch=1, **settings):
    of_spec = {key: settings.pop(key) for key in ("spatial_dims", "planes", "slices") if key in settings}
    spec = PatchSpec(settings.pop("patch_size", P), **of_spec)
    sampler = PatchSampler(dataset, spec, **{"batch_size": 1, "patches_per_epoch": n, **settings})
    sampler.set_epoch(epoch)
    return torch.cat(list(sampler))


@pytest.mark.parametrize(
    ("spatial_dims", "plane", "expected", "mirrored"),
    [
        (2, "axial", [(0, 1), (1, 1)], [(0, -1), (1, 1)]),
        (2, "coronal", [(0, 1), (2, 1)], [(0, -1), (2, 1)]),
        (2, "sagittal", [(1, 1), (2, 1)], None),  # left to right is not in the plane
        (3, "axial", [(0, 1), (1, 1), (2, 1)], [(0, -1), (1, 1), (2, 1)]),  # a cube has no plane
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_patches_are_cut_from_the_brain_beside_the_lesion(spatial_dims, plane, expected, mirrored, flip):
    case = numbered_case()
    patches = draw([case], n=400, spatial_dims=spatial_dims, planes=[plane], flip=flip)
    directions = []
    for patch in patches:
        directions.append(directions_of(patch, spatial_dims, plane))
        assert voxels_of(case["region"], patch).any()
        assert not voxels_of(case["label"], patch).any()
    if flip and mirrored:
        assert directions.count(expected) + directions.count(mirrored) == 400
        assert 150 < directions.count(mirrored) < 250  # half; five standard deviations
    else:
        assert directions.count(expected) == 400


def test_every_allowed_patch_is_drawn_and_equally_often():
    brain, label = torch.zeros(2, 1, 6, 6, 2)
    brain[:, 2:, :, 1] = 1
    label[:, 5, 5, 1] = 1
    case = {"image": torch.arange(72.0).view(1, 6, 6, 2), "region": brain, "label": label}
    patches = draw([case], n=8000, flip=False)
    corners, counts = torch.unique(patches[:, 0, 0, 0], return_counts=True)
    allowed = [(i * 6 + j) * 2 + 1 for i in range(3) for j in range(3) if (i, j) != (2, 2)]
    assert corners.tolist() == allowed
    assert (counts - 1000).abs().max() < 150  # five standard deviations


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.75, 1.0])
def test_the_least_share_of_brain_is_kept_and_reached(fraction):
    case = numbered_case()
    patches = draw([case], n=2000, min_region_fraction=fraction)
    shares = torch.stack([voxels_of(case["region"], patch).mean() for patch in patches])
    reachable = torch.arange(1, P * P + 1) / P**2
    assert float(shares.min()) == float(reachable[reachable >= fraction].min())


def sources_of(patches):
    """The number of the case (10,000 apart) times 2, and 1 more for an axial patch; the other plane is sagittal."""
    axial = patches[:, 0, 1, 0] - patches[:, 0, 0, 0] == SHAPE[1] * SHAPE[2]
    return (patches[:, 0, 0, 0] // 10_000).long() * 2 + axial.long()


@pytest.mark.parametrize(("n", "shares"), [(600, {100}), (603, {100, 101}), (4, {0, 1})])
def test_cases_and_planes_are_drawn_equally_often_whatever_their_size(n, shares):
    small = numbered_case(first=0)
    small["region"][:, :, 6:] = 0
    dataset = [small, numbered_case(first=10_000), numbered_case(first=20_000)]
    favoured = []
    for epoch in range(40):
        patches = draw(dataset, n=n, epoch=epoch, planes=["axial", "sagittal"], flip=False)
        counts = torch.bincount(sources_of(patches), minlength=6)
        assert len(counts) == 6 and set(counts.tolist()) == shares
        favoured.append(counts > counts.min())
    if len(shares) > 1:  # each source has its turn: half of the epochs or more, on average; four standard deviations
        assert (torch.stack(favoured).float().mean(dim=0) - n % 6 / 6).abs().max() < 0.32


def test_channels_are_cut_together():
    patches = draw([numbered_case(channels=3)])
    assert torch.equal(patches[:, 1], patches[:, 0] + 1e6) and torch.equal(patches[:, 2], patches[:, 0] + 2e6)


def test_the_draw_follows_seed_and_epoch_alone():
    dataset = [numbered_case(), numbered_case(10_000)]
    same = draw(dataset, seed=3, epoch=2)
    torch.manual_seed(99)
    sampler = PatchSampler(dataset, PatchSpec(P), batch_size=1, patches_per_epoch=300, seed=3)
    sampler.set_epoch(1)
    other_epoch = torch.cat(list(sampler))
    sampler.set_epoch(2)
    assert torch.equal(torch.cat(list(sampler)), same)  # after another epoch
    assert torch.equal(torch.cat(list(sampler)), same)  # again
    others = [same, other_epoch, draw(dataset, seed=4, epoch=2), draw(dataset, seed=3, epoch=3)]
    assert not any(torch.equal(a, b) for a, b in pairwise(others))


@pytest.mark.parametrize(("spatial_dims", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_batches_are_full_and_channels_last(spatial_dims, layout):
    sampler = PatchSampler([numbered_case(channels=2)], PatchSpec(P, spatial_dims), batch_size=7, patches_per_epoch=40)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 5
    for batch in batches:
        assert batch.shape == (7, 2) + (P,) * spatial_dims
        assert batch.is_contiguous(memory_format=layout)


def test_the_order_of_cases_is_shuffled():
    patches = draw([numbered_case(), numbered_case(10_000)], n=200)
    first_half = (patches[:100, 0, 0, 0] >= 10_000).sum()
    assert 25 < first_half < 75  # seven standard deviations
    assert (patches[:, 0, 0, 0] >= 10_000).sum() == 100


def test_meta_tensors_and_cases_without_label_or_with_label_none():
    case = numbered_case()
    case["label"][:] = 0
    unlabelled = {key: MetaTensor(value) for key, value in case.items() if key in ("image", "region")}
    patches = draw([unlabelled])
    assert type(patches) is torch.Tensor
    assert torch.equal(patches, draw([case])) and torch.equal(patches, draw([case | {"label": None}]))


def test_a_volume_smaller_than_a_patch_is_padded_with_zeros():
    case = {"image": torch.full((1, 2, 9, 3), 5.0), "region": torch.ones(1, 2, 9, 3)}
    patches = draw([case], flip=False)
    assert patches.shape[1:] == (1, P, P)
    assert (patches[:, :, 1:3] == 5).all() and (patches[:, :, [0, 3]] == 0).all()


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (lambda case: case["region"].zero_(), {}),
        (lambda case: case["label"].copy_(case["region"]), {}),
        (lambda case: None, {"min_region_fraction": 1.0, "patch_size": 9}),
    ],
    ids=["no brain", "all lesion", "brain too small"],
)
def test_a_case_without_a_patch_is_named(change, settings):
    cases = [numbered_case(), numbered_case(10_000)]
    change(cases[1])
    if settings:
        cases[0]["region"][:] = 1
        cases[0]["label"][:] = 0
    with pytest.raises(InputError, match="the case case_10000 has no patch"):
        draw(cases, **settings)


def test_an_empty_cohort_is_refused_at_the_first_draw():
    sampler = PatchSampler([], PatchSpec(P))
    with pytest.raises(InputError, match="there are no training cases"):
        next(iter(sampler))


def test_an_epoch_shorter_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match="patches_per_epoch=100 must be at least batch_size=128"):
        PatchSampler([numbered_case()], patches_per_epoch=100)


@pytest.mark.parametrize("name", ["batch_size", "patches_per_epoch"])
@pytest.mark.parametrize("value", [0, -4, 2.5, "64", True, None])
def test_a_count_that_counts_nothing_is_a_config_error(name, value):
    with pytest.raises(ConfigError, match=rf"{name} is {value!r}, .*whole number.* 1"):
        PatchSampler([], **{name: value})


def test_counts_of_numpy_are_taken():
    assert len(PatchSampler([], batch_size=np.int64(4), patches_per_epoch=np.int32(9))) == 2


@pytest.mark.parametrize("plane", AXES)
@pytest.mark.parametrize("slices", [3, 5])
@pytest.mark.parametrize("held_bytes", [None, 0])
def test_neighbouring_slices_are_channels_around_a_slice_in_the_region(plane, slices, held_bytes):
    case = numbered_case(first=1, channels=2)  # so that no voxel is 0
    case["region"][:] = 0
    case["region"][:, 0, 0, :6] = case["region"][:, 5:9, 4:9, 9:] = 1  # at the border, too
    axis, seen = AXES[plane], set()
    patches = draw([case], n=600, planes=[plane], slices=slices, held_bytes=held_bytes)
    assert patches.shape[1:] == (2 * slices, P, P)
    for patch in patches:
        stack = patch.unflatten(0, (slices, 2))
        middle = torch.stack(torch.unravel_index(stack[slices // 2, 0].long() - 1, SHAPE))  # (3, p, p)
        number = int(middle[axis, 0, 0])
        assert (middle[axis] == number).all() and case["region"][0][tuple(middle)].any()
        seen.add(number)
        for step, both in zip(range(-(slices // 2), slices // 2 + 1), stack, strict=True):
            there = middle.clone()
            there[axis] += step
            if 0 <= number + step < SHAPE[axis]:
                assert torch.equal(both, case["image"][(slice(None), *there)])
                assert not case["label"][0][tuple(there)].any()
            else:
                assert not both.any()
    assert len(seen) > 1


def test_every_stack_that_is_free_of_lesion_is_drawn():
    region, label = torch.zeros(2, 1, 4, 4, 9)
    region[..., 1:] = label[:, 2, 2, 4] = 1
    case = {"image": torch.arange(9.0).expand(1, 4, 4, 9) + 1, "region": region, "label": label}
    patches = draw([case], n=600, slices=3)
    stacks, counts = patches[:, :, 0, 0].unique(dim=0, return_counts=True)
    assert sorted(stacks.tolist(), key=lambda stack: stack[1]) == [
        [1, 2, 3],
        [2, 3, 4],
        [6, 7, 8],
        [7, 8, 9],
        [8, 9, 0],
    ]
    assert counts.min() > 60  # of 120; six standard deviations


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("shape", [(6, 8, 1), (8, 8, 1), (5, 8, 2)], ids=str)
def test_whole_slices_and_images_are_patches(shape, slices):
    case = {"image": torch.rand(1, *shape) + 1, "region": torch.ones(1, *shape)}
    patches = draw([case], n=50, patch_size=8, slices=slices, flip=False)
    for patch in patches:
        middle = patch[slices // 2]
        before = (8 - shape[0]) // 2
        inside = middle[before : before + shape[0]]
        assert any(torch.equal(inside, case["image"][0, ..., n]) for n in range(shape[2]))
        assert middle.sum() == pytest.approx(float(inside.sum()))


def test_whole_volumes_are_cubes():
    case = {"image": torch.rand(2, 5, 7, 3) + 1, "region": torch.ones(1, 5, 7, 3)}
    patches = draw([case], n=3, patch_size=7, spatial_dims=3, flip=False)
    assert torch.equal(patches[:, :, 1:6, :, 2:5], case["image"].expand(3, 2, 5, 7, 3))
    assert patches.count_nonzero() == 3 * case["image"].numel()

"""The same patches are drawn wherever the volumes lie: in memory, in the cache, or in a temporary file."""

from __future__ import annotations

import errno
import json
import os
import tempfile

import pytest
import torch
from monai.data import Dataset

from medanomaly.errors import InputError
from medanomaly.patches import PatchSampler, PatchSpec, volumes
from medanomaly.preprocessing import brain_mri
from medanomaly.preprocessing.arrays import ArrayOnDisk, space_of

SPECS = [
    PatchSpec(8),
    PatchSpec(8, planes=["axial", "sagittal", "coronal"]),
    PatchSpec(8, slices=3, planes="coronal"),
    PatchSpec(64),  # larger than the slices
    PatchSpec(8, 3),
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory, cohort):
    folder = cohort.parent
    listed = json.loads(cohort.read_text())
    return [
        {key: value if key == "case" else str(folder / value) for key, value in case.items()}
        for case in listed["training"] + listed["test"]
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def dataset(cases, cache):
    return Dataset(cases, brain_mri(spacing=(2.0, 2.0, 3.0), cache_dir=cache))


def sampler(data, spec=SPECS[0], held_bytes=None):
    return PatchSampler(data, spec, batch_size=10, patches_per_epoch=130, seed=1, held_bytes=held_bytes)


def places(sampler):
    return [
        "memory" if isinstance(source.volume, torch.Tensor) else "cache" if source.in_cache else "temporary"
        for source in sampler._sources
    ]


def same(a, b, epochs=(1, 2, 0)):
    for epoch in epochs:
        a.set_epoch(epoch)
        b.set_epoch(epoch)
        if not all(torch.equal(x, y) for x, y in zip(a, b, strict=True)):
            return False
    return True


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_patches_are_the_same_wherever_the_volumes_lie(spec, cases, cache):
    held = sampler(dataset(cases, cache), spec)
    size = 4 * dataset(cases, cache)[0]["image"].numel()
    prepared = [dataset(cases, None)[number] for number in range(len(cases))]
    ways = {
        "cache": sampler(dataset(cases, cache), spec, 0),
        "some": sampler(dataset(cases, cache), spec, 1.5 * size),
        "temporary": sampler(dataset(cases, None), spec, 0),
        "plain": sampler(prepared, spec, 0),
    }
    assert all(same(held, other) for other in ways.values())
    assert set(places(held)) == {"memory"}
    for name, found in (("cache", "cache"), ("temporary", "temporary"), ("plain", "temporary")):
        assert set(places(ways[name])) == {"temporary" if spec.patch_size == 64 else found}
    if spec == SPECS[0]:
        assert places(ways["some"]) == ["memory", "cache", "cache", "cache"]


def test_a_case_is_mapped_on_the_run_that_prepares_it(cases, tmp_path):
    first = sampler(dataset(cases, tmp_path), held_bytes=0)
    assert same(first, sampler(dataset(cases, None)))
    assert set(places(first)) == {"cache"}


def test_what_is_thrown_out_of_the_cache_is_prepared_once_more(cases, tmp_path):
    data = dataset(cases, tmp_path)
    mapped, held = sampler(data, held_bytes=0), sampler(data)
    assert same(mapped, held, [1])
    asked = []
    mapped.dataset = type("Counting", (), {"__getitem__": lambda self, n: asked.append(n) or data[n]})()
    for file in list(tmp_path.iterdir())[:2]:
        file.unlink()
    assert same(mapped, held, [2, 3])
    assert len(asked) == 2 and places(mapped).count("temporary") == 2


def test_a_folder_too_small_for_the_cohort_costs_time_alone(cases, tmp_path):
    data = dataset(cases, tmp_path)
    data.transform.max_bytes = 1
    small = sampler(data, held_bytes=0)
    assert same(small, sampler(dataset(cases, None)))
    assert set(places(small)) == {"temporary"}


def test_an_image_that_was_changed_after_it_was_read_is_not_mapped(cases, cache):
    def changed(case):
        case["image"][:, :20] *= 2  # in place: it still says where it was kept
        return case

    chain = brain_mri(spacing=(2.0, 2.0, 3.0), cache_dir=cache)
    data = Dataset(cases, lambda case: changed(chain(case)))
    mapped = sampler(data, held_bytes=0)
    assert same(mapped, sampler(data))
    assert set(places(mapped)) == {"temporary"}


def test_another_users_file_is_not_mapped(cases, cache, monkeypatch):
    monkeypatch.setattr("medanomaly.preprocessing.arrays.is_ours", lambda found: False)
    strange = sampler(dataset(cases, cache), held_bytes=0)
    assert same(strange, sampler(dataset(cases, None)), [1])
    assert set(places(strange)) == {"temporary"}


def test_a_case_that_changes_its_size_meanwhile_is_named(cases, tmp_path):
    data = dataset(cases, tmp_path)
    mapped = sampler(data, held_bytes=0)
    mapped.draw(10)
    for file in tmp_path.iterdir():
        file.unlink()
    mapped.dataset = [{"image": torch.ones(1, 9, 9, 9)}] * len(data)
    with pytest.raises(InputError, match=r"the case training-0 was changed while it was trained on"):
        mapped.draw(10)


def test_the_temporary_file_is_seen_by_no_one_and_air_takes_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = volumes.VolumeStore(0, "cpu")
    air = torch.zeros(2, 64, 64, 64)
    air[:, 20:30] = torch.rand(2, 10, 64, 64)
    odd = torch.rand(1, 3, 5, 7)
    kept = [store.spill(volume) for volume in (odd, air, odd + 1)]
    assert all(isinstance(one, ArrayOnDisk) for one in kept)
    for one, volume in zip(kept, (odd, air, odd + 1), strict=True):
        assert torch.equal(one.mapped(), volume)
    one = kept[0].mapped()
    one += 1  # of the tensor alone
    assert torch.equal(kept[0].mapped(), odd)
    assert list(tmp_path.iterdir()) == []
    assert space_of(os.fstat(kept[0].file.fileno())) < air.numel() * 4 / 2


def test_a_full_disk_is_named(cases, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(volumes, "write_with_holes", full)
    with pytest.raises(InputError, match=r"larger than may be held in memory, and .* No space left.*set TMPDIR"):
        sampler(dataset(cases, None), held_bytes=0).draw(10)


def test_on_a_gpu_more_is_held(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("GPU", (), {"total_memory": 2**36}))
    assert volumes.VolumeStore(None, "cuda").room == 2**34
    assert volumes.VolumeStore(None, "cpu").room == 2**29
    assert volumes.VolumeStore(7, "cuda").room == 7

"""A case from the cache is the case itself, and never that of another file or parameter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from monai.utils import TraceKeys

from medanomaly.errors import InputError
from medanomaly.preprocessing import CachedCompose, brain_mri, heatmap_to_scan
from medanomaly.preprocessing.arrays import PAGE, nonzero_stretches, space_of
from medanomaly.preprocessing.case_file import KEPT_IN, read_case, write_case
from tests.preprocessing.cached_cases import AFFINE, ANOTHER_GRID, assert_same, counting, kept, save


def back(chain, prepared, output=None):
    heatmap = torch.where(prepared["region"] > 0, prepared["image"][:1], torch.nan).as_tensor()
    return heatmap_to_scan(chain, output)({**prepared, "pred": heatmap})["pred"]


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 3.0), (1.5, 2.5, 2.0)])
@pytest.mark.parametrize("source", ["given", "nonzero"])
@pytest.mark.parametrize("keys", [("image", "region", "label", "case"), ("image", "region")])
def test_a_hit_equals_a_miss_and_no_cache(case, folder, spacing, source, keys):
    case = {key: case[key] for key in keys}
    plain, (cached, prepared) = (
        brain_mri(None, spacing, source),
        counting(brain_mri(None, spacing, source, cache_dir=folder)),
    )
    expected, miss, hit = plain(case), cached(case), cached(case)
    assert len(prepared) == len(kept(folder)) == 1
    assert_same(miss, expected)
    assert_same(hit, expected)
    heatmaps = [back(*pair) for pair in ((plain, expected), (cached, miss), (cached, hit), (plain, hit))]
    for heatmap in heatmaps:
        assert heatmap.shape[1:] == nib.load(case["image"][0]).shape
        np.testing.assert_allclose(heatmap.affine, AFFINE, atol=1e-5)
        assert heatmap.numpy().tobytes() == heatmaps[0].numpy().tobytes()


def test_another_process_finds_it_and_brings_a_heatmap_back_to_the_scan(case, folder, tmp_path):
    arguments = "None, (1.5, 2.5, 2.0), 'given'"
    script = (
        f"from medanomaly.preprocessing import brain_mri; brain_mri({arguments}, cache_dir={str(folder)!r})({case})"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
    chain, prepared = counting(brain_mri(None, (1.5, 2.5, 2.0), "given", cache_dir=folder))
    plain = brain_mri(None, (1.5, 2.5, 2.0), "given")
    found, expected = chain(case), plain(case)
    assert prepared == []
    assert_same(found, expected)
    back(chain, found, tmp_path / "out")
    written = nib.load(tmp_path / "out" / "a" / "a_heatmap.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), back(plain, expected)[0].numpy())


@pytest.mark.parametrize("name", ["image", "region", "label"])
def test_another_content_with_name_size_and_time_of_the_old_is_a_miss(case, folder, name):
    case["image"] = [save(path.replace(".nii.gz", ".nii"), nib.load(path).get_fdata()) for path in case["image"]]
    case["region"] = save(Path(case["region"]).with_suffix(""), nib.load(case["region"]).get_fdata(), ANOTHER_GRID)
    chain, prepared = counting(brain_mri(cache_dir=folder))
    before = chain(case)
    file = Path(case[name][1] if name == "image" else case[name])
    earlier, content = file.stat(), bytearray(file.read_bytes())
    at = len(content) // 2
    content[at : at + 800] = content[at : at + 800][::-1]  # another order of the voxels
    file.write_bytes(content)
    os.utime(file, ns=(earlier.st_atime_ns, earlier.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (earlier.st_size, earlier.st_mtime_ns)
    after = chain(case)
    assert len(prepared) == len(kept(folder)) == 2
    assert not torch.equal(before[name].as_tensor(), after[name].as_tensor())
    assert_same(after, brain_mri()(case))


@pytest.mark.parametrize(
    "changed",
    [
        {"spacing": (1.0, 1.0, 2.0)},
        {"spacing": None},
        {"in_channels": 2},
        {"percentiles": (1.0, 99.0)},
        {"clip": True},
        {"region": "nonzero"},
        {"quartiles": [[0.3, 0.5, 0.7]] * 2},
    ],
    ids=str,
)
def test_another_parameter_is_a_miss(case, folder, changed):
    brain_mri(cache_dir=folder)(case)
    chain, prepared = counting(brain_mri(**changed, cache_dir=folder))
    assert_same(chain(case), brain_mri(**changed)(case))
    assert len(prepared) == 1


def test_other_files_of_the_case_are_a_miss(case, folder):
    chain, prepared = counting(brain_mri(cache_dir=folder))
    chain(case)
    for other in (
        {key: case[key] for key in ("image", "region")},
        {"image": case["image"][::-1], "region": case["region"]},
        {"image": case["image"], "region": case["label"]},
    ):
        assert_same(chain(other), brain_mri()(other))
    assert len(prepared) == 4
    chain({**case, "case": "another id"})
    assert len(prepared) == 4, "an id is no content"


def test_a_copy_of_a_file_keeps_its_own_name(case, folder, tmp_path):
    chain = brain_mri(cache_dir=folder)
    chain(case)
    shutil.copytree(tmp_path / "scan", tmp_path / "copy")
    copied = {"image": [path.replace("/scan/", "/copy/") for path in case["image"]], "region": case["region"]}
    assert chain(copied)["image"].meta["filename_or_obj"] == copied["image"][0]


def test_a_changed_brain_extractor_is_a_miss(case, folder, tmp_path):
    script = "import sys, nibabel as nib; i = nib.load(sys.argv[1]); a = i.get_fdata() > {}; "
    script += "nib.save(nib.Nifti1Image(a.astype('u1'), i.affine), sys.argv[2])"
    extractor, scan = tmp_path / "extract.py", {"image": case["image"]}
    chain, prepared = counting(brain_mri(region=f"{sys.executable} {extractor} {{image}} {{mask}}", cache_dir=folder))
    sizes = []
    for threshold in (90, 90, 110):
        extractor.write_text(script.format(threshold))
        sizes.append(int(chain(scan)["scan_region"].sum()))
    assert sizes[0] == sizes[1] > sizes[2]
    assert len(prepared) == 2


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:200] + b"x" + b[201:]])
def test_an_entry_that_is_damaged_is_made_anew(case, folder, damage):
    chain, prepared = counting(brain_mri(cache_dir=folder))
    expected = chain(case)
    (entry,) = kept(folder)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert_same(chain(case), expected)
    assert_same(chain(case), expected)
    assert len(prepared) == 2
    assert kept(folder) == [entry]
    assert len(entry.read_bytes()) == len(whole)


def test_what_cannot_be_told_from_its_path_is_never_kept(case, folder, tmp_path):
    masked = brain_mri(region=lambda image: image[0] > 50, cache_dir=folder)
    assert not isinstance(masked, CachedCompose)
    masked(case)
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.pad(np.ones((7, 6, 5), np.float32), 1)), str(tmp_path / "mask.mhd")
    )
    brain_mri(cache_dir=folder)(case)
    assert len(kept(folder)) == 1
    with pytest.raises(Exception, match="applying transform"):  # constant, but read: its voxels are in mask.raw
        brain_mri(cache_dir=folder, region="nonzero")({"image": [str(tmp_path / "mask.mhd")]})
    assert brain_mri(cache_dir=folder)._key({"image": [str(tmp_path / "mask.mhd")]}) is None


def test_a_folder_of_slices_is_known_by_all_its_files(folder, tmp_path):
    (tmp_path / "series").mkdir()
    keys = set()
    for name, content in (("1.dcm", b"first"), ("2.dcm", b"second"), ("1.dcm", b"other"), ("2.dcm", b"first")):
        (tmp_path / "series" / name).write_bytes(content)
        keys.add(brain_mri(cache_dir=folder)._key({"image": [str(tmp_path / "series")]}))
    assert len(keys) == 4
    assert None not in keys


def test_a_file_that_is_changed_while_it_is_read_is_not_kept(case, folder):
    chain = brain_mri(cache_dir=folder)
    read, *others = chain.transforms
    chain.transforms = (lambda data: save(case["label"], np.zeros((14, 13, 9), np.uint8)) and read(data), *others)
    assert not chain(case)["label"].any()
    assert kept(folder) == []
    chain(case)
    assert len(kept(folder)) == 1


def test_an_error_is_as_plain_as_without_a_cache_and_leaves_nothing(case, folder):
    Path(case["image"][1]).write_bytes(b"\x1f\x8b\x08\x00")
    for wrong in (case, {**case, "image": ["no-such-file.nii.gz"]}):
        with pytest.raises(Exception, match="applying transform") as caught:
            brain_mri(cache_dir=folder)(wrong)
        assert isinstance(caught.value.__cause__, InputError)
        assert "cannot be read as an image" in str(caught.value.__cause__)
    assert kept(folder) == []


def test_an_image_can_be_mapped_from_its_entry_on_a_miss_and_on_a_hit(case, folder):
    chain = brain_mri(cache_dir=folder)
    for found in (chain(case), chain(case)):
        mapped = getattr(found["image"], KEPT_IN).mapped()
        assert torch.equal(mapped, found["image"].as_tensor())
        mapped += 1  # of the tensor alone
    assert_same(chain(case), brain_mri()(case))
    mapped = getattr(found["image"], KEPT_IN).mapped()
    kept(folder)[0].unlink()
    assert torch.equal(mapped, found["image"].as_tensor())  # what is mapped lives on


def test_nothing_is_a_pickle(case, folder, monkeypatch):
    expected = brain_mri(cache_dir=folder)(case)
    for name in ("pickle.loads", "pickle.load", "torch.load"):
        monkeypatch.setattr(name, lambda *arguments: pytest.fail("it was unpickled"))
    assert_same(brain_mri(cache_dir=folder)(case), expected)


def test_metadata_come_back_with_their_types(tmp_path):
    meta = {
        "affine": torch.eye(4, dtype=torch.float64),
        1: (1, [2.5, float("nan"), (None, True)], {"a": {"b": ()}}),
        "numbers": [
            np.float32(0.1),
            np.int16(3),
            np.arange(6, dtype=">i2").reshape(2, 3),
            np.array(7.0),
            np.zeros((0, 2)),
        ],
        "tensor": torch.tensor(True),
        "name": "Grüße\n",
        "kind": TraceKeys.NONE,
    }
    image = MetaTensor(torch.rand(1, 2, 3, 4), meta=meta, applied_operations=[{TraceKeys.ID: 5, "extra_info": meta}])
    image.is_batch = True
    made = {"image": image, "mask": MetaTensor(torch.ones(1, 2, 3, 4)), "plain": torch.tensor([[True, False, True]])}
    write_case(made, tmp_path / "a.case")
    assert_same(read_case(tmp_path / "a.case"), made)


def test_metadata_that_cannot_be_kept_are_warned_of_and_the_case_is_whole(case, folder):
    chain = brain_mri(cache_dir=folder)

    def strange(data):
        data["image"].meta["reader"] = object()
        return data

    chain.transforms = (*chain.transforms, strange)
    with pytest.warns(UserWarning, match="prepared cases are not kept, .*metadata with a object cannot be kept"):
        found = chain(case)
    assert kept(folder) == [] and torch.equal(found["image"], brain_mri()(case)["image"])


def test_air_takes_no_space(tmp_path):
    image = torch.zeros(1, 64, 64, 64)
    image[:, 20:25] = torch.rand(1, 5, 64, 64)
    write_case({"image": image, "region": image > 0}, tmp_path / "a.case")
    found = (tmp_path / "a.case").stat()
    assert space_of(found) < 2 * 5 * 64 * 64 * 4 < found.st_size
    assert torch.equal(read_case(tmp_path / "a.case")["image"], image)


@pytest.mark.parametrize("size", [1, 7, PAGE, PAGE + 1, 5 * PAGE, 5 * PAGE + 9])
def test_stretches_hold_all_that_is_not_zero(size):
    content = np.zeros(size, np.uint8)
    content[[0, size // 2]] = 1
    again = np.zeros_like(content)
    for start, values in nonzero_stretches(content):
        again[start : start + len(values)] = values
    assert np.array_equal(again, content)
    assert sum(len(values) for _, values in nonzero_stretches(np.zeros(5 * PAGE, np.uint8))) == 0


def test_short_gaps_part_no_stretches():
    content = np.zeros(12 * PAGE, np.uint8)
    content[np.array([1, 3, 7, 8, 11]) * PAGE] = 1
    found = [(start // PAGE, len(values) // PAGE) for start, values in nonzero_stretches(content, 2 * PAGE)]
    assert found == [(1, 3), (7, 2), (11, 1)]


@pytest.mark.parametrize("damage", ["in air", "longer"])
def test_damage_where_there_was_nothing_is_found(case, folder, damage):
    chain, prepared = counting(brain_mri(cache_dir=folder))
    expected = chain(case)
    (entry,) = kept(folder)
    content = bytearray(entry.read_bytes())
    content = content + b"\0" * PAGE if damage == "longer" else content[:-1] + b"\1"
    entry.write_bytes(content)
    assert_same(chain(case), expected)
    assert len(prepared) == 2

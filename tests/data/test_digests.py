"""A scan is told by its voxels, not by its name, its header or its compression."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medanomaly.data import digests
from medanomaly.data.digests import case_digests, scan_digest
from medanomaly.errors import InputError
from tests.data.made_dicom import slices_of, write_slices

VOXELS = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def saved(path: Path, array: np.ndarray = VOXELS, kind: type = nib.Nifti1Image, affine: float = 1.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(kind(array, np.diag([affine, 1, 1, 1])), path)
    return path


def test_it_is_the_hash_of_shape_and_voxels(tmp_path: Path) -> None:
    expected = hashlib.sha256(b"(5, 6, 7)" + VOXELS.tobytes(order="F")).hexdigest()
    assert scan_digest(saved(tmp_path / "a.nii")) == expected


def test_the_same_voxels_are_the_same_scan(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.nii.gz")
    (tmp_path / "plain.nii").write_bytes(gzip.decompress(first.read_bytes()))
    (tmp_path / "weak.nii.gz").write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), 1))
    (tmp_path / "misnamed.nii.gz").write_bytes(gzip.decompress(first.read_bytes()))
    others = [tmp_path / name for name in ("plain.nii", "weak.nii.gz")]
    others += [saved(tmp_path / "b.nii", affine=2.0), saved(tmp_path / "c.nii", VOXELS[..., None])]
    others += [saved(tmp_path / "d.nii.gz", kind=nib.Nifti2Image)]
    assert {scan_digest(path) for path in others} == {scan_digest(first)}
    scan_digest(tmp_path / "misnamed.nii.gz")  # no reader takes it, and it is no error here


def test_other_voxels_are_another_scan(tmp_path: Path) -> None:
    changed = VOXELS.copy()
    changed[-1, -1, -1] += 1e-6
    arrays = [VOXELS, changed, VOXELS.reshape(6, 5, 7, order="F"), VOXELS.astype(np.float64)]
    assert len({scan_digest(saved(tmp_path / f"{n}.nii.gz", array)) for n, array in enumerate(arrays)}) == 4


def test_a_broken_file_is_told_by_its_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:300])
    assert scan_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=r"none\.nii cannot be read"):
        scan_digest(tmp_path / "none.nii")


def test_a_series_is_told_by_its_files_whatever_they_are_called(tmp_path: Path) -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    for folder, values, name in (("a", volume, "x"), ("b", volume, "y"), ("c", volume + 1, "x")):
        write_slices(tmp_path / folder, slices_of(values, np.eye(4)), name)
    a, b, c = (scan_digest(tmp_path / folder) for folder in "abc")
    assert a == b != c


def test_a_header_alone_is_no_scan(tmp_path: Path) -> None:
    """Two subjects may have the same .hdr or .mhd, and voxels of their own in a second file."""
    for folder, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mhd").write_text("same")
        (tmp_path / folder / "x.raw").write_bytes(content)
    a, b, c = (scan_digest(tmp_path / folder / "x.mhd") for folder in "abc")
    assert a == c != b


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    stream = digests._stream_digest
    monkeypatch.setattr(digests, "_stream_digest", lambda path, *rest: read.append(path) or stream(path, *rest))
    path = str(saved(tmp_path / "a.nii.gz"))
    cases = [{"case": "a", "image": [path, path], "region": path}, {"case": "b", "image": [path]}]
    found = case_digests(cases, ("image", "region"))
    assert found["a"]["image"] == [scan_digest(path)] * 2 and found["b"] == {"image": [scan_digest(path)]}
    assert len(read) == 1
    saved(tmp_path / "a.nii.gz", VOXELS + 1)
    assert scan_digest(path) != found["b"]["image"][0] and len(read) == 2

"""Small made data that several test folders share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

# Helpers that several files share: a failure in them shows its values, as one in a test does.
pytest.register_assert_rewrite(
    "tests.patches.heatmap_by_loop", "tests.preprocessing.cached_cases", "tests.training.small_trainings"
)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory):
    """No test reads or fills the cache of the person who runs it; commands that a test starts inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDANOMALY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _element(tag: int, kind: str, value: bytes | str | int | float) -> bytes:
    """One element of a DICOM file, explicit VR, little endian."""
    if isinstance(value, str):
        value = value.encode()
    elif isinstance(value, int):
        value = value.to_bytes(4 if kind == "UL" else 2, "little")
    value += (b"\0" if kind in ("UI", "OW") else b" ") * (len(value) % 2)
    size = bytes(2) + len(value).to_bytes(4, "little") if kind == "OW" else len(value).to_bytes(2, "little")
    return (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + kind.encode() + size + value


def write_radiograph(
    path: Path,
    pixels: np.ndarray,
    photometric: str,
    spacing: tuple[float, float] | None = None,
    rescale: tuple[float, float] | None = None,
) -> Path:
    """A DICOM file (DX) of ``pixels`` (rows, columns) of 8 or 16 bits; spacing between rows and columns in mm."""
    bits, signed = 8 * pixels.dtype.itemsize, int(pixels.dtype.kind == "i")
    kind, syntax = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.1"
    meta = _element(0x20002, "UI", kind) + _element(0x20003, "UI", "1.2.3.4") + _element(0x20010, "UI", syntax)
    body = [(0x80016, "UI", kind), (0x80018, "UI", "1.2.3.4"), (0x80060, "CS", "DX")]
    if spacing is not None:
        body.append((0x181164, "DS", "\\".join(map(str, spacing))))
    body += [(0x20000D, "UI", "1.2.3.5"), (0x20000E, "UI", "1.2.3.6")]
    body += [(0x280002, "US", 1), (0x280004, "CS", photometric)]
    body += [(0x280010, "US", pixels.shape[0]), (0x280011, "US", pixels.shape[1])]
    body += [(0x280100, "US", bits), (0x280101, "US", bits), (0x280102, "US", bits - 1), (0x280103, "US", signed)]
    if rescale is not None:
        body += [(0x281052, "DS", str(rescale[1])), (0x281053, "DS", str(rescale[0]))]
    body.append((0x7FE00010, "OW", pixels.tobytes()))
    elements = b"".join(_element(*element) for element in body)
    path.write_bytes(bytes(128) + b"DICM" + _element(0x20000, "UL", len(meta)) + meta + elements)
    return path


@pytest.fixture(scope="session")
def radiograph_writer() -> Callable[..., Path]:
    """``write_radiograph``."""
    return write_radiograph


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def write_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def make_cohort(
    folder: Path,
    n_channels: int = 1,
    sections: tuple[tuple[str, int], ...] = (("training", 2), ("validation", 1), ("test", 2), ("mixed", 2)),
) -> Path:
    """Textured ellipsoids of 40 x 44 x 20 voxels of 2 mm, LAS and oblique.

    The last test case has a bright lesion, and so has the last mixed one, of which nobody says so.
    """
    rng = np.random.default_rng(0)
    shape = (40, 44, 20)
    grid = np.indices(shape).astype(float)
    brain = sum(((g - (s - 1) / 2) / (0.42 * s)) ** 2 for g, s in zip(grid, shape, strict=True)) < 1
    angle = np.deg2rad(6)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) @ np.diag([-2, 2, 3])
    affine[:3, 3] = (40, -44, -30)
    datalist: dict[str, list[dict]] = {}
    for section, count in sections:
        for number in range(count):
            case = f"{section}-{number}"
            lesion = np.zeros(shape, bool)
            if section in ("test", "mixed") and number == count - 1:
                lesion = ((grid - np.array([20, 22, 10])[:, None, None, None]) ** 2).sum(0) < 16
            files = []
            for channel in range(n_channels):
                image = 100 + 20 * np.sin(grid[0] / 3 + number) * np.cos(grid[1] / 4) + rng.normal(0, 2, shape)
                image[lesion] += 150
                files.append(f"{case}/image{channel}.nii.gz")
                write_nifti((image * brain).astype(np.float32), affine, folder / files[-1])
            write_nifti(brain.astype(np.uint8), affine, folder / case / "brain.nii.gz")
            write_nifti((lesion & brain).astype(np.uint8), affine, folder / case / "label.nii.gz")
            entry = {"case": case, "image": files if n_channels > 1 else files[0], "region": f"{case}/brain.nii.gz"}
            if section == "test":
                entry["label"] = f"{case}/label.nii.gz"
            datalist.setdefault(section, []).append(entry)
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder / "datalist.json"


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datalist of a cohort of one channel."""
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def cohort_maker() -> Callable[..., Path]:
    """``make_cohort``, for a test that needs a cohort of its own."""
    return make_cohort

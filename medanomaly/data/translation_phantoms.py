"""Made heads of two kinds, CT-like and MR-like, with labels and known MR edges: a known answer for translation."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

CLASSES = ("background", "bone", "grey", "white", "fluid")
# signal of each class: bone is bright on CT and dark on MR, and white matter hardly differs from grey on CT
SIGNALS = {"ct": (0.0, 1.0, 0.50, 0.44, 0.20), "mr": (0.0, 0.20, 0.60, 0.95, 0.40)}
NOISE = {"ct": 0.05, "mr": 0.03}
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])  # mm


def make_head(kind: str, rng: np.random.Generator, side: int = 64, slices: int = 4) -> tuple[Array, NDArray[np.uint8]]:
    """An image of ``kind`` ("ct" or "mr") and its labels, (side, side, slices) each; indices into ``CLASSES``.

    Skull, cortex, white matter and ventricles are ellipses with wavy borders; each head has its own.
    """
    x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    wide, high, tilt = rng.uniform(0.68, 0.80), rng.uniform(0.78, 0.90), rng.uniform(-0.2, 0.2)
    waves = rng.uniform(0, 2 * np.pi, 4)
    labels = np.zeros((side, side, slices), np.uint8)
    for number in range(slices):
        size = 1 - 0.04 * abs(number - slices / 2)
        u, v = (x * np.cos(tilt) + y * np.sin(tilt)) / wide, (y * np.cos(tilt) - x * np.sin(tilt)) / high
        radius, angle = np.hypot(u, v) / size, np.arctan2(v, u)
        labels[..., number][radius < 1.0] = 1
        labels[..., number][radius < 0.87] = 2
        fold = 0.62 + 0.06 * np.sin(5 * angle + waves[0]) + 0.04 * np.sin(8 * angle + waves[1] + number / 4)
        labels[..., number][radius < fold] = 3
        for side_of in (-1, 1):
            centre_u, centre_v = 0.2 * side_of, 0.1 * np.sin(waves[2])
            labels[..., number][((u - centre_u) / 0.12) ** 2 + ((v - centre_v) / 0.3) ** 2 < size] = 4
    signal = np.asarray(SIGNALS[kind])[labels]
    image = signal + rng.normal(0, NOISE[kind], labels.shape)
    return np.clip(image, 0, None).astype(np.float32), labels


def edges_of(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Voxels on either side of a border between two classes within a slice: where an MR of these labels has edges."""
    return np.asarray(ndimage.maximum_filter(labels, (3, 3, 1)) != ndimage.minimum_filter(labels, (3, 3, 1)))


def make_phantoms(
    folder: str | Path, n_source: int = 6, n_target: int = 8, n_validation: int = 2, n_test: int = 3, seed: int = 0
) -> Path:
    """Write heads as NIfTI and their datalist: CT-like with labels, and, of other heads, MR-like ones.

    Args:
        folder: files are ``CASE/{image,label,region}.nii.gz`` and ``datalist.json``.
        n_source, n_target: under ``training`` (CT) and ``target`` (MR).
        n_validation, n_test: further CT.
        seed: the same seed makes the same heads.

    Returns:
        The path of the datalist.
    """
    folder = Path(folder)
    counts = {"training": n_source, "target": n_target, "validation": n_validation, "test": n_test}
    content: dict[str, list[dict[str, str]]] = {section: [] for section in counts}
    for number, (section, count) in enumerate(counts.items()):
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            image, labels = make_head("mr" if section == "target" else "ct", rng)
            case = f"{section}-{index}"
            (folder / case).mkdir(parents=True, exist_ok=True)
            head = (labels > 0).astype(np.uint8)
            for name, array in {"image": image, "label": labels, "region": head}.items():
                nib.save(nib.Nifti1Image(array, AFFINE), folder / case / f"{name}.nii.gz")
            entry = {"case": case, "image": f"{case}/image.nii.gz", "region": f"{case}/region.nii.gz"}
            content[section].append(entry if section == "target" else {**entry, "label": f"{case}/label.nii.gz"})
    datalist = folder / "datalist.json"
    datalist.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return datalist

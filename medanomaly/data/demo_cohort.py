"""A small made cohort from the ICBM152 template: healthy brains to learn from, brains with known lesions to find.

Everything is made from the tissue maps that nilearn carries (ICBM152 2009a, Fonov et al., NeuroImage 2011), so the demo
needs no download. A made brain is simpler than a real one: the cohort shows that the flow works from end to end and
that a detector learns, not how well it would do in a clinic.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medanomaly.terminal import progress

Array = NDArray[np.float32]

# Signal of (grey matter, white matter, CSF), in units of white matter. On FLAIR, CSF is dark and cortex the brightest.
CONTRASTS = {"flair": (1.25, 1.0, 0.25), "t1": (0.68, 1.0, 0.30)}
# Signal of a lesion in units of the white matter around it, for each channel; shapes and sizes do not differ.
LESION_KINDS = {"bright": {"flair": 1.75, "t1": 0.75}, "dark": {"flair": 0.45, "t1": 0.60}}
LESION_RADIUS_MM = (4.0, 9.0)
LESIONS_PER_KIND = (2, 4)

# (axis codes, spacing in mm, rotation about x, y, z in degrees): what scanners really write.
GRIDS = (
    ("RAS", (1.5, 1.5, 3.0), (0.0, 0.0, 0.0)),
    ("LPS", (1.6, 1.6, 2.5), (8.0, -4.0, 5.0)),
    ("PSR", (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)),
    ("LAS", (1.4, 1.4, 3.5), (-10.0, 3.0, 0.0)),
    ("ASR", (1.8, 1.5, 2.0), (4.0, 6.0, -7.0)),
)


@dataclass(frozen=True)
class Subject:
    """One made subject: images per channel, brain mask and lesion labels (0 none, 1 bright, 2 dark) on one grid."""

    images: dict[str, Array]
    brain: NDArray[np.uint8]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]


def make_demo_cohort(
    folder: str | Path, n_training: int = 8, n_validation: int = 3, n_test: int = 8, seed: int = 0
) -> Path:
    """Write a cohort as NIfTI files and its datalist; half of the test subjects have lesions, all others are healthy.

    Args:
        folder: where to write; files are ``<subject>/{flair,t1,brain,label}.nii.gz`` and ``datalist.json``.
        n_training, n_validation, n_test: numbers of subjects in each section.
        seed: the same seed makes the same cohort.

    Returns:
        The path of the datalist. It is written last, so its presence means that the cohort is complete.
    """
    folder = Path(folder)
    sections: dict[str, list[dict[str, object]]] = {"training": [], "validation": [], "test": []}
    names = ["training"] * n_training + ["validation"] * n_validation + ["test"] * n_test
    tissue = _load_tissue_maps()

    def make(index: int) -> dict[str, object]:
        """Write a subject; its entry in the datalist. What it is comes from the seed and its number alone."""
        with_lesions = names[index] == "test" and index % 2 == (len(names) - 1) % 2
        subject = make_subject(tissue, np.random.default_rng([seed, index]), GRIDS[index % len(GRIDS)], with_lesions)
        case = f"demo-{index + 1:02d}"
        (folder / case).mkdir(parents=True, exist_ok=True)
        for name, array in {**subject.images, "brain": subject.brain, "label": subject.label}.items():
            image = nib.Nifti1Image(array, subject.affine)
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, folder / case / f"{name}.nii.gz")
        entry: dict[str, object] = {
            "case": case,
            "image": [f"{case}/{name}.nii.gz" for name in CONTRASTS],
            "region": f"{case}/brain.nii.gz",
        }
        if names[index] == "test":
            entry["label"] = f"{case}/label.nii.gz"
        return entry

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy and scipy let go of the interpreter
        made = pool.map(make, range(len(names)))
        for section, entry in zip(names, progress(made, "making subjects", len(names)), strict=True):
            sections[section].append(entry)
    datalist = folder / "datalist.json"
    datalist.write_text(
        json.dumps({"description": "made by medanomaly demo", "seed": seed, **sections}, indent=2), encoding="utf-8"
    )
    return datalist


def make_subject(
    tissue: dict[str, Array],
    rng: np.random.Generator,
    grid: tuple[str, tuple[float, float, float], tuple[float, float, float]] = GRIDS[0],
    with_lesions: bool = False,
) -> Subject:
    """One brain: the template's tissues, smoothly warped, sampled on ``grid``, with contrast, bias field and noise.

    Args:
        tissue: maps ``gm``, ``wm`` and ``brain`` on the 1 mm grid of the template, from :func:`_load_tissue_maps`.
        rng: the only source of randomness.
        grid: axis codes, spacing (mm) and rotation (degrees) of the scan.
        with_lesions: put 2 to 4 bright and 2 to 4 dark lesions of 4 to 9 mm radius into the white matter.
    """
    affine, shape = _scan_grid(*grid)
    world = _world_coordinates(affine, shape)
    warped = world + np.stack([_smooth_field(world, rng, spacing=35.0, sd=3.0) for _ in range(3)])
    voxels = warped + np.array([98.0, 134.0, 72.0], dtype=np.float32)[:, None, None, None]
    gm, wm, mask = (ndimage.map_coordinates(tissue[key], voxels, order=1) for key in ("gm", "wm", "brain"))
    brain = mask > 0.5
    wm, gm = np.clip(wm, 0, 1), np.clip(gm, 0, 1)
    csf = np.clip(1 - gm - wm, 0, 1)

    label = np.zeros(shape, np.uint8)
    lesion_fraction = dict.fromkeys(LESION_KINDS, np.zeros(shape, np.float32))
    if with_lesions:
        for value, kind in enumerate(LESION_KINDS, start=1):
            fraction = np.minimum(_lesions(world, wm, label, rng), wm)
            lesion_fraction[kind] = fraction
            label[(fraction > 0.5) & brain & (label == 0)] = value

    images = {}
    for channel, (signal_gm, signal_wm, signal_csf) in CONTRASTS.items():
        jitter = 1 + 0.04 * rng.standard_normal(3)
        signal = gm * signal_gm * jitter[0] + wm * signal_wm * jitter[1] + csf * signal_csf * jitter[2]
        for kind, factor in LESION_KINDS.items():
            signal += lesion_fraction[kind] * signal_wm * jitter[1] * (factor[channel] - 1)
        signal *= 1 + 0.03 * _smooth_field(world, rng, spacing=12.0, sd=1.0)  # tissue is not flat
        signal *= np.exp(0.08 * _smooth_field(world, rng, spacing=70.0, sd=1.0))  # bias field
        noise = 0.03 * rng.standard_normal((2, *shape), dtype=np.float32)
        scale = rng.uniform(200, 1500)  # MR intensities have no unit
        images[channel] = (np.hypot(signal * brain + noise[0], noise[1]) * scale).astype(np.float32)  # Rician
    return Subject(images, brain.astype(np.uint8), label, affine)


def _load_tissue_maps() -> dict[str, Array]:
    """Grey matter, white matter and brain mask of ICBM152 2009a at 1 mm, from nilearn's own package data."""
    from nilearn import datasets

    maps = {
        "gm": datasets.load_mni152_gm_template(resolution=1),
        "wm": datasets.load_mni152_wm_template(resolution=1),
        "brain": datasets.load_mni152_brain_mask(resolution=1),
    }
    return {key: np.asarray(image.dataobj, dtype=np.float32) for key, image in maps.items()}


def _scan_grid(
    codes: str, spacing: tuple[float, float, float], rotation: tuple[float, float, float]
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Affine and shape of a scan that holds the template's head: 160 x 200 x 176 mm about its centre."""
    from scipy.spatial.transform import Rotation

    extent = np.array([160.0, 200.0, 176.0])
    ornt = nib.orientations.axcodes2ornt(tuple(codes))
    axes = ornt[:, 0].astype(int)
    direction = np.zeros((3, 3))
    direction[axes, range(3)] = ornt[:, 1]
    direction = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ direction
    shape = tuple(int(n) for n in np.ceil(extent[axes] / np.asarray(spacing)))
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(spacing)
    affine[:3, 3] = np.array([0.0, -18.0, 8.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def _world_coordinates(affine: NDArray[np.float64], shape: tuple[int, ...]) -> Array:
    """RAS coordinates in mm of every voxel: (3, H, W, D)."""
    indices = np.indices(shape, dtype=np.float32)
    world = np.tensordot(affine[:3, :3], indices, axes=1) + affine[:3, 3][:, None, None, None]
    return np.asarray(world, dtype=np.float32)


def _smooth_field(world: Array, rng: np.random.Generator, spacing: float, sd: float) -> Array:
    """Random values on a lattice in world space, ``spacing`` mm apart, interpolated by cubic splines: (H, W, D)."""
    low = world.reshape(3, -1).min(axis=1)
    size = np.ceil((world.reshape(3, -1).max(axis=1) - low) / spacing).astype(int) + 2
    lattice = (rng.standard_normal(tuple(size)) * sd).astype(np.float32)
    coordinates = (world - low[:, None, None, None]) / spacing
    return np.asarray(ndimage.map_coordinates(lattice, coordinates, order=3, mode="nearest"), dtype=np.float32)


def _lesions(world: Array, wm: Array, taken: NDArray[np.uint8], rng: np.random.Generator) -> Array:
    """Volume fraction (0 to 1) of a few blobs in deep white matter, clear of those already ``taken``: (H, W, D)."""
    fraction = np.zeros(wm.shape, np.float32)
    candidates = np.flatnonzero((wm > 0.95) & (ndimage.maximum_filter(taken, 9) == 0))
    for centre in rng.choice(candidates, rng.integers(LESIONS_PER_KIND[0], LESIONS_PER_KIND[1] + 1), replace=False):
        offset = world - world.reshape(3, -1)[:, centre][:, None, None, None]
        stretch = rng.uniform(0.75, 1.25, size=3)[:, None, None, None]
        distance = np.sqrt(((offset / stretch) ** 2).sum(axis=0))
        radius = rng.uniform(*LESION_RADIUS_MM) + _smooth_field(world, rng, spacing=8.0, sd=0.8)
        fraction = np.maximum(fraction, 1 / (1 + np.exp(np.clip((distance - radius) / 0.5, -30, 30))))
    return fraction

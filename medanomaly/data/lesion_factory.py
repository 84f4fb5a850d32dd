"""Made lesions in healthy volumes: settings are chosen on them, and never on the patients that are reported.

Shapes are those of real lesions (masks, without their images) or made ones; place, turn, size, contrast and texture
are drawn at random. A lesion is brighter or darker than the tissue that it replaces, by a number of that tissue's
standard deviations, and fades at its border, as partial volume does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from medanomaly.errors import ConfigError, InputError

Mask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]

LEAST_INSIDE = 0.95  # share of a lesion's voxels that must be brain
SHAPES_TRIED, PLACES_TRIED = 10, 50  # for a lesion, and for a shape, before it is given up


@dataclass(frozen=True)
class LesionFactory:
    """Puts lesions of random kinds into a volume.

    Args:
        shapes: masks (h, w, d) of single lesions, one voxel a millimetre.
        n_lesions: lesions a volume.
        contrast: least and most contrast, in standard deviations of the tissue under the lesion.
        signs: 1 for brighter, -1 for darker; drawn for each lesion and channel.
        scale: least and most factor on a shape's size.
        border_mm: standard deviation of the Gaussian that softens the border.
        texture: most standard deviation of the lesion's own texture, relative to the tissue's.

    Raises:
        ConfigError: if there is no shape, or a range is not one.
    """

    shapes: Sequence[Mask]
    n_lesions: int = 8
    contrast: tuple[float, float] = (1.0, 3.0)
    signs: Sequence[int] = (-1, 1)
    scale: tuple[float, float] = (0.7, 1.5)
    border_mm: float = 0.7
    texture: float = 1.0

    def __post_init__(self) -> None:
        if len(self.shapes) == 0:
            raise ConfigError("a lesion factory needs at least one shape: see shapes_from_masks and made_shapes.")
        for name, (least, most) in {"contrast": self.contrast, "scale": self.scale}.items():
            if not 0 < least <= most:
                raise ConfigError(f"{name} is {least} to {most}, but it runs from a positive number to a larger one.")
        if self.n_lesions < 1:
            raise ConfigError(f"n_lesions is {self.n_lesions}: ask for at least 1.")
        if not set(self.signs) <= {-1, 1} or not self.signs:
            raise ConfigError(f"signs is {tuple(self.signs)}: give 1 (brighter), -1 (darker) or both.")

    def __call__(
        self, image: Floats, brain: Mask, spacing: Sequence[float], rng: np.random.Generator, avoid: Mask | None = None
    ) -> tuple[Floats, NDArray[np.int8]]:
        """A copy of ``image`` with lesions, and where they are.

        Args:
            image: (C, H, W, D).
            brain: (H, W, D).
            spacing: voxel size in mm.
            rng: what draws.
            avoid: (H, W, D), where no lesion may lie: real lesions.

        Returns:
            The image (C, H, W, D), and a map (H, W, D): 1 where a lesion is brighter in the first channel, -1 where it
            is darker, 0 elsewhere. A voxel counts if at least half of it is lesion.

        Raises:
            InputError: if no lesion finds a place.
        """
        made, where = image.copy(), np.zeros(brain.shape, np.int8)
        free = brain if avoid is None else brain & ~avoid
        tissue = tissue_classes(image, brain)
        for _ in range(self.n_lesions):
            left = free & (where == 0)
            placed = self._placed(left, spacing, rng)
            if placed is None:
                continue
            box, soft = placed
            core, blend = (soft >= 0.5) & left[box], soft * left[box]
            signs = rng.choice(np.asarray(self.signs), size=len(image))
            for channel, sign in enumerate(signs):
                sd, mean = self._tissue_under(image[channel], tissue, box, core)
                contrast = sign * rng.uniform(*self.contrast)
                noise = _smooth_noise(core.shape, spacing, rng)
                texture = rng.uniform(0, self.texture) * (noise - noise[core].mean())
                filling = mean + sd * (contrast + texture)
                made[channel][box] += (blend * (filling - made[channel][box])).astype(made.dtype)
            where[box][core] = signs[0]
        if not where.any():
            raise InputError("no made lesion found a place in the brain: is the brain mask sound?")
        return made, where

    def _placed(
        self, free: Mask, spacing: Sequence[float], rng: np.random.Generator
    ) -> tuple[tuple[slice, ...], Floats] | None:
        """A lesion's box in the volume and its soft mask there; None if it finds no place.

        Shapes that vanish (too small for the voxels) or do not fit are drawn anew.
        """
        for _ in range(SHAPES_TRIED):
            soft = self._soft_shape(spacing, rng)
            core = soft >= 0.5
            if not core.any() or any(a > b for a, b in zip(soft.shape, free.shape, strict=True)):
                continue
            for _ in range(PLACES_TRIED):
                corner = [int(rng.integers(b - a + 1)) for a, b in zip(soft.shape, free.shape, strict=True)]
                box = tuple(slice(c, c + n) for c, n in zip(corner, soft.shape, strict=True))
                if free[box][core].mean() >= LEAST_INSIDE:
                    return box, soft
        return None

    def _soft_shape(self, spacing: Sequence[float], rng: np.random.Generator) -> Floats:
        """A shape, mirrored, turned and sized at random, with a soft border, cut to where it is not 0."""
        shape = self.shapes[int(rng.integers(len(self.shapes)))].astype(np.float32)
        shape = np.pad(shape, int(np.ceil(3 * self.border_mm)) + 1)
        for axis in range(3):
            shape = np.flip(shape, axis) if rng.random() < 0.5 else shape
        turned = ndimage.rotate(shape, rng.uniform(-180, 180), axes=(0, 1), order=1)
        factor = rng.uniform(*self.scale)
        sized = ndimage.zoom(turned, [factor / s for s in spacing], order=1, mode="grid-constant", grid_mode=True)
        soft = np.clip(ndimage.gaussian_filter(sized, [self.border_mm / s for s in spacing]), 0, 1)
        soft[soft < 0.02] = 0
        found = ndimage.find_objects((soft > 0).astype(np.int8))
        return np.asarray(soft[found[0]] if found else soft)

    @staticmethod
    def _tissue_under(
        channel: Floats, tissue: NDArray[np.int8], box: tuple[slice, ...], core: Mask
    ) -> tuple[float, float]:
        """Standard deviation, over the volume, of the tissue that most of the lesion replaces, and its mean there."""
        under = tissue[box][core]
        most = int(np.bincount(under[under >= 0]).argmax()) if (under >= 0).any() else 0
        here = channel[box][core & (tissue[box] == most)]
        return float(channel[tissue == most].std()), float(here.mean())


def tissue_classes(image: Floats, brain: Mask) -> NDArray[np.int8]:
    """Three classes of the brain by the last channel of ``image`` (C, H, W, D), 0 to 2 from dark to bright; -1 outside.

    The last channel, because the first is often FLAIR, where grey and white matter look alike. Classes are those of
    Otsu's criterion; voxels outside the 1st and 99th percentile count to the outer classes.
    """
    values = image[-1][brain]
    if values.size == 0:
        raise InputError("the brain mask is empty: there is no tissue to put lesions into.")
    usual = values[(values >= np.percentile(values, 1)) & (values <= np.percentile(values, 99))]
    try:
        thresholds = threshold_multiotsu(usual, classes=3, nbins=128)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise InputError(f"the volume has no three tissues to put lesions into ({error}).") from error
    return np.where(brain, np.digitize(image[-1], thresholds), -1).astype(np.int8)


def shapes_from_masks(files: Sequence[str | Path], least_voxels: int = 8) -> list[Mask]:
    """The single lesions of lesion masks of 1 mm voxels, each cut out; smaller ones than ``least_voxels`` are left out.

    Raises:
        InputError: if there is no file, a file has no voxels of 1 mm, or no lesion is large enough.
    """
    shapes: list[Mask] = []
    for file in files:
        mask = nib.load(file)  # type: ignore[attr-defined]
        spacing = np.linalg.norm(np.asarray(mask.affine)[:3, :3], axis=0)  # type: ignore[attr-defined]
        if np.abs(spacing - 1).max() > 0.01:
            raise InputError(f"{file} has voxels of {spacing.round(3).tolist()} mm: shapes are taken from 1 mm.")
        labels, _ = ndimage.label(np.asarray(mask.dataobj) > 0, np.ones((3, 3, 3)))  # type: ignore[attr-defined]
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            lesion = labels[box] == number
            if lesion.sum() >= least_voxels:
                shapes.append(lesion)
    if not shapes:
        raise InputError(f"there is no lesion of at least {least_voxels} voxels in {len(files)} lesion masks.")
    return shapes


def made_shapes(n: int, rng: np.random.Generator, diameter_mm: tuple[float, float] = (4.0, 20.0)) -> list[Mask]:
    """``n`` lumpy shapes, where no masks of real lesions are at hand: smooth noise within an ellipsoid."""
    shapes: list[Mask] = []
    while len(shapes) < n:
        radii = rng.uniform(*diameter_mm) / 2 * rng.uniform(0.6, 1.0, 3)
        grid = np.indices([2 * int(np.ceil(r)) + 3 for r in radii], dtype=np.float64)
        centred = [(g - (g.shape[a] - 1) / 2) / radii[a] for a, g in enumerate(grid)]
        lump = sum(c**2 for c in centred) + 0.5 * _smooth_noise(grid.shape[1:], (1, 1, 1), rng)
        if (lump < 1).sum() >= 8:
            shapes.append(np.asarray(lump < 1))
    return shapes


def _smooth_noise(shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator) -> Floats:
    """Gaussian noise, smoothed with a standard deviation of 1 mm, of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), [1.0 / s for s in spacing])
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-12))

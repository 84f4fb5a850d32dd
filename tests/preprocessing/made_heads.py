"""Heads that are known at every point of space, on any grid, in any contrast: a moved one is not interpolated."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from medanomaly.preprocessing.registration import Registration

CENTRE = np.array([4.0, -18.0, 12.0])  # mm, RAS
CONTRASTS = {"flair": (0.0, 1.25, 1.0, 0.25, 2.0), "t1": (0.0, 0.68, 1.0, 0.3, 0.55)}  # air, grey, white, CSF, marker


def moved(shift=(3.0, -5.0, 4.0), degrees=5.0, axis=(1.0, -2.0, 1.5)):
    """A motion (4, 4) about the centre of the head; 7.07 mm and 5 degrees if nothing is said."""
    turn = Rotation.from_rotvec(degrees * np.array(axis) / np.linalg.norm(axis), degrees=True).as_matrix()
    return nib.affines.from_matvec(turn, CENTRE - turn @ CENTRE + np.array(shift))


def grid(codes="RAS", spacing=(3.0, 3.0, 3.0), rotation=(0.0, 0.0, 0.0), extent=(150.0, 180.0, 150.0)):
    """Affine and shape of a scan around the head; ``extent`` along x, y and z, mm."""
    direction, axes = np.zeros((3, 3)), []
    for column, code in enumerate(codes):
        row = next(n for n, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        direction[row, column] = 1 if code in "RAS" else -1
        axes.append(row)
    shape = tuple(int(n) for n in np.ceil(np.array(extent)[axes] / spacing))
    linear = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ direction * spacing
    return nib.affines.from_matvec(linear, CENTRE - linear @ ((np.array(shape) - 1) / 2)), shape


def head(affine, shape, motion=None, contrast="flair", seed=0):
    """A head (H, W, D) without symmetry, moved by ``motion``, with noise; a small thing lies on its right."""
    world = np.einsum("ij,jhwd->ihwd", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    if motion is not None:  # what is seen at a place lay elsewhere before
        back = np.linalg.inv(motion)
        world = np.einsum("ij,jhwd->ihwd", back[:3, :3], world) + back[:3, 3, None, None, None]
    x, y, z = world - CENTRE[:, None, None, None]
    folds = np.sin(x / 7 + y / 30) * np.cos(y / 9 - z / 25) + np.sin(z / 8 + x / 40) + 0.4 * np.sin(x / 21 + 1)
    tissue = np.where(folds > 0, 1, 2)
    tissue[((x + 6) / 14) ** 2 + ((y + 8) / 30) ** 2 + ((z - 6) / 12) ** 2 < 1] = 3
    tissue[(x - 38) ** 2 + (y - 20) ** 2 + (z - 10) ** 2 < 9**2] = 4
    tissue[(x / 62) ** 2 + (y / 78) ** 2 + (z / 60) ** 2 > 1] = 0
    noise = np.random.default_rng(seed).normal(0, 0.03, shape)
    return np.abs(np.array(CONTRASTS[contrast])[tissue] + noise).astype(np.float32) * 500


def error_of(found, true):
    """By how many mm, at the centre, and degrees a motion that was found is wrong."""
    rest = np.linalg.inv(true) @ found
    away = np.linalg.norm(nib.affines.apply_affine(rest, CENTRE) - CENTRE)
    return float(away), float(np.degrees(Rotation.from_matrix(rest[:3, :3]).magnitude()))


def found(**changes):
    """A registration as it should be, but for ``changes``."""
    usual = {
        "matrix": np.eye(4),
        "shift_mm": 2.0,
        "rotation_degrees": 1.0,
        "stretch": (1.0, 1.0),
        "similarity": 0.24,
        "similarity_before": 0.2,
        "sharpness": 1.5,
        "covered": 0.99,
    }
    return Registration(**(usual | changes))

"""A made head: an egg of brain in fluid, bone and skin, off the middle of its image, with noise around it."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

SPACING = np.array([3.0, 3.0, 3.5])
SHAPE = (64, 75, 60)
BRAIN = (66.0, 84.0, 62.0)  # mm, semi-axes of 1,440 ml


def made_head(noise: float = 0.03) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1-like image (H, W, D), its brain mask and its affine, RAS."""
    rng = np.random.default_rng(0)
    grid = np.indices(SHAPE, np.float32) * SPACING.astype(np.float32).reshape(3, 1, 1, 1)
    away = grid - np.array([93.0, 117.0, 110.0], np.float32).reshape(3, 1, 1, 1)

    def egg(more: float) -> np.ndarray:
        x, y, z = (a / (r + more) for a, r in zip(away, BRAIN, strict=True))
        return x**2 * (1 + 0.25 * y) + y**2 + z**2 < 1

    head, bone, fluid, brain = egg(16), egg(10), egg(2), egg(0)
    image = 1.1 * head
    image[bone], image[fluid] = 0.1, 0.25
    image[brain] = 1.0
    image[egg(-8)] = 1.25
    image[(away[2] < -75) & (np.hypot(away[0], away[1]) < 55)] = 0.9  # the neck
    image = np.hypot(image + rng.normal(0, noise, SHAPE), rng.normal(0, noise, SHAPE)).astype(np.float32)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-93, -117, -110)
    return 400 * image, brain, affine


def as_image(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    """(H, W, D) as an image (1, H, W, D)."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array, np.float32))[None], affine=torch.from_numpy(affine))

"""The images of the Fashion-MNIST experiment: boots to learn, boots to keep apart, and three kinds of anomalies."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medanomaly.errors import InputError

BOOT, SIDE = 9, 32  # label; pixels
BOOTS = {"training": 4200, "validation": 300, "threshold": 300, "test": 1200}  # 70, 5, 5 and 20 %
ANOMALIES = {"dress": 3, "sandal": 5, "sneaker": 7}  # name to label
ANOMALIES_FOR_THRESHOLD, TEST_ANOMALIES = 300, 1200  # of each class


def split(images: NDArray[np.uint8], labels: NDArray[np.uint8], seed: int) -> dict[str, Tensor]:
    """Images (n, 1, 32, 32) in [0, 1], by their purpose, which no two share: boots under the names in ``BOOTS``, and of
    each class in ``ANOMALIES`` the test images under its name, the others under "<class> for threshold".

    Raises:
        InputError: if there are too few images of a class.
    """
    random = np.random.default_rng(seed)
    wanted = {BOOT: BOOTS}
    wanted |= {
        label: {f"{n} for threshold": ANOMALIES_FOR_THRESHOLD, n: TEST_ANOMALIES} for n, label in ANOMALIES.items()
    }
    parts = {}
    for label, sizes in wanted.items():
        order = random.permutation(np.flatnonzero(labels == label))
        if len(order) < sum(sizes.values()):
            raise InputError(f"there are {len(order)} images with label {label}; {sum(sizes.values())} are needed.")
        for name, numbers in zip(sizes, np.split(order, np.cumsum(list(sizes.values()))), strict=False):
            pixels = torch.from_numpy(images[numbers]).float()[:, None] / 255
            parts[name] = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear")
    return parts

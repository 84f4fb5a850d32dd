"""Detectors of PyOD, to compare with: they learn and score the same images, as vectors of pixels.

PyOD is not among what the package needs: ``pip install 'medanomaly[rivals]'``. Settings are PyOD's own. What was found
in version 3.6.7, and what is done here about it:

- SO_GAAL and MO_GAAL return D(x), so that outliers score lowest (PyOD's issue 119): they are turned round.
- ALAD keeps dropout on while it scores, and each of its epochs is a single step: it is set to evaluate, and gets as
  many steps as 20 epochs have.
- AnoGAN compares what it scores with the one image that its last search for a training sample ended with, and searches
  for none of its own: nothing is done.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medanomaly.errors import ConfigError
from medanomaly.networks.vectors import Vectors
from medanomaly.workflows.costs import clock
from medanomaly.workflows.scorers import Cohort, Scorer

# In the table: file and class of PyOD, and whether its scores are upside down
RIVALS: Mapping[str, tuple[str, str, bool]] = {
    "pyod-anogan": ("anogan", "AnoGAN", False),
    "pyod-alad": ("alad", "ALAD", False),
    "pyod-so-gaal": ("so_gaal", "SO_GAAL", True),
    "pyod-mo-gaal": ("mo_gaal", "MO_GAAL", True),
}
NUMBERS = 256  # most in a vector: as for our SO-GAAL and MO-GAAL
ALAD_EPOCHS, ALAD_BATCH = 20, 32


class Rival(nn.Module):
    """A detector of PyOD on images (n, C, H, W) averaged down to vectors; called with images, it gives scores (n, 1).

    Args:
        name: one of ``RIVALS``.
        images: what it learns from.
        seed: of its training.
        settings: of PyOD's class, in place of its own.

    Raises:
        ConfigError: if PyOD is not installed.
    """

    def __init__(self, name: str, images: Tensor, seed: int = 0, **settings: Any) -> None:
        super().__init__()
        file, kind, self.upside_down = RIVALS[name]
        try:
            pyod_class = getattr(import_module(f"pyod.models.{file}"), kind)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{name} is a detector of PyOD, but {error.name} is not installed: pip install 'medanomaly[rivals]', "
                "or leave it out."
            ) from error
        if name == "pyod-alad":
            settings = {"epochs": ALAD_EPOCHS * max(len(images) // ALAD_BATCH, 1), "batch_size": ALAD_BATCH} | settings
        self.vectors = Vectors(images.shape[1], images.shape[2], images.ndim - 2, NUMBERS)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (that is what PyOD draws from)
        self.model = pyod_class(**settings)
        with contextlib.redirect_stdout(io.StringIO()):  # a line an epoch
            self.model.fit(self.vectors(images).double().numpy())
        # known as its parts, so that they are counted as what it has learned, and can be set to evaluate
        self.parts = nn.ModuleList(part for part in vars(self.model).values() if isinstance(part, nn.Module))
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        scores = np.asarray(self.model.decision_function(self.vectors(images).double().numpy()), dtype=np.float64)
        return torch.as_tensor(1 - scores if self.upside_down else scores).float()[:, None]


def slice_scores(volume: Tensor, network: nn.Module, **regions: Tensor) -> Tensor:
    """As an inferer: of a volume (1, C, H, W, n), the score of each of its n slices, (1, 1, 1, 1, n)."""
    scores: Tensor = network(volume[0].movedim(-1, 0))
    return scores[:, 0].view(1, 1, 1, 1, -1)


def rival_scorer(name: str, cohort: Cohort, seed: int) -> Scorer:
    """A rival trained on the training cases of a cohort, all of them images of one slice."""
    images = torch.stack([case["image"][..., 0] for case in cohort.training])
    start = clock()
    scorer = Scorer(slice_scores, Rival(name, images, seed))
    scorer.training_seconds = clock() - start
    return scorer

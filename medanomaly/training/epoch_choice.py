"""Choosing an epoch where no loss ranks them, by unlabelled cases: pseudo-AUC (Siddiquee et al., WACV 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from medanomaly.errors import ConfigError, TrainingError
from medanomaly.patches.sampling import PatchSampler

SAMPLES = 512  # of each kind, or a patch a case where there are more cases


def pseudo_auc(healthy: ArrayLike, unlabelled: ArrayLike) -> float:
    """AUROC of scores that are to tell healthy samples from unlabelled ones, among which some are healthy, too.

    It rises with the true AUROC, but never comes to 1: see :func:`debiased_auc`.

    Args:
        healthy: scores (n,) of samples that are known to be healthy.
        unlabelled: scores (m,) of a mixture.

    Examples:
        >>> pseudo_auc([0, 1, 2], [3, 4])
        1.0
    """
    from sklearn.metrics import roc_auc_score

    groups = [np.asarray(scores, dtype=np.float64).ravel() for scores in (healthy, unlabelled)]
    labels = np.repeat([0, 1], [len(group) for group in groups])
    return float(roc_auc_score(labels, np.concatenate(groups)))


def debiased_auc(pseudo: float, healthy_share: float) -> float:
    """The AUROC for the abnormal samples alone that a pseudo-AUC stands for: ``(p - s / 2) / (1 - s)``.

    The healthy samples of the mixture score like the others that are healthy: their AUROC is one half. The share is
    the same in all epochs, so it changes what a choice is said to be worth, and never which epoch is chosen. As an
    estimate it may come out above 1.

    Args:
        pseudo: see :func:`pseudo_auc`.
        healthy_share: s, of the healthy among the unlabelled samples, from 0 to less than 1.

    Raises:
        ConfigError: if the share is not in this range.

    Examples:
        >>> debiased_auc(0.75, healthy_share=0.5)
        1.0
    """
    if not 0 <= healthy_share < 1:
        raise ConfigError(
            f"healthy_share is {healthy_share}: give the share of healthy cases in 'mixed', 0 to below 1."
        )
    return (pseudo - healthy_share / 2) / (1 - healthy_share)


class PseudoAUC:
    """Rates an epoch by the pseudo-AUC of a detector's scores: of held-out healthy patches against those of ``mixed``.

    The patches are the same after each epoch. A patch's score is the mean over its voxels.

    No test case is seen. The cases under ``mixed`` are: they are trained on, and they choose the epoch. For *them* the
    choice is transductive, so no figure may be reported of them.

    Args:
        healthy: draws held-out patches of healthy cases.
        mixed: draws patches of healthy and diseased cases, not told apart.
        healthy_share: of the healthy in the mixture, if it is known, for :func:`debiased_auc`.
        held_out: whether the healthy patches are of cases that are not trained on.

    Raises:
        ConfigError: if the share is not one.
    """

    def __init__(
        self, healthy: PatchSampler, mixed: PatchSampler, healthy_share: float | None = None, held_out: bool = True
    ) -> None:
        if healthy_share is not None:
            debiased_auc(0.5, healthy_share)
        self.samplers, self.healthy_share, self.held_out = (healthy, mixed), healthy_share, held_out

    @torch.no_grad()
    def __call__(self, detector: Any, device: torch.device | str) -> float:
        """The pseudo-AUC of a detector, which is in eval mode.

        Raises:
            TrainingError: if a score is not finite.
        """
        scores = [self._scores(detector, sampler, device) for sampler in self.samplers]
        if not all(np.isfinite(some).all() for some in scores):
            raise TrainingError(
                "scores are no longer finite: lower the learning rate (network_def#learning_rate) and train again."
            )
        return pseudo_auc(*scores)

    def _scores(self, detector: Any, sampler: PatchSampler, device: torch.device | str) -> ArrayLike:
        sampler.set_epoch(0)
        n_cases = len(sampler.dataset)
        patches = sampler.draw(n_cases * math.ceil(SAMPLES / n_cases))  # every case equally often
        found = [
            detector(batch.to(device)).flatten(1).mean(dim=1).float().cpu()
            for batch in patches.split(sampler.batch_size)
        ]
        return torch.cat(found).numpy()

    def record(self, values: Sequence[float]) -> dict[str, Any]:
        """What ``models/epoch.json`` says of the pseudo-AUC of each epoch: which was chosen, and ``words`` for that."""
        best = int(np.argmax(values)) + 1
        healthy = "held-out healthy cases" if self.held_out else "healthy cases that were trained on"
        words = (
            f"{best} of {len(values)}, chosen by pseudo-AUC: {healthy} against the cases under 'mixed', unlabelled, "
            f"which were trained on; {values[best - 1]:.3f}"
        )
        found: dict[str, Any] = {"pseudo_auc": [round(value, 5) for value in values]}
        if self.healthy_share is not None:
            debiased = [debiased_auc(value, self.healthy_share) for value in values]
            found |= {"healthy_share": self.healthy_share, "debiased_auc": [round(value, 5) for value in debiased]}
            words += f", debiased {debiased[best - 1]:.3f} for a share of {self.healthy_share:g} healthy among them"
        return {"chosen_by": "pseudo_auc", "epoch": best, "epochs": len(values), "words": words, **found}


def epoch_choice(
    choose_epoch: str,
    healthy: PatchSampler,
    mixed: PatchSampler,
    healthy_share: float | None = None,
    held_out: bool = True,
) -> PseudoAUC | None:
    """What a bundle's setting ``choose_epoch`` asks for: None for "last", a :class:`PseudoAUC` for "pseudo_auc".

    Raises:
        ConfigError: for another word, or a share that is not one.
    """
    if choose_epoch not in ("last", "pseudo_auc"):
        raise ConfigError(f"choose_epoch is {choose_epoch!r}: use one of last, pseudo_auc.")
    choice = PseudoAUC(healthy, mixed, healthy_share, held_out)
    return choice if choose_epoch == "pseudo_auc" else None

"""Stages: the phases in which a network learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer


def always() -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One phase of training, with optimisers of its own; what learns yields its stages one after the other.

    Args:
        name: what messages call it, such as "GAN" or "16 voxels a side".
        optimizers: what the training steps of this stage step, by name.
        keep: which weights the stage ends with: those of the epoch with the lowest validation loss ("best"), or of the
            last epoch ("last"), where no loss ranks the epochs, as in a plain GAN. With "last" nothing is validated and
            training does not stop early.
        max_epochs: most epochs of this stage; those of the trainer if not given.
        settled: asked after each epoch. As long as it says False, because new layers still fade in, the losses of
            epochs cannot be compared: such epochs are not judged, and do not count as epochs of the stage.
        parts: of a network made of several that learn at once, the stage of each; None for one that rests.
        still_to_come: how many stages come after this one, for the time that is left; nothing else depends on it.
    """

    name: str
    optimizers: Mapping[str, Optimizer]
    keep: Literal["best", "last"] = "best"
    max_epochs: int | None = None
    settled: Callable[[], bool] = always
    parts: tuple[Stage | None, ...] = ()
    still_to_come: int = 0

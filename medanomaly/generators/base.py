"""What all makers of films share: they learn by the trainer's protocol, and draw images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from medanomaly.networks.stages import Stage


class FilmGenerator(nn.Module):
    """Learns grey images (B, 1, s, s) in [0, 1] of one class, and draws new ones; no loss ranks its epochs.

    A generator writes :meth:`stages`, :meth:`training_step` and :meth:`sample`.
    """

    streams: tuple[str, ...] = ("training",)

    def stages(self) -> Iterator[Stage]:
        """The phases of training, see :class:`Stage`; each keeps the last weights."""
        raise NotImplementedError

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        """One step of the stage's optimisers on images (B, 1, s, s); the losses by name."""
        raise NotImplementedError

    def sample(self, n: int) -> Tensor:
        """``n`` images (n, 1, s, s), about in [0, 1], from torch's global generator; in eval mode, without gradient."""
        raise NotImplementedError

    def validation_loss(self, batch: Tensor) -> Tensor:
        raise NotImplementedError("nothing ranks the epochs of a generator: its stages keep the last weights.")

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Nothing, unless a generator says otherwise."""

    @torch.no_grad()
    def draw(self, n: int, seed: int = 0, batch_size: int = 64) -> Tensor:
        """``n`` images (n, 1, s, s) in [0, 1] on the CPU; the first ones are the same, however many are drawn."""
        self.eval()
        torch.manual_seed(seed)
        batches = [self.sample(batch_size).float().clamp(0, 1).cpu() for _ in range(-(-n // batch_size))]
        return torch.cat(batches)[:n]

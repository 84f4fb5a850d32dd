"""Brainomaly: adds a map to what is healthy or diseased, no one says which, that makes it healthy; abnormal is the map.

Siddiquee et al., WACV 2024, arXiv 2302.09200. What HealthyGAN does with a mask, by one additive map: the healthy
translation is ``h(x) = tanh(x + a(x))``. It has neither a mask nor the losses of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four, signed_residual
from medanomaly.errors import ConfigError, check_count
from medanomaly.networks.losses import critic_loss_wgan_gp
from medanomaly.networks.stages import Stage
from medanomaly.networks.translation import ToTanh, part_critic, translator


class Brainomaly(Detector):
    """Brainomaly on patches, from the streams "training" (healthy) and "mixed" (healthy and diseased, unlabelled).

    Scores (B, 1, H, W[, D]), what was removed, ``mean_c |x - h(x)|`` in units of the patch's intensities, or (B, 1),
    its mean. Ours: narrower networks; intensities that come to +-0.9, as tanh never gives +-1 and could not give back
    what is healthy there; a penalty on the mean of the critic's map.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32, 64, 128 or 256.
        features: channels of the first convolution of both networks; 16 in 2-D and 8 in 3-D if not given (paper: 64).
        levels: the lowest and the highest usual intensity of patches. What lies beyond still counts.
        learning_rate: of the generator's Adam, with betas (0.5, 0.999).
        critic_rate: of the critic's; as ``learning_rate``, if not given (paper). Where the generator wins, it makes
            noise that the critic takes for health, and "critic" in the losses is positive: give the critic more.
        critic_steps: of the critic for each of the generator.
        identity_weight: of the loss that asks the generator to leave healthy patches as they are.
        score: "map", or "mean", one number a patch: of a whole film or slice, the paper's score.
        sign: "both", "bright" or "dark": what was removed because it was brighter, or darker, than it should be.
    """

    streams = ("training", "mixed")
    signed = True

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        features: int | None = None,
        levels: Sequence[float] = (-0.5, 2.0),
        learning_rate: float = 1e-4,
        critic_rate: float | None = None,
        critic_steps: int = 2,
        identity_weight: float = 1.0,
        score: str = "map",
        sign: str = "both",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        check_count("critic_steps", critic_steps)
        if score not in ("map", "mean"):
            raise ConfigError(f"score is {score!r}: use one of map, mean.")
        self.set_sign(sign)
        features = features or (16 if spatial_dims == 2 else 8)
        self.learning_rate, self.critic_steps = learning_rate, critic_steps
        self.critic_rate = critic_rate or learning_rate
        self.identity_weight, self.score_kind = identity_weight, score
        self.to_tanh = ToTanh(*levels)
        self.generator = translator(in_channels, in_channels, patch_size, spatial_dims, features)
        self.critic = part_critic(in_channels, patch_size, spatial_dims, features)
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))

    def stages(self) -> Iterator[Stage]:
        betas = (0.5, 0.999)
        optimizers = {
            "critic": torch.optim.Adam(self.critic.parameters(), lr=self.critic_rate, betas=betas),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.learning_rate, betas=betas),
        }
        yield Stage("Brainomaly", optimizers, keep="last")

    def translated(self, x: Tensor) -> Tensor:
        """``h(x)`` of patches in tanh's range: (B, C, H, W[, D])."""
        return torch.tanh(x + self.generator(x))

    def training_step(self, batch: Mapping[str, Tensor], stage: Stage) -> dict[str, Tensor]:
        """One step of the critic; after every ``critic_steps`` of them, one of the generator."""
        healthy, mixed = self.to_tanh(batch["training"]), self.to_tanh(batch["mixed"])
        with torch.no_grad():
            fake = self.translated(mixed)
        losses = {"critic": critic_loss_wgan_gp(self.critic, healthy, fake)}
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        self.steps.add_(1)
        if self.steps % self.critic_steps == 0:
            stage.optimizers["generator"].zero_grad()
            loss = self._generator_loss(healthy, mixed)
            torch.autograd.backward(loss, inputs=list(self.generator.parameters()))
            stage.optimizers["generator"].step()
        losses["changed"] = (mixed - fake).abs().mean()
        return {name: loss.detach() for name, loss in losses.items()}

    def _generator_loss(self, healthy: Tensor, mixed: Tensor) -> Tensor:
        """What is made of the mixed looks healthy, and what is healthy stays as it is."""
        translated = self.translated(torch.cat([mixed, healthy]))
        n = len(mixed)
        identity = (healthy - translated[n:]).abs().mean()
        loss: Tensor = self.identity_weight * identity - self.critic(translated[:n]).mean()
        return loss

    def reconstruct(self, patches: Tensor) -> Tensor:
        """The healthy translation of patches, (B, C, H, W[, D]), in their intensities."""
        return patches - self._removed(patches)

    def _removed(self, patches: Tensor) -> Tensor:
        """``x - h(x)`` in intensities of the patches."""
        x = self.to_tanh(patches)
        removed: Tensor = (x - self.translated(x)) / self.to_tanh.factor
        return removed

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        scores = signed_residual(self._removed(at_least_four(patches)), self.sign)[:n]
        return scores.flatten(1).mean(dim=1, keepdim=True) if self.score_kind == "mean" else scores

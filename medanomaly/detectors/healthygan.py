"""HealthyGAN: translates what is healthy or diseased, no one says which, into healthy; abnormal is what it changes.

Siddiquee et al. 2022, arXiv 2209.01822, whose method, losses and data MedAI AnomalyPro (Kumar et al.) shares. Two
equations of the latter agree only if the mask M is 1 where a patch is changed, as here:

- the healthy translation is ``h(x) = M * B + (1 - M) * x``, with B, a whole patch, and M from one generator;
- the reconstruction ``r(x) = M * x + (1 - M) * B`` must be x: where nothing is changed, B is x.
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


class HealthyGAN(Detector):
    """HealthyGAN on patches, from the streams "training" (healthy) and "mixed" (healthy and diseased, unlabelled).

    Scores (B, 1, H, W[, D]), what was removed, ``mean_c |x - h(x)|`` in units of the patch's intensities, or (B, 1),
    its mean. Ours: narrower networks; intensities that come to +-0.9, as tanh never gives +-1; a penalty on the mean
    of the critic's map.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32, 64, 128 or 256.
        features: channels of the first convolution of both networks; 16 in 2-D and 8 in 3-D if not given (paper: 64).
        levels: the lowest and the highest usual intensity of patches. What lies beyond still counts.
        learning_rate: of the generator's Adam, with betas (0.5, 0.999).
        critic_rate: of the critic's; as ``learning_rate``, if not given (paper). Where the generator wins, it makes
            noise that the critic takes for health, and "critic" in the losses is positive: give the critic more.
        critic_steps: of the critic for each of the generator.
        weights: of the identity, reconstruction and focus losses, beside the adversarial one (1, 1, 0.1).
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
        weights: Sequence[float] = (1.0, 1.0, 0.1),
        score: str = "map",
        sign: str = "both",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        check_count("critic_steps", critic_steps)
        if score not in ("map", "mean"):
            raise ConfigError(f"score is {score!r}: use one of map, mean.")
        self.set_sign(sign)
        features = features or (16 if spatial_dims == 2 else 8)
        self.learning_rate, self.critic_steps, self.score_kind = learning_rate, critic_steps, score
        self.critic_rate = critic_rate or learning_rate
        self.identity_weight, self.reconstruction_weight, self.focus_weight = weights
        self.to_tanh = ToTanh(*levels)
        self.generator = translator(in_channels, in_channels + 1, patch_size, spatial_dims, features)
        self.critic = part_critic(in_channels, patch_size, spatial_dims, features)
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))

    def stages(self) -> Iterator[Stage]:
        betas = (0.5, 0.999)
        optimizers = {
            "critic": torch.optim.Adam(self.critic.parameters(), lr=self.critic_rate, betas=betas),
            "generator": torch.optim.Adam(self.generator.parameters(), lr=self.learning_rate, betas=betas),
        }
        yield Stage("HealthyGAN", optimizers, keep="last")

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The patch B (B, C, H, W[, D]) and the mask M (B, 1, H, W[, D]), from 0 to 1, of patches in tanh's range."""
        made = torch.tanh(self.generator(x))
        return made[:, :-1], (made[:, -1:] + 1) / 2

    def training_step(self, batch: Mapping[str, Tensor], stage: Stage) -> dict[str, Tensor]:
        """One step of the critic; after every ``critic_steps`` of them, one of the generator."""
        healthy, mixed = self.to_tanh(batch["training"]), self.to_tanh(batch["mixed"])
        with torch.no_grad():
            made, mask = self.parts(mixed)
        losses = {"critic": critic_loss_wgan_gp(self.critic, healthy, healed(mixed, made, mask))}
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        self.steps.add_(1)
        if self.steps % self.critic_steps == 0:
            stage.optimizers["generator"].zero_grad()
            loss = self._generator_loss(healthy, mixed)
            torch.autograd.backward(loss, inputs=list(self.generator.parameters()))
            stage.optimizers["generator"].step()
        losses["changed"] = mask.mean()  # 0 where the mask has collapsed: nothing is ever changed
        return {name: loss.detach() for name, loss in losses.items()}

    def _generator_loss(self, healthy: Tensor, mixed: Tensor) -> Tensor:
        """The sum of four: what is made looks healthy, healthy is B itself, x comes back, and M is small and sure."""
        both = torch.cat([mixed, healthy])
        made, mask = self.parts(both)
        adversarial = -2 * self.critic(healed(both, made, mask)).mean()  # a mean over each of the two halves
        n = len(mixed)
        reconstruction = (both - redrawn(both, made, mask)).abs()[:n].mean()
        identity = (both - made).abs()[n:].mean()
        focus = (_focus(mask[:n]) + _focus(mask[n:])) / 2
        loss: Tensor = (
            adversarial
            + self.identity_weight * identity
            + self.reconstruction_weight * reconstruction
            + self.focus_weight * focus
        )
        return loss

    def reconstruct(self, patches: Tensor) -> Tensor:
        """The healthy translation of patches, (B, C, H, W[, D]), in their intensities."""
        return patches - self._removed(patches)

    def _removed(self, patches: Tensor) -> Tensor:
        """``x - h(x)`` in intensities of the patches, exactly 0 where M is."""
        x = self.to_tanh(patches)
        made, mask = self.parts(x)
        removed: Tensor = mask * (x - made) / self.to_tanh.factor
        return removed

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        scores = signed_residual(self._removed(at_least_four(patches)), self.sign)[:n]
        return scores.flatten(1).mean(dim=1, keepdim=True) if self.score_kind == "mean" else scores


def healed(x: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    """The healthy translation: what was made where the mask is 1, else x."""
    return mask * made + (1 - mask) * x


def redrawn(x: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    """The other way round, so that what was made must be x wherever the mask is not 1."""
    return healed(made, x, mask)


def _focus(mask: Tensor) -> Tensor:
    """How much of a mask (B, 1, ...) is on, squared, and how far it is from 0 or 1 at each voxel; 0 if it is 0."""
    unsure = 1 / ((mask - 0.5).abs() + 0.01) - 1 / 0.51
    return mask.mean().square() + unsure.mean()

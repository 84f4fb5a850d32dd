"""Progressive GANomaly: GANomaly's variant K with a GAN that grows from 8 voxels a side to the size of the patches.

Madzia-Madzou & Kuijf, SPIE 2022, arXiv 2206.03876, section 2.3, on the networks of ProGAN (Karras et al.,
ICLR 2018, arXiv 1710.10196). The critic is the encoder: its trunk gives the critic's value and the code of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import log2

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import ModifiedScore, at_least_four
from medanomaly.errors import ConfigError, TrainingError
from medanomaly.networks.layers import FlattenChannelsLast, UnitRMS
from medanomaly.networks.losses import critic_loss_wgan_gp
from medanomaly.networks.progan import CriticHead, EqualisedLinear, Generator, Trunk, pool, upsample
from medanomaly.networks.stages import Stage

SMALLEST_STD = 1e-3  # of the elements of a code over patches; below it, all patches have the same code


class ProgressiveGANomaly(Detector):
    """Progressive GANomaly on patches: abnormal where the codes of a patch and of its reconstruction differ.

    Stage 0 works on patches pooled to 8 voxels a side. When the validation loss no longer falls, the networks grow: the
    side doubles, and the new layers fade in with a weight alpha that rises from 0 to 1 while ``fade_images`` patches
    are shown. Until it is fully grown, patches are pooled to the size of the stage.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 8, 16, 32 or 64.
        latent_dim: length of the codes z and z_hat.
        features: channels of the layers with 4, 8, 16, 32, ... voxels a side, at least as many as there are such sizes.
            If not given, (128, 64, 32, 16, 8), with which every size costs about the same; in 3-D, (64, 64, 64, 32,
            32). ProGAN has 512 up to 32 voxels and 256 at 64.
        weights: of the adversarial, contextual and encoder loss.
        learning_rate: of both Adam optimisers, with betas (0.5, 0.99). ProGAN has 0 for the first, with
            which reconstruction is learned more slowly.
        fade_images: patches shown until new layers count in full. Madzia-Madzou & Kuijf gives 750,000.
        pixel_norm: divide the generator's features by their root mean square, as ProGAN does. Off, because a generator
            that reconstructs must carry how bright a patch is: with it, training takes some three times as long.
        unit_code: divide each code by its root mean square, so that it cannot shrink (layers with an equalised learning
            rate could enlarge it again) and all differences with it. The size of a code tells how much there is of what
            the patch shows: without this, patches brighter than all normal ones score higher.
        score: "encoder", the mean of ``(z - z_hat)^2``, as in the paper, which found median and MAD to be 0 after
            progressive training; or "modified", with them, as for GANomaly: codes that cannot shrink have both.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        latent_dim: int = 100,
        features: Sequence[int] | None = None,
        weights: tuple[float, float, float] = (1.0, 70.0, 10.0),
        learning_rate: float = 2e-3,
        fade_images: int = 750_000,
        pixel_norm: bool = False,
        unit_code: bool = True,
        score: str = "encoder",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if patch_size not in (8, 16, 32, 64):
            raise ConfigError(f"patch_size is {patch_size}, but this network grows to 8, 16, 32 or 64 voxels a side.")
        if score not in ("encoder", "modified"):
            raise ConfigError(f"Progressive GANomaly: score is {score!r}; use one of 'encoder', 'modified'.")
        if fade_images < 1:
            raise ConfigError(f"fade_images is {fade_images}: show at least 1 patch while new layers fade in.")
        features = features or ((128, 64, 32, 16, 8) if spatial_dims == 2 else (64, 64, 64, 32, 32))
        sizes = int(log2(patch_size)) - 1
        if len(features) < sizes:
            raise ConfigError(f"features={features} must be {sizes} numbers, for 4 to {patch_size} voxels a side.")
        widths = list(features[:sizes])
        self.weights, self.learning_rate, self.fade_images = tuple(weights), learning_rate, fade_images
        self.score_kind = score
        self.stage, self.last_stage, self.images_shown = 0, sizes - 2, 0

        self.trunk = Trunk(in_channels, widths, spatial_dims)
        self.critic_head = CriticHead(widths[0], spatial_dims)
        self.encoder_head = nn.Sequential(
            FlattenChannelsLast(), EqualisedLinear(widths[0] * 4**spatial_dims, latent_dim, gain=1.0)
        )
        if unit_code:
            self.encoder_head.append(UnitRMS())
        self.modified = ModifiedScore(latent_dim)
        self.generator = Generator(in_channels, widths, spatial_dims, latent_dim, pixel_norm)

    def alpha(self) -> float:
        """The weight of the newest layers: 0 to 1 over ``fade_images`` patches; always 1 in stage 0."""
        return 1.0 if self.stage == 0 else min(1.0, self.images_shown / self.fade_images)

    def is_settled(self) -> bool:
        """Whether the newest layers count in full."""
        return self.alpha() == 1.0

    def get_extra_state(self) -> Tensor:
        """Stage and patches shown, which are saved with the weights: a training goes on in the middle of a fade."""
        return torch.tensor([self.stage, self.images_shown])

    def set_extra_state(self, state: Tensor) -> None:
        self.stage, self.images_shown = (int(value) for value in state)

    def critic(self, patches: Tensor) -> Tensor:
        """How real patches of the stage's size look: (B, 1)."""
        values: Tensor = self.critic_head(self.trunk(patches, self.stage, self.alpha()))
        return values

    def encode(self, patches: Tensor) -> Tensor:
        """Codes (B, latent_dim) of patches of the stage's size."""
        z: Tensor = self.encoder_head(self.trunk(patches, self.stage, self.alpha()))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Patches of the stage's size from codes (B, latent_dim)."""
        patches: Tensor = self.generator(z, self.stage, self.alpha())
        return patches

    def at_stage(self, patches: Tensor) -> Tensor:
        """Patches pooled to the side of the stage; in a fade, blended with themselves at half that size."""
        for _ in range(self.last_stage - self.stage):
            patches = pool(patches)
        alpha = self.alpha()
        if alpha < 1:
            patches = (1 - alpha) * upsample(pool(patches)) + alpha * patches
        return patches

    def stages(self) -> Iterator[Stage]:
        """One for each size from 8 voxels a side on."""
        trunk = list(self.trunk.parameters())
        rate, betas = self.learning_rate, (0.5, 0.99)
        for stage in range(self.last_stage + 1):
            self.stage, self.images_shown = stage, 0
            optimizers = {
                "generator": torch.optim.Adam([*trunk, *self._without_trunk()], lr=rate, betas=betas),
                "critic": torch.optim.Adam([*trunk, *self.critic_head.parameters()], lr=rate, betas=betas),
            }
            name, still_to_come = f"{8 * 2**stage} voxels a side", self.last_stage - stage
            yield Stage(name, optimizers, settled=self.is_settled, still_to_come=still_to_come)

    def _without_trunk(self) -> list[nn.Parameter]:
        return [*self.encoder_head.parameters(), *self.generator.parameters()]

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        batch = self.at_stage(batch)
        z = self.encode(batch)
        reconstruction = self.decode(z)
        losses = self._generator_losses(batch, z, reconstruction)
        adversarial, contextual, encoder = (w * loss for w, loss in zip(self.weights, losses.values(), strict=True))
        for optimizer in stage.optimizers.values():
            optimizer.zero_grad()
        # as in variant K: the trunk learns from the contextual loss alone, the rest from all three
        _backward(adversarial + contextual + encoder, self._without_trunk(), retain_graph=True)
        _backward(contextual, list(self.trunk.parameters()))
        stage.optimizers["generator"].step()

        for optimizer in stage.optimizers.values():
            optimizer.zero_grad()
        losses["critic"] = critic_loss_wgan_gp(self.critic, batch, reconstruction.detach(), drift=1e-3)
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        self.images_shown += len(batch)
        return {**{name: loss.detach() for name, loss in losses.items()}, "code std": z.detach().float().std(0).mean()}

    def _generator_losses(self, batch: Tensor, z: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Adversarial, contextual and encoder loss, as in variant K: frozen trunk, and z held still.

        The trunk must not learn from the features of the reconstruction, which it could make constant, nor the code
        from the distance to its copy, which shrinking would lower.
        """
        stage, alpha = self.stage, self.alpha()
        frozen = {name: parameter.detach() for name, parameter in self.trunk.named_parameters()}
        with torch.no_grad():
            real_features = self.trunk(batch, stage, alpha)
        fake_features = functional_call(self.trunk, frozen, (reconstruction, stage, alpha))
        z_hat = self.encoder_head(fake_features)
        return {
            "adversarial": F.mse_loss(fake_features, real_features),
            "contextual": F.l1_loss(reconstruction, batch),
            "encoder": F.mse_loss(z_hat, z.detach()),
        }

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """Weighted contextual plus encoder loss.

        Raises:
            TrainingError: if the code has collapsed: its elements vary by less than 1e-3 from patch to patch.
        """
        batch = self.at_stage(batch)
        z = self.encode(batch)
        reconstruction = self.decode(z)
        spread = float(z.std(dim=0).mean()) if len(z) > 1 else 1.0
        if spread < SMALLEST_STD:
            raise TrainingError(
                f"Progressive GANomaly: the latent code collapsed (its elements vary by {spread:.2g} between patches, "
                f"{SMALLEST_STD:g} are needed): lower learning_rate, for example to 0.001, and train again."
            )
        contextual, encoder = F.l1_loss(reconstruction, batch), F.mse_loss(self.encode(reconstruction), z)
        return self.weights[1] * contextual + self.weights[2] * encoder

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the generator makes of the patches' codes: (B, C, H, W[, D]), like ``patches``."""
        patches = self.decode(self.encode(self.at_stage(patches)))
        for _ in range(self.last_stage - self.stage):
            patches = upsample(patches)
        return patches

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Median and MAD of each element of (z - z_hat)^2 over training patches, for the score "modified"."""
        if self.score_kind == "modified":
            self.modified.fit(torch.cat([self.code_errors(batch) for batch in batches]))

    def code_errors(self, patches: Tensor) -> Tensor:
        """(z - z_hat)^2 for each element of the code: (B, latent_dim)."""
        z = self.encode(self.at_stage(patches))
        return torch.square(z - self.encode(self.decode(z)))

    def score(self, patches: Tensor) -> Tensor:
        errors = self.code_errors(at_least_four(patches))[: patches.shape[0]]
        if self.score_kind == "modified":
            errors = self.modified(errors)
        return errors.mean(dim=1, keepdim=True)


def _backward(loss: Tensor, parameters: list[nn.Parameter], retain_graph: bool = False) -> None:
    """Gradients of ``loss`` in those of ``parameters`` that it depends on (layers yet to grow take no part)."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient

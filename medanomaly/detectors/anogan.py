"""AnoGAN: the generator of a GAN draws normal patches alone; abnormal is what it cannot draw, whatever its code.

Schlegl et al., IPMI 2017, arXiv 1703.05921: a DCGAN learns normal patches; at test, gradient descent looks for the code
whose image is most like the patch, by its voxels and by the features of the discriminator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.errors import ConfigError, check_count
from medanomaly.networks.adversaries import GAN
from medanomaly.networks.averages import average_of, follow, settle, warming_up
from medanomaly.networks.dcgan import dcgan_decoder, dcgan_head, dcgan_trunk, init_dcgan
from medanomaly.networks.layers import UnitRMS
from medanomaly.networks.losses import bce_towards, critic_loss_bce
from medanomaly.networks.search import block_of, in_blocks, search_codes
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength, amount_of

PICTURE_SIDE = {2: 16, 3: 8}  # voxels a side of the small pictures in which starts are looked up
MAX_BATCHES = 4  # of training patches, whose distances the scales are taken from


class AnoGAN(Detector):
    """AnoGAN on patches.

    Scores (B, 1), the loss that the search ends with, or (B, 1, H, W[, D]), a map, by ``score``. Ours: an average of
    the generator's weights draws the images; a search starts where, of many images that were drawn beforehand, the most
    similar ones are; the two terms of its loss are on a common scale; codes are divided by their root mean square
    before they are drawn, so that no code is outside of what was learned.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        latent_dim: length of the codes.
        features: channels of the first convolution; 32 in 2-D and 16 in 3-D if not given (DCGAN: 64).
        learning_rate: of both Adam optimisers, with betas (0.5, 0.999).
        feature_weight: of the features in the loss of the search; the voxels have the rest of 1 (paper: 0.1).
        search_steps: most steps of a search, of ``step_size`` (Adam); a patch that no longer improves needs fewer.
        restarts: starts of each patch; after some steps the best goes on alone.
        bank_size: codes whose images are drawn beforehand.
        score: "combined", the loss of the search, or "residual", the map ``mean_c |x - x_hat|``.
        relative: divide scores by the patch's mean absolute intensity (ours). Keep it off where brightness is a sign,
            as on MRI; turn it on where normal images differ in how much they show, as clothes do.
    """

    searches, exportable = True, False

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        latent_dim: int = 100,
        features: int | None = None,
        learning_rate: float = 2e-4,
        feature_weight: float = 0.1,
        search_steps: int = 100,
        step_size: float = 0.05,
        restarts: int = 3,
        bank_size: int = 2048,
        score: str = "combined",
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        for name, value in (("search_steps", search_steps), ("restarts", restarts), ("bank_size", bank_size)):
            check_count(name, value)
        if restarts > bank_size:
            raise ConfigError(f"restarts is {restarts}, but starts are chosen among bank_size = {bank_size}: lower it.")
        if score not in ("combined", "residual"):
            raise ConfigError(f"score is {score!r}: use one of combined, residual.")
        features = features or (32 if spatial_dims == 2 else 16)
        shape = (patch_size, spatial_dims, features)
        self.latent_dim, self.learning_rate, self.feature_weight = latent_dim, learning_rate, feature_weight
        self.search_steps, self.step_size, self.restarts = search_steps, step_size, restarts
        self.score_kind, self.relative = score, relative

        self.generator = dcgan_decoder(in_channels, *shape, latent_dim=latent_dim).insert(0, UnitRMS())
        self.trunk = dcgan_trunk(in_channels, *shape, norm="batch")
        self.critic_head = dcgan_head(*shape, out_channels=1)
        self.apply(init_dcgan)
        self.average = average_of(self.generator)
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))

        self.bank = nn.Buffer(torch.randn(bank_size, latent_dim))
        self.pictures = nn.Buffer(torch.zeros(bank_size, in_channels * PICTURE_SIDE[spatial_dims] ** spatial_dims))
        self.scales = nn.Buffer(torch.ones(2))
        self.strength = Strength()
        self.block = block_of(patch_size, spatial_dims)

    def critic(self, patches: Tensor) -> Tensor:
        """How real patches look to the discriminator: logits (B, 1)."""
        logits: Tensor = self.critic_head(self.trunk(patches))
        return logits

    def stages(self) -> Iterator[Stage]:
        critic = [*self.trunk.parameters(), *self.critic_head.parameters()]
        rate, betas = self.learning_rate, (0.5, 0.999)
        optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=rate, betas=betas),
            "critic": torch.optim.Adam(critic, lr=rate, betas=betas),
        }
        networks = self.generator, nn.Sequential(self.trunk, self.critic_head)
        gan = GAN(*networks, self.latent_dim, "bce", rate, betas, initialise=init_dcgan)
        yield Stage("GAN", optimizers, keep="last", gan=gan)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        fake = self.generator(torch.randn(len(batch), self.latent_dim, device=batch.device))
        losses = {"critic": critic_loss_bce(self.critic, batch, fake.detach())}
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()

        losses["generator"] = bce_towards(self.critic(fake), 1.0)
        stage.optimizers["generator"].zero_grad()
        torch.autograd.backward(losses["generator"], inputs=list(self.generator.parameters()))
        stage.optimizers["generator"].step()

        self.steps.add_(1)
        follow(self.average, self.generator, warming_up(0.999, int(self.steps)))
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Draw the images of the bank, and fit the scales: median distances of training patches to the nearest one."""
        if self.steps == 0:  # a grid trained the generator, and there is no average on the way
            self.average.load_state_dict(self.generator.state_dict())
        settle(self.average, self.bank.split(128))
        self.pictures.copy_(in_blocks(lambda codes: self._small(self.average(codes)), self.bank, block=self.block))
        patches = torch.cat(list(islice(batches, MAX_BATCHES)))
        self.strength.fit(amount_of(patches))
        nearest = self.bank[self._nearest(patches, 1)[:, 0]]
        features = in_blocks(self.trunk, patches, block=self.block)
        distances = in_blocks(self._distances, nearest, patches, features, block=self.block)
        self.scales.copy_(distances.median(dim=0).values.clamp(min=1e-8))

    def _small(self, patches: Tensor) -> Tensor:
        """Small pictures of patches, as rows of numbers: (B, C * 16 * 16) or (B, C * 8 * 8 * 8)."""
        pool = F.adaptive_avg_pool2d if self.spatial_dims == 2 else F.adaptive_avg_pool3d
        return pool(patches, PICTURE_SIDE[self.spatial_dims]).flatten(1)

    def _nearest(self, patches: Tensor, n: int) -> Tensor:
        """Numbers (B, n) of the codes of the bank whose images are most like the patches, the best first."""

        def look_up(patches: Tensor) -> Tensor:
            return torch.cdist(self._small(patches), self.pictures, p=1).topk(n, largest=False).indices

        return in_blocks(look_up, patches, block=self.block)

    def _distances(self, codes: Tensor, patches: Tensor, features: Tensor) -> Tensor:
        """Mean absolute differences (B, 2) of the codes' images from the patches, and of their features."""
        made = self.average(codes)
        residual, other = (made - patches).abs().flatten(1), (self.trunk(made) - features).abs().flatten(1)
        return torch.stack([residual.mean(dim=1), other.mean(dim=1)], dim=1)

    def search(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (B, latent_dim) whose images are most like the patches, and the losses (B,) that are left."""
        with torch.no_grad():
            starts = self.bank[self._nearest(patches, self.restarts)]
            features = in_blocks(self.trunk, patches, block=self.block)
        weights = torch.tensor([1 - self.feature_weight, self.feature_weight], device=patches.device) / self.scales

        def loss(codes: Tensor, samples: Tensor) -> Tensor:
            return self._distances(codes, patches[samples], features[samples]) @ weights

        return search_codes(loss, starts, self.search_steps, self.step_size, block=self.block)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """The images that the search finds: (B, C, H, W[, D]), like ``patches``."""
        codes, _ = self.search(patches)
        with torch.no_grad():
            return in_blocks(self.average, codes, block=self.block)

    def score(self, patches: Tensor) -> Tensor:
        if self.score_kind == "residual":
            scores = (patches - self.reconstruct(patches)).abs().mean(dim=1, keepdim=True)
        else:
            scores = self.search(patches)[1][:, None]
        if self.relative:
            scores = self.strength.divide(scores, patches)
        return scores

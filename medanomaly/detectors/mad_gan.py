"""MAD-GAN: several generators share the normal patches among them; abnormal is what none of them can draw.

The multi-agent diverse GAN of Ghosh et al., CVPR 2018, arXiv 1704.02906: the discriminator also says which generator
made a patch, so that each keeps to what the others leave. The paper detects nothing; the score is ours, with an encoder
for each generator, as in f-AnoGAN, which finds the codes of patches without a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.samples import first_batches
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError, check_count
from medanomaly.networks.averages import average_of, follow, settle, warming_up
from medanomaly.networks.dcgan import dcgan_decoder, dcgan_head, dcgan_trunk, init_dcgan
from medanomaly.networks.layers import UnitRMS
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength, amount_of

OWN_LAYERS = 4  # of each generator, counted from the end: convolution, batch norm, ReLU, convolution
SETTLING_CODES = 1024  # for the batch norms of the average
MAX_SAMPLES = 512  # training patches whose residuals and strength the scales are taken from


class Generators(nn.Module):
    """``n`` DCGAN generators that share all but their last two convolutions."""

    def __init__(self, n: int, out_channels: int, shape: tuple[int, int, int], latent_dim: int) -> None:
        super().__init__()
        decoders = [dcgan_decoder(out_channels, *shape, latent_dim=latent_dim) for _ in range(n)]
        self.shared = nn.Sequential(UnitRMS(), *list(decoders[0])[:-OWN_LAYERS])
        self.own = nn.ModuleList(decoder[-OWN_LAYERS:] for decoder in decoders)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, n, latent_dim), one for each generator, to patches (B, n, C, s, s[, s])."""
        features = self.shared(codes.flatten(0, 1))
        features = torch.unflatten(features, 0, [codes.shape[0], codes.shape[1]])
        made = []
        for number, own in enumerate(self.own):
            made.append(own(features[:, number]))
        return torch.stack(made, dim=1)


class MadGAN(Detector):
    """MAD-GAN with several generators, on patches.

    Scores (B, 1): ``(1 - w) * r + w * (1 - p)``, w the ``critic_weight``, ``r`` the mean absolute difference of the
    patch and what the best generator draws for it, divided by its median on training patches, and ``p`` the probability
    of the discriminator that the patch is real. Or a map (B, 1, H, W[, D]), by ``score``.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        generators: how many; with one, it is a plain GAN.
        latent_dim: length of the codes.
        features: channels of the first convolution; 32 in 2-D and 16 in 3-D if not given (DCGAN: 64).
        learning_rate: of the GAN's two Adam optimisers, with betas (0.5, 0.999).
        encoder_learning_rate: of the encoders' Adam.
        critic_weight: of the discriminator in the score.
        score: "combined", as above, or "residual", the map ``mean_c |x - x_hat|`` of the best generator.
        relative: divide residuals by the patch's mean absolute intensity (ours). Keep it off where brightness is a
            sign, as on MRI; turn it on where normal images differ in how much they show, as clothes do.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        generators: int = 3,
        latent_dim: int = 100,
        features: int | None = None,
        learning_rate: float = 2e-4,
        encoder_learning_rate: float = 1e-3,
        critic_weight: float = 0.1,
        score: str = "combined",
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        check_count("generators", generators)
        if score not in ("combined", "residual"):
            raise ConfigError(f"score is {score!r}: use one of combined, residual.")
        features = features or (32 if spatial_dims == 2 else 16)
        shape = (patch_size, spatial_dims, features)
        self.n_generators, self.latent_dim, self.critic_weight = generators, latent_dim, critic_weight
        self.learning_rate, self.encoder_learning_rate = learning_rate, encoder_learning_rate
        self.score_kind, self.relative = score, relative

        self.generators = Generators(generators, in_channels, shape, latent_dim)
        self.trunk = dcgan_trunk(in_channels, *shape, norm="batch")
        self.critic_head = dcgan_head(*shape, out_channels=generators + 1)
        self.encoder = nn.Sequential(  # the encoders share their convolutions, as the generators do
            dcgan_trunk(in_channels, *shape, norm="batch"), dcgan_head(*shape, out_channels=generators * latent_dim)
        )
        self.apply(init_dcgan)
        self.average = average_of(self.generators)
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))
        self.strength = Strength()
        self.scale = nn.Buffer(torch.ones(()))

    def critic(self, patches: Tensor) -> Tensor:
        """Who made the patches: logits (B, generators + 1), one for each generator and the last for none, "real"."""
        logits: Tensor = self.critic_head(self.trunk(patches))
        return logits

    def stages(self) -> Iterator[Stage]:
        critic = [*self.trunk.parameters(), *self.critic_head.parameters()]
        rate, betas = self.learning_rate, (0.5, 0.999)
        optimizers = {
            "critic": torch.optim.Adam(critic, lr=rate, betas=betas),
            "generators": torch.optim.Adam(self.generators.parameters(), lr=rate, betas=betas),
        }
        yield Stage("GAN", optimizers, keep="last", still_to_come=1)
        settle(self.average, self._random_codes(SETTLING_CODES // self.n_generators + 1).split(128))
        encoder = torch.optim.Adam(self.encoder.parameters(), lr=self.encoder_learning_rate)
        yield Stage("encoders", {"encoders": encoder})

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        return self._encoder_step(batch, stage) if "encoders" in stage.optimizers else self._gan_step(batch, stage)

    def _random_codes(self, n: int) -> Tensor:
        return torch.randn(n, self.n_generators, self.latent_dim, device=self.steps.device)

    def _gan_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        """A step of the discriminator, then one of the generators, each of which draws its share of a batch."""
        fake = self.generators(self._random_codes(-(-len(batch) // self.n_generators))).flatten(0, 1)
        maker = torch.arange(len(fake), device=batch.device) % self.n_generators
        real_logits, fake_logits = self.critic(batch), self.critic(fake.detach())
        losses = {
            "critic": 0.5 * (F.cross_entropy(real_logits, self._real(batch)) + F.cross_entropy(fake_logits, maker))
        }
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()

        losses["generators"] = F.cross_entropy(self.critic(fake), self._real(fake))
        stage.optimizers["generators"].zero_grad()
        torch.autograd.backward(losses["generators"], inputs=list(self.generators.parameters()))
        stage.optimizers["generators"].step()

        self.steps.add_(1)
        follow(self.average, self.generators, warming_up(0.999, int(self.steps)))
        told_apart = (fake_logits[:, :-1].argmax(dim=1) == maker).float().mean()
        return {**{name: loss.detach() for name, loss in losses.items()}, "generators told apart": told_apart}

    def _real(self, patches: Tensor) -> Tensor:
        """The class of patches that no generator made, (B,)."""
        return torch.full((len(patches),), self.n_generators, device=patches.device)

    def _encoder_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Each encoder learns to find the code for its generator; these are as they were."""
        self.average.eval()
        loss = self._residuals(batch, self._drawn(batch)).mean()
        stage.optimizers["encoders"].zero_grad()
        torch.autograd.backward(loss, inputs=list(self.encoder.parameters()))
        stage.optimizers["encoders"].step()
        return {"encoders": loss.detach()}

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """Mean residual of the best generator; no loss ranks the epochs of the GAN."""
        return self._residuals(batch, self._drawn(batch)).min(dim=1).values.mean()

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Median residual of training patches, and how much they usually show."""
        taken = first_batches(batches, MAX_SAMPLES)
        self.strength.fit(amount_of(torch.cat(taken)))
        residuals = torch.cat([self._least_residual(batch) for batch in taken])
        self.scale.copy_(residuals.median().clamp(min=1e-8))

    def _drawn(self, patches: Tensor) -> Tensor:
        """What each generator draws from the code of its encoder: (B, generators, C, H, W[, D])."""
        codes = torch.unflatten(self.encoder(patches), 1, [self.n_generators, self.latent_dim])
        drawn: Tensor = self.average(codes)
        return drawn

    def _residuals(self, patches: Tensor, drawn: Tensor) -> Tensor:
        """Mean absolute difference of patches (B, C, ...) and what each generator draws: (B, generators)."""
        return (patches[:, None] - drawn).abs().flatten(2).mean(dim=2)

    def _least_residual(self, patches: Tensor) -> Tensor:
        """The residual of the best generator, (B,), relative to the patch's strength if that is asked for."""
        residual = self._residuals(patches, self._drawn(patches)).min(dim=1).values
        return residual / self.strength(patches) if self.relative else residual

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the best generator draws: (B, C, H, W[, D]), like ``patches``."""
        drawn = self._drawn(patches)
        best = self._residuals(patches, drawn).argmin(dim=1)
        return drawn[torch.arange(patches.shape[0], device=patches.device), best]

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind == "residual":
            residual = torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)
            if self.relative:
                residual = self.strength.divide(residual, patches)
            return residual[:n]
        real = torch.softmax(self.critic(patches), dim=1)[:, -1]
        scores = (1 - self.critic_weight) * self._least_residual(patches) / self.scale + self.critic_weight * (1 - real)
        return scores[:n, None]

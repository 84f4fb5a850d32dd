"""GANomaly: encode a patch, decode the code, encode the decoded patch again; abnormal where the two codes differ.

Two variants (Akcay et al., ACCV 2018, arXiv 1805.06725; Madzia-Madzou & Kuijf, SPIE 2022, arXiv 2206.03876):

- ``"A"``, the original: two encoders of their own inside the generator, a discriminator beside them.
- ``"K"``: the discriminator is the encoder; one trunk gives the features, the critic's value and both codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import ModifiedScore, at_least_four
from medanomaly.errors import ConfigError, TrainingError
from medanomaly.networks.dcgan import dcgan_decoder, dcgan_head, dcgan_trunk, init_dcgan, init_he
from medanomaly.networks.layers import UnitRMS
from medanomaly.networks.losses import critic_loss_bce, critic_loss_wgan_gp
from medanomaly.networks.stages import Stage

# What the papers state: weights of adversarial, contextual and encoder loss; learning rate; critic; score
PAPER_SETTINGS = {
    "A": ((1.0, 50.0, 1.0), 2e-4, "bce", "encoder"),
    "K": ((1.0, 70.0, 10.0), 2e-3, "wgan-gp", "modified"),
}
# Madzia-Madzou & Kuijf do not give K's layers. With ours and a gradient penalty, at their rate of 2e-3 losses diverge.
WGAN_GP_LEARNING_RATE = 5e-4


class GANomaly(Detector):
    """GANomaly on patches.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        latent_dim: length of the codes z and z_hat.
        variant: "A" (two encoders) or "K" (the discriminator encodes).
        critic: "bce" or "wgan-gp", the loss of the discriminator; the variant's paper if not given.
        features: channels of the first convolution; 64 in 2-D and 32 in 3-D if not given.
        weights: of the adversarial, contextual and encoder loss; the variant's paper if not given.
        learning_rate: of both Adam optimisers, with betas (0.5, 0.999); if not given, the variant's paper, but 5e-4
            for variant K with "wgan-gp".
        score: "encoder", the mean of ``(z - z_hat)^2``; "modified", the same with each element's median subtracted and
            divided by its median absolute deviation on training patches; "residual", the map ``mean_c |x - x_hat|``.
            The variant's paper if not given.
        unit_code: divide each code by its root mean square (ours). The size of a code tells how much there is of what
            the patch shows: keep it where brightness is a sign, as on MRI; drop it where normal images differ in that.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        latent_dim: int = 100,
        variant: str = "A",
        critic: str | None = None,
        features: int | None = None,
        weights: tuple[float, float, float] | None = None,
        learning_rate: float | None = None,
        score: str | None = None,
        unit_code: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        paper_weights, paper_rate, paper_critic, paper_score = PAPER_SETTINGS.get(variant, PAPER_SETTINGS["A"])
        critic, score = critic or paper_critic, score or paper_score
        for name, value, known in (
            ("variant", variant, ("A", "K")),
            ("critic", critic, ("bce", "wgan-gp")),
            ("score", score, ("encoder", "modified", "residual")),
        ):
            if value not in known:
                raise ConfigError(f"GANomaly: {name} is {value!r}; use one of {', '.join(map(repr, known))}.")
        features = features or (64 if spatial_dims == 2 else 32)
        self.variant, self.critic_loss, self.score_kind = variant, critic, score
        self.weights = tuple(weights or paper_weights)
        default_rate = WGAN_GP_LEARNING_RATE if (variant, critic) == ("K", "wgan-gp") else paper_rate
        self.learning_rate = learning_rate or default_rate

        def head() -> nn.Sequential:
            linear = dcgan_head(patch_size, spatial_dims, features, latent_dim)
            return linear.append(UnitRMS()) if unit_code else linear

        norm = None if critic == "wgan-gp" else "batch"
        shape = (patch_size, spatial_dims, features)
        self.trunk = dcgan_trunk(in_channels, *shape, norm=norm)
        self.critic_head = dcgan_head(*shape, out_channels=1)
        if variant == "K":
            self.encoder = nn.Sequential(self.trunk, head())
            self.reencoder = self.encoder
        else:
            self.encoder, self.reencoder = (
                nn.Sequential(dcgan_trunk(in_channels, *shape, norm="batch"), head()) for _ in range(2)
            )
        self.decoder = dcgan_decoder(in_channels, *shape, latent_dim=latent_dim)
        if variant == "K":  # as in Progressive GANomaly: whatever a code's size, images stay within what was learned
            self.decoder.insert(0, UnitRMS())
        self.apply(init_dcgan)
        if norm is None:
            for part in (self.trunk, self.critic_head, *(self.encoder if variant == "K" else ())):
                part.apply(init_he)
        self.modified = ModifiedScore(latent_dim)

    def critic(self, patches: Tensor) -> Tensor:
        """How real patches look to the discriminator: logits or critic values, (B, 1)."""
        values: Tensor = self.critic_head(self.trunk(patches))
        return values

    def stages(self) -> Iterator[Stage]:
        generator = list(self.encoder.parameters()) + list(self.decoder.parameters())
        if self.variant == "A":
            generator += list(self.reencoder.parameters())
        critic = list(self.trunk.parameters()) + list(self.critic_head.parameters())
        betas = (0.5, 0.999)
        optimizers = {
            "generator": torch.optim.Adam(generator, lr=self.learning_rate, betas=betas),
            "critic": torch.optim.Adam(critic, lr=self.learning_rate, betas=betas),
        }
        yield Stage("GANomaly", optimizers)

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        z = self.encoder(batch)
        reconstruction = self.decoder(z)
        losses = self._generator_losses(batch, z, reconstruction)
        adversarial, contextual, encoder = (w * loss for w, loss in zip(self.weights, losses.values(), strict=True))
        stage.optimizers["generator"].zero_grad()
        if self.variant == "K":  # the trunk learns from the contextual loss alone, the rest from all three
            rest = [*self.encoder[1].parameters(), *self.decoder.parameters()]
            torch.autograd.backward(adversarial + contextual + encoder, inputs=rest, retain_graph=True)
            torch.autograd.backward(contextual, inputs=list(self.trunk.parameters()))
        else:
            torch.autograd.backward(adversarial + contextual + encoder)
        stage.optimizers["generator"].step()

        critic_loss = critic_loss_bce if self.critic_loss == "bce" else critic_loss_wgan_gp
        losses["critic"] = critic_loss(self.critic, batch, reconstruction.detach())
        stage.optimizers["critic"].zero_grad()
        torch.autograd.backward(losses["critic"])
        stage.optimizers["critic"].step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _generator_losses(self, batch: Tensor, z: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Equations 1 to 3 of both papers as means of squares or of absolute values, as in Akcay's code.

        The trunk is frozen where the reconstruction passes it: otherwise the adversarial loss could be lowered by
        making the features constant. In variant K, z is held still in the encoder loss, which could otherwise shrink
        both codes; and only the contextual loss reaches the trunk (see ``training_step``).
        """
        frozen = {name: parameter.detach() for name, parameter in self.trunk.named_parameters()}
        with torch.no_grad():
            real_features = self.trunk(batch)
        fake_features = functional_call(self.trunk, frozen, (reconstruction,))
        if self.variant == "K":
            z, z_hat = z.detach(), self.reencoder[1](fake_features)
        else:
            z_hat = self.reencoder(reconstruction)
        return {
            "adversarial": F.mse_loss(fake_features, real_features),
            "contextual": F.l1_loss(reconstruction, batch),
            "encoder": F.mse_loss(z_hat, z),
        }

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """Weighted contextual plus encoder loss: the adversarial term cannot be compared between epochs."""
        z = self.encoder(batch)
        reconstruction = self.decoder(z)
        contextual, encoder = F.l1_loss(reconstruction, batch), F.mse_loss(self.reencoder(reconstruction), z)
        return self.weights[1] * contextual + self.weights[2] * encoder

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Median and MAD of each element of (z - z_hat)^2 over training patches (Madzia-Madzou & Kuijf, section 2.2.2).

        Raises:
            TrainingError: if the code has collapsed, so that every patch would get the same score.
        """
        errors = torch.cat([self.code_errors(batch) for batch in batches])
        if not torch.isfinite(errors).all() or errors.max() == 0:
            raise TrainingError(
                "GANomaly: the latent code collapsed or is not finite; lower learning_rate and train again."
            )
        self.modified.fit(errors)

    def code_errors(self, patches: Tensor) -> Tensor:
        """(z - z_hat)^2 for each element of the code: (B, latent_dim)."""
        z = self.encoder(patches)
        return torch.square(z - self.reencoder(self.decoder(z)))

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the decoder makes of the patches' codes: (B, C, H, W[, D]), like ``patches``."""
        reconstruction: Tensor = self.decoder(self.encoder(patches))
        return reconstruction

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind == "residual":
            return torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)[:n]
        errors = self.code_errors(patches)[:n]
        if self.score_kind == "modified":
            errors = self.modified(errors)
        return errors.mean(dim=1, keepdim=True)

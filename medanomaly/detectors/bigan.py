"""BiGAN: a generator and an encoder play together against one discriminator, which sees pairs of a patch and a code.

Pairs (x, E(x)) of patches and their codes are to be taken for pairs (G(z), z) of codes and what is made of them, and
the other way round; at the optimum, E and G are inverses of each other (Donahue et al., ICLR 2017, arXiv 1605.09782).
Abnormal is what G(E(x)) does not return (Zenati et al. 2018, arXiv 1802.06222, who call it EGBAD).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four, fit_parts
from medanomaly.errors import ConfigError
from medanomaly.networks.averages import average_of, follow, measure_batch_norm, warming_up
from medanomaly.networks.dcgan import dcgan_decoder, dcgan_head, dcgan_trunk, init_dcgan
from medanomaly.networks.losses import bce_towards
from medanomaly.networks.pairs import of_image_and_code
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength


class BiGAN(Detector):
    """BiGAN on patches.

    Differences from the papers: the networks are DCGAN's; no layer of the discriminator has batch norm; ``cycle``; the
    two parts of the score are means, each divided by its median over training patches, so that ``critic_weight`` means
    what it says (sums would weigh them by the numbers of voxels and features).

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        latent_dim: length of the codes, which are drawn from N(0, 1).
        features: channels of the first convolution; 64 in 2-D and 32 in 3-D if not given.
        cycle: weight of ``||x - G(E(x))||_1``, a mean over voxels, in the loss of E and G; 0 is the papers' objective.
            The bundle has 10: with 1, patches of brains came back less well than a flat patch would have done.
            Ours, as far as BiGAN goes: E and G are inverses only at the optimum, which a GAN does not reach; before it,
            a reconstruction looks real, but is of another patch. Li et al. (ALICE, 2017, arXiv 1709.01215) add such a
            term to the same game; Schlegl et al. (f-AnoGAN, 2019) train an encoder by it.
        dropout: of the discriminator's dense layers (Zenati et al.: 0.5).
        learning_rate: of both Adam optimisers, with betas (0.5, 0.999) (Zenati et al.: 1e-5, over many more steps).
        decay: share of the running averages of the weights, with which it scores, that a step keeps; less at first.
        score: "features", the residual ``|x - G(E(x))|`` and how far the discriminator's last features of
            (x, E(x)) and (G(E(x)), E(x)) are apart; "cross-entropy", the residual and how unreal the discriminator
            finds (G(E(x)), E(x)); "residual", the map ``mean_c |x - G(E(x))|``.
        critic_weight: of the discriminator's part in the score; 1 - ``critic_weight`` is that of the residual.
        relative: divide each score by the patch's mean absolute value (ours), for images that differ in how much they
            show; not for MRI, where brightness is a sign.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        latent_dim: int = 100,
        features: int | None = None,
        cycle: float = 1.0,
        dropout: float = 0.5,
        learning_rate: float = 2e-4,
        decay: float = 0.999,
        score: str = "features",
        critic_weight: float = 0.1,
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if score not in ("features", "cross-entropy", "residual"):
            raise ConfigError(f"BiGAN: score is {score!r}; use one of 'features', 'cross-entropy', 'residual'.")
        if cycle < 0:
            raise ConfigError(f"BiGAN: cycle is {cycle}; a weight is at least 0.")
        if not 0 <= critic_weight <= 1:
            raise ConfigError(f"BiGAN: critic_weight is {critic_weight}; it must be from 0 to 1.")
        self.latent_dim, self.cycle, self.learning_rate = latent_dim, cycle, learning_rate
        self.decay, self.score_kind, self.critic_weight, self.relative = decay, score, critic_weight, relative
        features = features or (64 if spatial_dims == 2 else 32)
        shape = (patch_size, spatial_dims, features)

        encoder = nn.Sequential(dcgan_trunk(in_channels, *shape, norm="batch"), dcgan_head(*shape, latent_dim))
        generator = dcgan_decoder(in_channels, *shape, latent_dim=latent_dim)
        discriminator = of_image_and_code(
            in_channels, *shape, latent_dim, 16 * features, code_layers=1, dropout=dropout
        )
        self.trained = nn.ModuleDict(
            {
                "encoder": encoder.apply(init_dcgan),
                "generator": generator.apply(init_dcgan),
                "discriminator": discriminator,
            }
        )
        self.average = average_of(self.trained)
        self.steps = nn.Buffer(torch.tensor(0))
        self.strength = Strength()
        self.medians = nn.Buffer(torch.ones(2))

    def stages(self) -> Iterator[Stage]:
        players = [*self.trained["encoder"].parameters(), *self.trained["generator"].parameters()]
        rate, betas = self.learning_rate, (0.5, 0.999)
        optimizers = {
            "players": torch.optim.Adam(players, lr=rate, betas=betas),
            "discriminator": torch.optim.Adam(self.trained["discriminator"].parameters(), lr=rate, betas=betas),
        }
        yield Stage("BiGAN", optimizers, keep="last")

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        z = torch.randn(len(batch), self.latent_dim, device=batch.device)
        code = self.trained["encoder"](batch)
        # drawn and found codes together, so that batch norm sees both in one measure
        made = self.trained["generator"](torch.cat([z, code]) if self.cycle > 0 else z)
        made, again = made[: len(batch)], made[len(batch) :]

        losses = {"discriminator": self.discriminator_loss(batch, code.detach(), made.detach(), z)}
        stage.optimizers["discriminator"].zero_grad()
        torch.autograd.backward(losses["discriminator"])
        stage.optimizers["discriminator"].step()

        losses |= self.player_losses(batch, code, made, z)
        loss = losses["encoder"] + losses["generator"]
        if self.cycle > 0:
            losses["cycle"] = F.l1_loss(again, batch)
            loss = loss + self.cycle * losses["cycle"]
        optimizer = stage.optimizers["players"]
        optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=optimizer.param_groups[0]["params"])
        optimizer.step()

        self.steps.add_(1)
        follow(self.average, self.trained, warming_up(self.decay, int(self.steps)))
        return {name: loss.detach() for name, loss in losses.items()}

    def discriminator_loss(self, patches: Tensor, code: Tensor, made: Tensor, z: Tensor) -> Tensor:
        """The discriminator learns to call (x, E(x)) 1 and (G(z), z) 0."""
        tell = self.trained["discriminator"]
        return bce_towards(tell(patches, code), 1.0) + bce_towards(tell(made, z), 0.0)

    def player_losses(self, patches: Tensor, code: Tensor, made: Tensor, z: Tensor) -> dict[str, Tensor]:
        """The encoder and the generator learn to have their pairs taken for the other's: the labels swapped."""
        tell = self.trained["discriminator"]
        return {"encoder": bce_towards(tell(patches, code), 0.0), "generator": bce_towards(tell(made, z), 1.0)}

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Over training patches: batch norm's statistics of the averaged networks, then the medians of the parts."""
        batches = measure_batch_norm(nn.Sequential(self.average["encoder"], self.average["generator"]), batches)
        fit_parts(batches, self.parts, self.medians, self.strength)

    def parts(self, patches: Tensor) -> Tensor:
        """Of each patch, the mean residual and what the discriminator finds: (B, 2)."""
        code = self.average["encoder"](patches)
        again = self.average["generator"](code)
        if self.score_kind == "cross-entropy":
            found = F.softplus(-self.average["discriminator"](again, code))[:, 0]  # the cross-entropy towards 1
        else:
            tell = self.average["discriminator"]
            features, others = tell.features(patches, code), tell.features(again, code)  # type: ignore[operator]
            found = torch.abs(features - others).mean(dim=1)
        return torch.stack([torch.abs(patches - again).flatten(1).mean(dim=1), found], dim=1)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the generator makes of the patches' codes: (B, C, H, W[, D]), like ``patches``."""
        reconstruction: Tensor = self.average["generator"](self.average["encoder"](patches))
        return reconstruction

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind == "residual":
            scores = torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)
        else:
            parts = self.parts(patches) / self.medians
            scores = (1 - self.critic_weight) * parts[:, :1] + self.critic_weight * parts[:, 1:]
        if self.relative:
            scores = self.strength.divide(scores, patches)
        return scores[:n]

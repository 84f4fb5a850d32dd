"""ALAD: BiGAN with two discriminators more, which hold patch and code to their cycles, and spectral norm.

Zenati et al., ICDM 2018, arXiv 1812.02288. Beside pairs (x, E(x)) and (G(z), z), as in BiGAN, pairs (x, x) are told
from (x, G(E(x))), and (z, z) from (z, E(G(z))). Abnormal is a patch whose (x, G(E(x))) looks to the discriminator of
two images unlike (x, x).
"""

from __future__ import annotations

import copy
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
from medanomaly.networks.pairs import of_image_and_code, of_two_codes, of_two_images, with_spectral_norm
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength


class ALAD(Detector):
    """ALAD on patches.

    Differences from the paper: a discriminator of two images sees them as channels of one (the authors' code joins them
    along the height); discriminators have spectral norm and no batch norm; half as many channels; ``cycle``; and the
    last weights are kept: the validation score that the authors stop by is measured by a discriminator that changes,
    and is lowest where that discriminator tells least.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64.
        latent_dim: length of the codes, which are drawn from N(0, 1).
        features: channels of the first convolution of encoder, generator and discriminator of image and code (twice
            those of the discriminator of two images); 64 in 2-D and 32 in 3-D if not given (paper: 128).
        code_discriminator: whether there is a discriminator of two codes.
        spectral_norm: of the encoder and the discriminators.
        cycle: weight of ``||x - G(E(x))||_1``, a mean over voxels, in the loss of E and G; 0 is the paper's objective.
            The bundle has 10: with 1, patches of brains came back less well than a flat patch would have done.
            Ours, as in :class:`BiGAN`: the discriminator of two images asks for the same, but teaches it slowly.
        dropout: of the discriminators.
        learning_rate: of both Adam optimisers, with betas (0.5, 0.999).
        decay: share of the running averages of the weights, with which it scores, that a step keeps; less at first.
        score: "features", how far the last features of (x, x) and (x, G(E(x))) are apart, a mean; "residual", the map
            ``mean_c |x - G(E(x))|``; "both", the sum of the first and of the second's mean, each divided by its median
            over training patches (ours).
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
        code_discriminator: bool = True,
        spectral_norm: bool = True,
        cycle: float = 1.0,
        dropout: float = 0.2,
        learning_rate: float = 2e-4,
        decay: float = 0.999,
        score: str = "features",
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if score not in ("features", "residual", "both"):
            raise ConfigError(f"ALAD: score is {score!r}; use one of 'features', 'residual', 'both'.")
        if cycle < 0:
            raise ConfigError(f"ALAD: cycle is {cycle}; a weight is at least 0.")
        self.latent_dim, self.cycle, self.learning_rate = latent_dim, cycle, learning_rate
        self.decay, self.score_kind, self.relative = decay, score, relative
        features = features or (64 if spatial_dims == 2 else 32)
        shape = (patch_size, spatial_dims, features)

        encoder = nn.Sequential(dcgan_trunk(in_channels, *shape, norm="batch"), dcgan_head(*shape, latent_dim))
        generator = dcgan_decoder(in_channels, *shape, latent_dim=latent_dim)
        discriminators = {
            "pairs": of_image_and_code(in_channels, *shape, latent_dim, 8 * features, code_layers=2, dropout=dropout),
            "images": of_two_images(in_channels, patch_size, spatial_dims, max(features // 2, 1), dropout),
        }
        if code_discriminator:
            discriminators["codes"] = of_two_codes(latent_dim, (64, 32), dropout)
        networks = {"encoder": encoder.apply(init_dcgan), "generator": generator.apply(init_dcgan), **discriminators}
        self.discriminators = tuple(discriminators)
        self.trained = nn.ModuleDict(networks)
        self.average = average_of(nn.ModuleDict({name: networks[name] for name in ("encoder", "generator", "images")}))
        self.steps, self.medians = nn.Buffer(torch.tensor(0)), nn.Buffer(torch.ones(2))
        self.strength = Strength()
        if spectral_norm:
            for name in ("encoder", *discriminators):
                with_spectral_norm(networks[name])
            self._follow(0.0)

    def stages(self) -> Iterator[Stage]:
        rate, betas = self.learning_rate, (0.5, 0.999)

        def adam(*names: str) -> torch.optim.Adam:
            return torch.optim.Adam(
                [p for name in names for p in self.trained[name].parameters()], lr=rate, betas=betas
            )

        optimizers = {"players": adam("encoder", "generator"), "discriminators": adam(*self.discriminators)}
        yield Stage("ALAD", optimizers, keep="last")

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        z = torch.randn(len(batch), self.latent_dim, device=batch.device)
        code = self.trained["encoder"](batch)
        # drawn and found codes together, so that batch norm sees both in one measure
        made, again = self.trained["generator"](torch.cat([z, code])).split(len(batch))
        recode = self.trained["encoder"](made)

        found = (code.detach(), made.detach(), again.detach(), recode.detach())
        told = sum(self.discriminator_losses(batch, z, *found).values(), torch.zeros(()))
        stage.optimizers["discriminators"].zero_grad()
        torch.autograd.backward(told)
        stage.optimizers["discriminators"].step()

        losses = self.player_losses(batch, z, code, made, again, recode)
        losses["cycle"] = F.l1_loss(again, batch)
        loss = sum((loss for name, loss in losses.items() if name != "cycle"), self.cycle * losses["cycle"])
        optimizer = stage.optimizers["players"]
        optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=optimizer.param_groups[0]["params"])
        optimizer.step()

        self.steps.add_(1)
        self._follow(warming_up(self.decay, int(self.steps)))
        return {name: loss.detach() for name, loss in {"discriminators": told, **losses}.items()}

    def _follow(self, decay: float) -> None:
        for name, average in self.average.items():
            follow(average, self.trained[name], decay)

    def discriminator_losses(
        self, x: Tensor, z: Tensor, code: Tensor, made: Tensor, again: Tensor, recode: Tensor
    ) -> dict[str, Tensor]:
        """Three games: (x, E(x)) is 1 and (G(z), z) is 0; (x, x) 1, (x, G(E(x))) 0; (z, z) 1, (z, E(G(z))) 0."""
        real = {"pairs": (x, code), "images": (x, x), "codes": (z, z)}
        fake = {"pairs": (made, z), "images": (x, again), "codes": (z, recode)}
        return {
            name: bce_towards(self.trained[name](*real[name]), 1.0) + bce_towards(self.trained[name](*fake[name]), 0.0)
            for name in self.discriminators
        }

    def player_losses(
        self, x: Tensor, z: Tensor, code: Tensor, made: Tensor, again: Tensor, recode: Tensor
    ) -> dict[str, Tensor]:
        """The same games with the labels swapped, without (x, x) and (z, z), which E and G have no part in."""
        tell = self.trained
        losses = {
            "pairs": bce_towards(tell["pairs"](x, code), 0.0) + bce_towards(tell["pairs"](made, z), 1.0),
            "images": bce_towards(tell["images"](x, again), 1.0),
        }
        if "codes" in self.discriminators:
            losses["codes"] = bce_towards(tell["codes"](z, recode), 1.0)
        return losses

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Over training patches: batch norm's statistics of the averaged networks, then the medians of the parts."""
        batches = measure_batch_norm(nn.Sequential(self.average["encoder"], self.average["generator"]), batches)
        fit_parts(batches, self.parts, self.medians, self.strength)

    def parts(self, patches: Tensor) -> Tensor:
        """Of each patch, the mean residual, and how far the features of (x, G(E(x))) and (x, x) are apart: (B, 2)."""
        again = self.reconstruct(patches)
        tell = self.average["images"]
        same, other = tell.features(patches, patches), tell.features(patches, again)  # type: ignore[operator]
        apart = torch.abs(same - other).mean(dim=1)
        return torch.stack([torch.abs(patches - again).flatten(1).mean(dim=1), apart], dim=1)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the generator makes of the patches' codes: (B, C, H, W[, D]), like ``patches``."""
        reconstruction: Tensor = self.average["generator"](self.average["encoder"](patches))
        return reconstruction

    def score(self, patches: Tensor) -> Tensor:
        n = patches.shape[0]
        patches = at_least_four(patches)
        if self.score_kind == "residual":
            scores = torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)
        elif self.score_kind == "features":
            scores = self.parts(patches)[:, 1:]
        else:
            scores = (self.parts(patches) / self.medians).sum(dim=1, keepdim=True)
        if self.relative:
            scores = self.strength.divide(scores, patches)
        return scores[:n]

    def __prepare_scriptable__(self) -> Detector:
        """Without what learns, which a score does not need: TorchScript cannot read spectral norm."""
        exported = copy.deepcopy(super().__prepare_scriptable__())
        exported.trained = nn.ModuleDict()
        return exported

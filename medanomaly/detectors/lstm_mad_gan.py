"""MAD-GAN: a GAN of recurrent networks; abnormal is what its generator cannot make and its discriminator does not know.

Multivariate Anomaly Detection with GANs, Li et al., ICANN 2019, arXiv 1901.04997, is about series in time; here the
rows of a patch, or the planes of a cube, are the steps of a series. (Another system of that name, with several
generators, is that of Ghosh et al., arXiv 1704.02906.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError, TrainingError, check_count
from medanomaly.networks.layers import UnitRMS
from medanomaly.networks.losses import bce_towards, critic_loss_bce
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength, amount_of
from medanomaly.networks.windows import as_patches, as_series, cut_windows, join_windows, window_starts


class LSTMMADGAN(Detector):
    """MAD-GAN on the rows of patches; scores (B, 1, H, W[, D]), one a voxel.

    A voxel's score is ``(1 - w) * mean_c |x - G(z)| + w * (1 - D)``, w the ``critic_weight``, where D judges the
    voxel's step of the series; both parts are divided by their means over training patches, and of windows that
    overlap, the mean is taken. Ours, and why:

    * z comes from an encoder. It learns in a second stage, to give codes from which the generator makes the same window
      again, and the generator goes on learning with it: at first it makes few kinds of normal windows, as small
      recurrent GANs do, and of the others no code would be found. The paper searches for z of each window by gradient,
      which takes a pass forwards and backwards for each step of the search.
    * A code of a step is divided by its root mean square, of the encoder as of noise, so that the encoder asks for
      nothing that the generator was not trained to make; and it is short, or else rows would only be copied.
    * The discriminator learns by Adam, once for each step of the generator. With the authors' plain SGD at a rate of
      0.1, and three steps of the generator for one of its own, it learned nothing in the time that is given here.
    * The means, so that neither part drowns the other, and ``critic_weight`` means the same in all data.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` may be any.
        window: steps of a window, at most ``patch_size``; the whole patch if not given, which tells the networks where
            in the patch a step lies. The paper has 30.
        step: how far apart windows begin; a third of ``window`` if not given, as in the paper.
        latent_dim: length of the code of a step (paper: 15).
        features: hidden units of each LSTM (paper: 100).
        critic_weight: of the discriminator in the score, from 0 to 1; the authors' code has 0.8, too, of parts as they
            come.
        relative: divide residuals by the patch's mean absolute intensity (ours). Keep it off where brightness is a
            sign, as on MRI; turn it on where normal images differ in how much they show, as clothes do.
        learning_rate: of Adam, with betas (0.5, 0.999).
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        window: int | None = None,
        step: int | None = None,
        latent_dim: int = 4,
        features: int = 100,
        critic_weight: float = 0.8,
        relative: bool = False,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        window = patch_size if window is None else window
        step = max(window // 3, 1) if step is None else step
        for name, value in (("window", window), ("step", step), ("latent_dim", latent_dim), ("features", features)):
            check_count(name, value)
        if window > patch_size:
            raise ConfigError(f"window is {window}, but a patch has {patch_size} steps: set it to that at most.")
        if step > window:
            raise ConfigError(
                f"step is {step}, but windows of {window} that lie farther apart would miss some: lower it."
            )
        if not 0 <= critic_weight <= 1:
            raise ConfigError(
                f"critic_weight is {critic_weight}, but it is a share: 0 (residual alone) to 1 (discriminator alone)."
            )
        self.window, self.latent_dim, self.critic_weight, self.learning_rate = (
            window,
            latent_dim,
            critic_weight,
            learning_rate,
        )
        self.relative = relative
        self.starts = window_starts(patch_size, window, step)
        numbers = in_channels * patch_size ** (spatial_dims - 1)
        self.generator = StepByStep(latent_dim, features, numbers)
        self.discriminator = StepByStep(numbers, features, 1)
        self.encoder = StepByStep(numbers, features, latent_dim, both_ways=True)
        self.unit = UnitRMS()
        self.means = nn.Buffer(torch.ones(2))  # of residual and doubt, over training patches
        self.strength = Strength()

    def stages(self) -> Iterator[Stage]:
        networks = {"generator": [self.generator], "discriminator": [self.discriminator]}
        players = {name: self._adam(parts) for name, parts in networks.items()}
        yield Stage("GAN", players, keep="last", still_to_come=1)
        yield Stage("encoder and generator", {"reconstruction": self._adam([self.encoder, self.generator])})

    def _adam(self, networks: list[StepByStep]) -> torch.optim.Optimizer:
        parameters = [parameter for network in networks for parameter in network.parameters()]
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.5, 0.999))

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        windows = cut_windows(as_series(batch), self.window, self.starts)
        if "reconstruction" in stage.optimizers:
            loss = F.mse_loss(self.generator(self.encode(windows)).float(), windows)
            stage.optimizers["reconstruction"].zero_grad()
            torch.autograd.backward(loss)
            stage.optimizers["reconstruction"].step()
            return {"reconstruction": loss.detach()}

        critic_loss = critic_loss_bce(self.discriminator, windows, self.generator(self.noise(windows)).detach())
        stage.optimizers["discriminator"].zero_grad()
        torch.autograd.backward(critic_loss)
        stage.optimizers["discriminator"].step()

        loss = bce_towards(self.discriminator(self.generator(self.noise(windows))), 1.0)
        stage.optimizers["generator"].zero_grad()
        torch.autograd.backward(loss, inputs=list(self.generator.parameters()))
        stage.optimizers["generator"].step()
        return {"discriminator": critic_loss.detach(), "generator": loss.detach()}

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        """The mean squared error of reconstructions; it is not asked for while the GAN learns."""
        return F.mse_loss(self.reconstruct(batch), batch)

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """The mean residual, and how much the discriminator doubts on average.

        Raises:
            TrainingError: if one of them is 0 or not finite, so that nothing can be divided by it.
        """
        residuals, doubts, amounts = [], [], []
        for batch in batches:
            residual, doubt = (part.double().flatten(1).mean(dim=1) for part in self.parts(batch))
            residuals.append(residual)
            doubts.append(doubt)
            amounts.append(amount_of(batch))
        residual, amount = torch.cat(residuals), torch.cat(amounts)
        if self.relative:
            self.strength.fit(amount)
            residual = residual / self.strength.of_amounts(amount)
        self.means.copy_(torch.stack([residual.mean(), torch.cat(doubts).mean()]))
        if not torch.isfinite(self.means).all() or (self.means == 0).any():
            residual, doubt = self.means.tolist()
            raise TrainingError(
                f"LSTM MAD-GAN: the mean residual of training patches is {residual} and the discriminator's mean doubt "
                f"{doubt}, but both must be above 0 and finite: lower learning_rate and train again."
            )

    def noise(self, windows: Tensor) -> Tensor:
        """A random code for each step of windows (n, length, F): (n, length, latent_dim)."""
        codes = torch.randn(windows.shape[0] * self.window, self.latent_dim, device=windows.device)
        sized: Tensor = self.unit(codes)
        return sized.reshape(-1, self.window, self.latent_dim)

    def encode(self, windows: Tensor) -> Tensor:
        """The codes from which the generator makes windows (n, length, F) again: (n, length, latent_dim)."""
        sized: Tensor = self.unit(self.encoder(windows).flatten(0, 1))
        return sized.reshape(-1, self.window, self.latent_dim)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the generator makes of the patches' codes: (B, C, H, W[, D]), like ``patches``."""
        n = patches.shape[0]
        windows = cut_windows(as_series(at_least_four(patches)), self.window, self.starts)
        series = join_windows(self.generator(self.encode(windows)), self.patch_size, self.starts)
        return as_patches(series, self.in_channels, self.spatial_dims)[:n]

    def parts(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Of each voxel, ``mean_c |x - G(z)|`` and 1 - D, (B, 1, H, W[, D]) each."""
        n = patches.shape[0]
        windows = cut_windows(as_series(at_least_four(patches)), self.window, self.starts)
        doubt = join_windows(torch.sigmoid(-self.discriminator(windows)), self.patch_size, self.starts)[:n]
        residual = torch.abs(patches - self.reconstruct(patches)).mean(dim=1, keepdim=True)
        return residual, doubt.reshape([n, 1, self.patch_size] + [1] * (self.spatial_dims - 1)).expand_as(residual)

    def score(self, patches: Tensor) -> Tensor:
        with torch.no_grad():  # with gradients, torch takes another LSTM, whose sums differ a little
            residual, doubt = self.parts(patches)
        if self.relative:
            residual = self.strength.divide(residual, patches)
        return (1 - self.critic_weight) * residual / self.means[0] + self.critic_weight * doubt / self.means[1]


class StepByStep(nn.Module):
    """An LSTM and, on its output at each step, a linear layer: (n, length, in) to (n, length, out)."""

    def __init__(self, in_features: int, hidden: int, out_features: int, both_ways: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_features, hidden, batch_first=True, bidirectional=both_ways)
        self.linear = nn.Linear(hidden * (2 if both_ways else 1), out_features)

    def forward(self, series: Tensor) -> Tensor:
        hidden, _ = self.lstm(series)
        result: Tensor = self.linear(hidden)
        return result

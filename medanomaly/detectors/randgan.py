"""RandGAN: a generator fed by noise and by a normal image drawn at random; abnormal is what it cannot draw.

Motamed, Rogalla & Khalvati, Scientific Reports 2021, arXiv 2010.06418. An AnoGAN whose generator also sees an image, so
that it need not learn all of anatomy by heart. That image has nothing to do with the one that is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.errors import ConfigError, check_count
from medanomaly.networks.dcgan import dcgan_widths, init_dcgan, init_he
from medanomaly.networks.optimizers import rmsprop
from medanomaly.networks.search import block_of, in_blocks, search_codes
from medanomaly.networks.stages import Stage
from medanomaly.networks.strength import Strength, amount_of

MAX_BATCHES = 4  # of training patches, that the bank and the scales are taken from


class RandGAN(Detector):
    """RandGAN on patches, in 2-D.

    Scores (B, 1), the loss that the search ends with, or (B, 1, H, W), a map, by ``score``. Images are scaled from 0..1
    to the -1..1 of the generator's tanh inside; what is above 1 or below 0 cannot be drawn.

    Differences from the paper: widths are halved, and the base grid is half of the patch; noise reaches that grid by a
    transposed convolution (their reshape scrambles space); the image is drawn independently of the real batch (their
    code feeds the same one); the discriminator sees how much the images of a batch differ; batch norm is over channels;
    the two terms of the search are on a common scale; what is searched for is the code (they train a dense layer that
    makes it, and a convolution of the image); and the rates are ten times theirs, which took 500 epochs.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is 16, 32 or 64, in 2-D.
        latent_dim: length of the codes, which lie between 0 and 1.
        features: the first width of the branch that sees the image, a multiple of 8 (paper: 32, for 128 voxels).
        learning_rate: of the generator's corrected RMSprop (paper: 2e-5, over 500 epochs).
        critic_rate: of the discriminator's (paper: 4e-5).
        feature_weight: of the discriminator's features in the loss of the search; the voxels have the rest of 1.
        search_steps: most steps of a search (paper: 800), of ``step_size`` (Adam).
        restarts: starts of each search; after some steps the best goes on alone.
        bank_size: normal images that are kept: in training, those of the batches before, to draw from; then training
            images, and a patch is drawn with the one that lends itself best. One: the same random image for all.
        query_as_condition: show the generator the patch itself instead, as the paper's code does at test. It may then
            copy what is abnormal.
        score: "combined", the loss of the search, or "residual", the map ``mean_c |x - x_hat|``.
        relative: divide scores by the patch's mean absolute intensity (ours). Keep it off where brightness is a sign,
            as on MRI; turn it on where normal images differ in how much they show, as clothes do. What shows little
            then scores higher for that alone.

    Raises:
        ConfigError: in 3-D, for which the method is not recommended, and for settings that cannot work.
    """

    searches, exportable, keeps_patches = True, False, True

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        latent_dim: int = 120,
        features: int = 16,
        learning_rate: float = 2e-4,
        critic_rate: float = 4e-4,
        feature_weight: float = 0.1,
        search_steps: int = 40,
        step_size: float = 0.05,
        restarts: int = 1,
        bank_size: int = 512,
        query_as_condition: bool = False,
        score: str = "combined",
        relative: bool = False,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if spatial_dims != 2:
            raise ConfigError("spatial_dims is 3, but RandGAN is a method for images: set it to 2.")
        dcgan_widths(patch_size, features)  # refuses other sizes
        if features < 8 or features % 8:
            raise ConfigError(f"features is {features}, but an inception block needs a multiple of 8.")
        for name, value in (("search_steps", search_steps), ("restarts", restarts), ("bank_size", bank_size)):
            check_count(name, value)
        if score not in ("combined", "residual"):
            raise ConfigError(f"RandGAN: score is {score!r}; use one of 'combined', 'residual'.")
        self.latent_dim, self.learning_rate, self.critic_rate = latent_dim, learning_rate, critic_rate
        self.feature_weight, self.search_steps, self.step_size = feature_weight, search_steps, step_size
        self.query_as_condition, self.score_kind, self.relative = query_as_condition, score, relative

        self.generator = Generator(in_channels, patch_size, features, latent_dim)
        self.trunk = nn.Sequential(
            *(nn.Conv2d(in_channels, 2 * features, 5, padding=2), nn.LeakyReLU(0.2), nn.MaxPool2d(2)),
            *(nn.Conv2d(2 * features, 4 * features, 5, padding=2), nn.LeakyReLU(0.2), nn.MaxPool2d(2)),
        )
        self.critic_head = nn.Sequential(nn.Flatten(), nn.Linear((4 * features + 1) * (patch_size // 4) ** 2, 1))
        self.apply(init_he)
        self.generator.to_image.apply(init_dcgan)  # else tanh would begin where it is flat

        self.bank = nn.Buffer(torch.zeros(bank_size, in_channels, patch_size, patch_size))
        self.drawn = nn.Buffer(torch.zeros_like(self.bank))  # what is drawn from each at first guess
        self.seen = nn.Buffer(torch.zeros((), dtype=torch.long))  # images that the bank was shown
        self.starts = nn.Buffer(2 * torch.rand(restarts, latent_dim) - 1)
        self.scales = nn.Buffer(torch.ones(2))
        self.strength = Strength()
        self.block = block_of(patch_size, spatial_dims)

    def critic(self, images: Tensor) -> Tensor:
        """How real images, from -1 to 1, look to the discriminator beside each other: (B, 1), from 0 to 1.

        It also sees how much they differ, as ProGAN's: else the generator soon draws one image, whatever it is shown.
        """
        features = self.trunk(images)
        spread = torch.sqrt(features.var(dim=0, correction=0) + 1e-8).mean()
        features = torch.cat([features, spread.expand_as(features[:, :1])], dim=1)
        return torch.sigmoid(self.critic_head(features))

    def stages(self) -> Iterator[Stage]:
        critic = [*self.trunk.parameters(), *self.critic_head.parameters()]
        optimizers = {
            "generator": rmsprop(self.generator.parameters(), self.learning_rate),
            "critic": rmsprop(critic, self.critic_rate),
        }
        yield Stage("RandGAN", optimizers, keep="last")

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        real = 2 * batch - 1
        if self.seen == 0:  # only then may an image be of the batch itself
            self._remember(real)
        condition = self._random_images(len(real))
        self._remember(real)
        z = torch.rand(len(real), self.latent_dim, device=real.device)
        fake = self.generator(z, self.generator.look(condition))

        values, made = self.critic(real), self.critic(fake.detach())
        losses = {"critic": torch.square(values - 1).mean() + torch.square(made).mean()}
        self._learn(losses["critic"], stage, "critic", [*self.trunk.parameters(), *self.critic_head.parameters()])
        losses["generator"] = torch.square(self.critic(fake) - 1).mean()
        self._learn(losses["generator"], stage, "generator", list(self.generator.parameters()))
        return {name: loss.detach() for name, loss in losses.items()}

    def _learn(self, loss: Tensor, stage: Stage, side: str, parameters: list[nn.Parameter]) -> None:
        stage.optimizers[side].zero_grad()
        torch.autograd.backward(loss, inputs=parameters)
        nn.utils.clip_grad_value_(parameters, 1.0)
        stage.optimizers[side].step()

    def _random_images(self, n: int) -> Tensor:
        """``n`` images of the bank: which ones, does not depend on the batch."""
        kept = min(int(self.seen), len(self.bank))
        return self.bank[torch.randint(kept, (n,), device=self.bank.device)]

    @torch.no_grad()
    def _remember(self, images: Tensor) -> None:
        """Put images into the bank, in the place of the oldest."""
        images = images[: len(self.bank)]
        places = (self.seen + torch.arange(len(images), device=images.device)) % len(self.bank)
        self.bank[places] = images
        self.seen.add_(len(images))

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Fill the bank with training images, and fit the scales: median distances of images drawn at first guess."""
        patches = torch.cat(list(islice(batches, MAX_BATCHES)))
        self.strength.fit(amount_of(patches))
        images = 2 * patches - 1
        self.seen.zero_()
        self._remember(images)
        codes = self.starts[:1].expand(len(self.bank), -1)
        looked = in_blocks(self.generator.look, self.bank, block=self.block)
        self.drawn.copy_(in_blocks(self._draw, codes, looked, block=self.block))
        looked = in_blocks(self._look, images, block=self.block)
        features = in_blocks(self.trunk, images, block=self.block)
        codes = self.starts[:1].expand(len(images), -1)
        distances = in_blocks(self._distances, codes, looked, images, features, block=self.block)
        self.scales.copy_(distances.median(dim=0).values.clamp(min=1e-8))

    def _look(self, images: Tensor) -> Tensor:
        """What the generator is shown beside the code, for images to be drawn: features (B, F, H/2, W/2).

        Of the bank, it is the image from which what is drawn at first guess is most like what is to be drawn: nothing
        in training makes what is drawn from an image like that image itself.
        """
        if self.query_as_condition:
            condition = images
        else:
            drawn = self.drawn[: max(min(int(self.seen), len(self.bank)), 1)]
            condition = self.bank[torch.cdist(images.flatten(1), drawn.flatten(1), p=1.0).argmin(dim=1)]
        looked: Tensor = self.generator.look(condition)
        return looked

    def _draw(self, codes: Tensor, looked: Tensor) -> Tensor:
        """Images of codes in -1..1, which the search likes better than 0..1."""
        images: Tensor = self.generator((codes + 1) / 2, looked)
        return images

    def _distances(self, codes: Tensor, looked: Tensor, images: Tensor, features: Tensor) -> Tensor:
        """Mean absolute differences (B, 2) of what is drawn from the images, and of their features."""
        drawn = self._draw(codes, looked)
        voxels, other = (drawn - images).abs().flatten(1), (self.trunk(drawn) - features).abs().flatten(1)
        return torch.stack([voxels.mean(dim=1), other.mean(dim=1)], dim=1)

    def search(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The codes (B, latent_dim) whose images are most like the patches, the losses (B,) and what was looked at."""
        images = 2 * patches - 1
        with torch.no_grad():
            looked = in_blocks(self._look, images, block=self.block)
            features = in_blocks(self.trunk, images, block=self.block)
        weights = torch.tensor([1 - self.feature_weight, self.feature_weight], device=patches.device) / self.scales

        def loss(codes: Tensor, samples: Tensor) -> Tensor:
            return self._distances(codes, looked[samples], images[samples], features[samples]) @ weights

        starts = self.starts.expand(len(patches), -1, -1)
        codes, losses = search_codes(loss, starts, self.search_steps, self.step_size, limit=1.0, block=self.block)
        return codes, losses, looked

    def reconstruct(self, patches: Tensor) -> Tensor:
        """The images that the search finds, from 0 to 1: (B, C, H, W)."""
        codes, _, looked = self.search(patches)
        with torch.no_grad():
            return (in_blocks(self._draw, codes, looked, block=self.block) + 1) / 2

    def score(self, patches: Tensor) -> Tensor:
        if self.score_kind == "residual":
            scores = (patches - self.reconstruct(patches)).abs().mean(dim=1, keepdim=True)
        else:
            scores = self.search(patches)[1][:, None]
        if self.relative:
            scores = self.strength.divide(scores, patches)
        return scores


class Generator(nn.Module):
    """Codes (B, latent_dim) and images (B, C, s, s) to images from -1 to 1; both meet on a grid of half the size."""

    def __init__(self, channels: int, patch_size: int, features: int, latent_dim: int) -> None:
        super().__init__()
        f, quarter = features, patch_size // 4
        self.noise = nn.Sequential(
            nn.Linear(latent_dim, 4 * f * quarter**2), nn.Unflatten(1, (4 * f, quarter, quarter)), _upwards(4 * f, f)
        )
        self.look = nn.Sequential(
            *(Inception(channels, f), nn.MaxPool2d(2), Inception(f, 2 * f), nn.MaxPool2d(2)),
            *(Inception(2 * f, 4 * f), _upwards(4 * f, f)),
        )
        self.draw = nn.Sequential(
            *(nn.Conv2d(2 * f, 4 * f, 3, padding=1), Inception(4 * f, 4 * f)),
            *(_upwards(4 * f, 2 * f), Inception(2 * f, 2 * f)),
        )
        self.to_image = nn.Conv2d(2 * f, channels, 5, padding=2)

    def forward(self, z: Tensor, looked: Tensor) -> Tensor:
        """``looked`` is what ``look`` makes of the image, (B, features, s / 2, s / 2)."""
        x = self.draw(torch.cat([self.noise(z), looked], dim=1))
        return torch.tanh(self.to_image(x))


class Inception(nn.Module):
    """Four views of (B, in_channels, H, W), from one voxel to five a side, beside each other: (B, d, H, W)."""

    def __init__(self, in_channels: int, d: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(in_channels, d // 4, 1)
        self.three = _cross(in_channels, d // 2, 3)
        self.five = _cross(in_channels, d // 8, 5)
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(in_channels, d // 8, 1))
        self.norm = nn.Sequential(nn.BatchNorm2d(d), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(torch.cat([self.point(x), self.three(x), self.five(x), self.pool(x)], dim=1))
        return y


def _cross(in_channels: int, width: int, size: int) -> nn.Sequential:
    """A point, a row, a column: what a square of ``size`` sees, for fewer weights."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1),
        nn.Conv2d(width, width, (1, size), padding=(0, size // 2)),
        nn.Conv2d(width, width, (size, 1), padding=(size // 2, 0)),
    )


def _upwards(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice the size, by a transposed convolution."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )

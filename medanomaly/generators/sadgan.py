"""SADGAN: unpaired translation of one kind of image into another, such as CT into MR, with what an edge should be.

Experimental: the paper (Shen et al. 2022) is known to us from a summary alone. Its parts are two generators, of edges
and of appearance, a discriminator, and a segmenter that learns on translated images with the labels of the source, so
that it can segment images of the target for which nobody has drawn labels. Networks and weights of losses are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from monai.losses import DiceCELoss, PatchAdversarialLoss
from monai.networks.layers import separable_filtering
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.errors import ConfigError
from medanomaly.networks.stages import Stage
from medanomaly.networks.unet import unet


class SADGAN(nn.Module):
    """Learns from the streams "training" (source, and labels as a second channel) and "target", which are not paired.

    The edge generator draws the edge map of the translation, |Sobel|, the image generator the translation from the
    source and this map. The discriminator sees an image and its edge map: a real one with its Sobel, a made one with
    what the edge generator drew. An auxiliary generator translates back, so that nothing may get lost.

    Args:
        patch_size: voxels a side, a multiple of 16.
        spatial_dims: 2 or 3.
        classes: of the labels, background included; 0 for a source without labels, which has no segmenter.
        features: channels of each U-Net at full size, a multiple of 8.
        edges: False leaves the edge branch out: generator, loss, and the discriminator's second channel.
        learning_rate: of the generators and the segmenter, four times that of the discriminator; Adam, with betas
            (0.5, 0.999).
        weights: of the cycle, edge, structure and segmentation losses, beside the adversarial one. With much larger
            ones, a translation stays what its source is.
        noise: standard deviation of what is added to all that the discriminator sees. Without it, it can tell at once
            which of two kinds of image is made, and its gradient says nothing of where to go. While it stays, made
            images may have as much of it.
        noise_steps: after as many steps, the noise is 1 / e of what it was; and so on.

    Raises:
        ConfigError: if a number cannot work.
    """

    def __init__(
        self,
        patch_size: int = 64,
        spatial_dims: int = 2,
        classes: int = 0,
        features: int = 16,
        edges: bool = True,
        learning_rate: float = 2e-4,
        weights: Sequence[float] = (2.0, 1.0, 0.5, 1.0),
        noise: float = 0.2,
        noise_steps: int = 200,
    ) -> None:
        super().__init__()
        if classes < 0 or classes == 1:
            raise ConfigError(f"classes is {classes}: give 0, or the number of labels with the background.")
        self.streams: tuple[str, ...] = ("training", "target")
        self.noise, self.noise_steps = noise, noise_steps
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.long))
        self.classes, self.learning_rate = classes, learning_rate
        self.cycle_weight, self.edge_weight, self.structure_weight, self.segmentation_weight = weights

        def net(inputs: int, outputs: int) -> nn.Module:
            return unet(inputs, outputs, patch_size, spatial_dims, features)

        self.edge_generator = net(1, 1) if edges else None
        self.image_generator = net(2 if edges else 1, 1)
        self.back_generator = net(1, 1)
        self.discriminator = PatchDiscriminator(
            spatial_dims,
            features,
            2 if edges else 1,
            num_layers_d=3 if patch_size >= 32 else 2,  # with fewer, it sees too little of how classes lie
            norm=("group", {"num_groups": 8}),
        )
        self.segmenter = net(1, classes) if classes else None
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        self.dice_ce = DiceCELoss(to_onehot_y=True, softmax=True)

    def stages(self) -> Iterator[Stage]:
        generators: list[nn.Module] = [self.image_generator, self.back_generator]
        generators += [] if self.edge_generator is None else [self.edge_generator]
        optimizers = {
            "discriminator": self._adam(self.learning_rate / 4, self.discriminator),
            "generators": self._adam(self.learning_rate, *generators),
            **({} if self.segmenter is None else {"segmenter": self._adam(self.learning_rate, self.segmenter)}),
        }
        yield Stage("SADGAN", optimizers, keep="last" if self.segmenter is None else "best")

    def _adam(self, rate: float, *networks: nn.Module) -> torch.optim.Adam:
        weights = chain.from_iterable(network.parameters() for network in networks)
        return torch.optim.Adam(weights, lr=rate, betas=(0.5, 0.999))

    def drawn(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """The translation and the edge map that was drawn for it, (B, 1, H, W[, D]) each."""
        if self.edge_generator is None:
            return self.image_generator(source), None
        drawn = F.softplus(self.edge_generator(source) - 2)  # edges are rare
        return self.image_generator(torch.cat([source, drawn], dim=1)), drawn

    def forward(self, source: Tensor) -> Tensor:
        """Source (B, 1, H, W[, D]) to the translation and, where there are labels, the segmenter's probabilities.

        (B, 1 + classes, H, W[, D]).
        """
        made = self.drawn(source)[0]
        return made if self.segmenter is None else torch.cat([made, self.segment(made)], dim=1)

    def segment(self, target: Tensor) -> Tensor:
        """Probabilities (B, classes, H, W[, D]) of images of the target's kind, or translated into it.

        Raises:
            ConfigError: if the source had no labels, so that there is no segmenter.
        """
        if self.segmenter is None:
            raise ConfigError("this model has no segmenter: train it with a 'label' for each case under 'training'.")
        probabilities: Tensor = self.segmenter(target).softmax(dim=1)
        return probabilities

    def training_step(self, batch: Mapping[str, Tensor], stage: Stage) -> dict[str, Tensor]:
        """A step of the discriminator, one of the generators, one of the segmenter."""
        source, labels = batch["training"][:, :1], batch["training"][:, 1:2]
        target = batch["target"]
        made, drawn = self.drawn(source)
        real = self._seen(target, None if drawn is None else sobel(target))
        losses = {"discriminator": self._discriminator_loss(real, self._seen(made, drawn).detach())}
        _step(stage.optimizers["discriminator"], losses["discriminator"], self.discriminator)

        judged = self.discriminator(self._seen(made, drawn))[-1]
        losses["adversarial"] = self.adversarial(judged, target_is_real=True, for_discriminator=False)
        losses["cycle"] = (self.back_generator(made) - source).abs().mean()
        losses["structure"] = 1 - correlation(sobel(source), sobel(made)).mean()
        loss = losses["adversarial"] + self.cycle_weight * losses["cycle"] + self.structure_weight * losses["structure"]
        if drawn is not None:
            losses["edge"] = (sobel(made) - drawn).abs().mean()
            loss = loss + self.edge_weight * losses["edge"]
        if self.segmenter is not None:
            losses["segmentation"] = self.dice_ce(self.segmenter(made), labels)
            loss = loss + self.segmentation_weight * losses["segmentation"]
        generators = [self.image_generator, self.back_generator, self.edge_generator]
        _step(stage.optimizers["generators"], loss, *[network for network in generators if network is not None])

        if self.segmenter is not None:
            losses["segmenter"] = self.dice_ce(self.segmenter(made.detach()), labels)
            _step(stage.optimizers["segmenter"], losses["segmenter"], self.segmenter)
        self.steps.add_(1)
        return {name: value.detach() for name, value in losses.items()}

    def _seen(self, image: Tensor, edge_map: Tensor | None) -> Tensor:
        """What the discriminator is shown."""
        seen = image if edge_map is None else torch.cat([image, edge_map], dim=1)
        return seen + self.noise * torch.exp(-self.steps / self.noise_steps) * torch.randn_like(seen)

    def _discriminator_loss(self, real: Tensor, made: Tensor) -> Tensor:
        judged = [self.discriminator(images)[-1] for images in (real, made)]
        losses = [
            self.adversarial(one, target_is_real=is_real, for_discriminator=True)
            for one, is_real in zip(judged, (True, False), strict=True)
        ]
        loss: Tensor = sum(losses) / 2
        return loss

    def validation_loss(self, batch: Tensor) -> Tensor:
        """Of the segmenter on translations of held-out source patches (B, 2, ...), with their labels."""
        assert self.segmenter is not None  # without it, no stage keeps the best
        loss: Tensor = self.dice_ce(self.segmenter(self.drawn(batch[:, :1])[0]), batch[:, 1:2])
        return loss

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """It has none."""


def sobel(x: Tensor) -> Tensor:
    """Length of the gradient by Sobel's filters: (B, 1, H, W[, D]) to the same shape; 1 for a slope of 1 a voxel."""
    smooth, slope = torch.tensor([0.25, 0.5, 0.25]).to(x), torch.tensor([-0.5, 0.0, 0.5]).to(x)
    n = x.ndim - 2
    parts = [
        separable_filtering(x, [slope if axis == along else smooth for axis in range(n)], mode="replicate")
        for along in range(n)
    ]
    squares: Tensor = torch.stack(parts).square().sum(dim=0)
    return (squares + 1e-6).sqrt() - 1e-3  # 0 where it is flat, with a gradient there


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, over the voxels of each image: (B, ...) and (B, ...) to (B,); 0 where one of them is flat."""
    a, b = ((x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True)) for x in (a, b))
    found: Tensor = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)
    return found


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, *networks: nn.Module) -> None:
    """A step of ``optimizer`` for these networks; what else the loss went through gets no gradient."""
    optimizer.zero_grad()
    weights = list(chain.from_iterable(network.parameters() for network in networks))
    torch.autograd.backward(loss, inputs=weights)
    optimizer.step()

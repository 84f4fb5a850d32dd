"""Self-supervised segmentation of made anomalies: learn to find what was put into normal patches.

Lumpy blobs of many sizes are filled in four ways: shifted intensities, one level with a texture of its own, a flat
intensity, or a piece of another patch. A U-Net learns to say of each voxel whether it is normal, brighter or darker
than what belongs there. The idea is that of the winners of the MOOD challenge (Tan et al. 2020, arXiv 2011.04197;
Marimont and Tarroni 2023, arXiv 2308.01412); the blobs and fillings are ours. No lesion mask is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, log2, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError
from medanomaly.networks.intensities import biased, foreground, jittered, rescanned
from medanomaly.networks.noise import same_draws, smooth_noise
from medanomaly.networks.stages import Stage
from medanomaly.networks.unet import unet

NORMAL, BRIGHT, DARK = range(3)
LEAST_CHANGE = 0.01  # mean over a blob, of the normalised intensity: what changes it less counts as normal


class SyntheticAnomalies(Detector):
    """Scores (B, 1, H, W[, D]): the log odds that a voxel is brighter or darker than what belongs there.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is a multiple of 16.
        features: channels of the U-Net at full size.
        radius: least and most mean radius of a blob, in voxels; drawn on a logarithmic scale.
        contrast: least and most shift of the intensity, on the normalised scale; drawn on a logarithmic scale.
        levels: least and most intensity of what is filled flat.
        texture: most standard deviation of the texture of a filling, about.
        shares: of the patches that get a first, a second, ... anomaly; each has a filling of its own.
        several: most blobs of an anomaly, as lesions of a person look alike; how many is drawn. But for the first they
            are small: at most the geometric mean of ``radius``. A whole slice needs more of them than a small patch.
        voxels_of_scan: side of a voxel of the scan, in voxels of the patch, where scans were resampled to a finer grid:
            anomalies are blurred as much, or the network would find what is sharper than any scan.
        fineness: if given, the network also sees the differences of voxels to the means of 3 and of 9 voxels a side
            around, bounded by this much: small differences are lost beside strong edges.
        jitter, gamma: see :class:`DenoisingAutoencoder`.
        bias: standard deviation of the logarithm of a smooth field that each training patch and channel is multiplied
            by, see :func:`biased`; 0: none. For scans whose coil's field was not taken out.
        thickness, noise: of slices, in voxels, and the most noise: half of the training patches are shown as a scanner
            with thicker slices would, all of them with noise, anomalies included; see :func:`rescanned`. 1 and 0: none.
        context_channels: how many of the channels, the last ones, are maps and no images, such as a template's of
            tissues: the network sees them as they are, without anomalies.
        learning_rate: of AdamW.
        sign: "both": brighter or darker; "bright" or "dark": than what belongs there, in the first channel.

    Raises:
        ConfigError: if ``radius`` or ``contrast`` does not run from a positive number to one that is not smaller, a
            share is none, ``several``, ``bias``, ``thickness`` or ``noise`` cannot work, or there is no image.
    """

    signed = True

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 64,
        spatial_dims: int = 2,
        features: int = 16,
        radius: tuple[float, float] = (1.2, 20.0),
        contrast: tuple[float, float] = (0.08, 1.2),
        levels: tuple[float, float] = (-0.4, 1.8),
        texture: float = 0.15,
        shares: Sequence[float] = (0.8, 0.5, 0.5),
        several: int = 1,
        voxels_of_scan: int = 1,
        fineness: float | None = None,
        jitter: float = 0.1,
        gamma: float = 0.2,
        bias: float = 0.0,
        thickness: int = 1,
        noise: float = 0.0,
        context_channels: int = 0,
        learning_rate: float = 2e-3,
        sign: str = "both",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        for name, bounds in {"radius": radius, "contrast": contrast}.items():
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise ConfigError(f"{name} is {tuple(bounds)}: give the least, above 0, and the most.")
        if not shares or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"shares is {list(shares)}: give at least one, each from 0 to 1.")
        if several < 1 or thickness < 1 or noise < 0 or bias < 0:
            raise ConfigError(
                f"several={several}, thickness={thickness}, noise={noise}, bias={bias}: an anomaly has at least 1 "
                "blob, a slice at least 1 voxel, and noise and bias are not negative."
            )
        if not 0 <= context_channels < in_channels:
            raise ConfigError(
                f"context_channels is {context_channels} of {in_channels} channel(s): one at least must be an image."
            )
        self.n_images = in_channels - context_channels
        self.shares, self.several = tuple(shares), several
        self.bias, self.thickness, self.noise = bias, thickness, noise
        self.radius, self.contrast, self.levels = tuple(radius), tuple(contrast), tuple(levels)
        self.texture, self.jitter, self.gamma = texture, jitter, gamma
        self.learning_rate = learning_rate
        self.set_sign(sign)
        self.voxels_of_scan, self.fineness = voxels_of_scan, fineness
        self.network = unet(in_channels * (1 if fineness is None else 3), 3, patch_size, spatial_dims, features)

    def stages(self) -> Iterator[Stage]:
        yield Stage("segmentation", {"network": torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate)})

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        normal = jittered(batch[:, : self.n_images], self.jitter, self.gamma)
        normal = normal if self.bias == 0 else biased(normal, self.bias)
        loss = self._loss(self._with_context(normal, batch))
        stage.optimizers["network"].zero_grad()
        torch.autograd.backward(loss)
        stage.optimizers["network"].step()
        return {"segmentation": loss.detach()}

    def validation_loss(self, batch: Tensor) -> Tensor:
        with same_draws(), torch.no_grad():
            return self._loss(batch)

    def _with_context(self, images: Tensor, batch: Tensor) -> Tensor:
        """The images (B, n_images, H, W[, D]) with the maps of ``batch`` (B, C, H, W[, D]) behind them."""
        maps = batch[:, self.n_images :]
        return images if maps.shape[1] == 0 else torch.cat([images, maps], dim=1)

    def _loss(self, normal: Tensor) -> Tensor:
        with torch.autocast(normal.device.type, enabled=False):  # in bfloat16, places are rounded to a quarter voxel
            patches, target = self.with_anomalies(normal[:, : self.n_images])
            if self.thickness > 1 or self.noise > 0:
                patches = rescanned(patches, self.thickness, self.noise)
        return F.cross_entropy(self._logits(self._with_context(patches, normal)), target)

    def _logits(self, patches: Tensor) -> Tensor:
        """Of the three classes: (B, 3, H, W[, D])."""
        if self.fineness is not None:
            seen = [patches]
            for window in (3, 9):
                if self.spatial_dims == 2:
                    around = F.avg_pool2d(patches, window, stride=1, padding=window // 2, count_include_pad=False)
                else:
                    around = F.avg_pool3d(patches, window, stride=1, padding=window // 2, count_include_pad=False)
                seen.append(torch.tanh((patches - around) / self.fineness))
            patches = torch.cat(seen, dim=1)
        logits: Tensor = self.network(patches)
        return logits.float()

    @torch.no_grad()
    def with_anomalies(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Normal patches (B, C, H, W[, D]) with anomalies, and the class of each voxel (B, H, W[, D])."""
        inside = foreground(normal)
        patches, anomalous = normal, torch.zeros_like(inside)
        over = tuple(range(1, normal.ndim))
        for share in self.shares:
            blob = self._blob(normal, share) * inside
            patches = patches + self._as_scanned(blob * (self._filling(patches, blob) - patches)) * inside
            core, change = blob >= 0.5, patches - normal
            mean_change = (change.abs() * core).sum(over, keepdim=True) / core.sum(over, keepdim=True).clamp(min=1)
            anomalous |= core & (mean_change > LEAST_CHANGE)
        target = torch.where(anomalous, torch.where((patches - normal)[:, :1] >= 0, BRIGHT, DARK), NORMAL)
        return patches, target[:, 0]

    def _as_scanned(self, change: Tensor) -> Tensor:
        """A change (B, C, H, W[, D]) as it would be if made on the scan's coarser grid, and resampled linearly."""
        if self.voxels_of_scan == 1:
            return change
        pool, mode = (F.avg_pool2d, "bilinear") if self.spatial_dims == 2 else (F.avg_pool3d, "trilinear")
        return F.interpolate(pool(change, self.voxels_of_scan), size=change.shape[2:], mode=mode, align_corners=False)

    def _blob(self, patches: Tensor, share: float) -> Tensor:
        """Lumpy ellipsoids with a soft border in this share of the patches: (B, 1, H, W[, D]), 0 to 1."""
        n, dims, device = patches.shape[0], self.spatial_dims, patches.device
        one = (n, *[1] * (dims + 1))
        first = self._ellipsoid(patches, self.radius)
        most_cells = max(int(log2(self.patch_size)) - 1, 5)  # down to four voxels a lump, in large patches
        lumps = smooth_noise(patches[:, :1], 2 ** int(torch.randint(2, most_cells, ())))
        edge = torch.rand(one, device=device) * 1.5 + 0.3  # voxels over which the border fades
        roughness = 0.5 * torch.rand(one, device=device)
        chosen = torch.rand(one, device=device) < share

        def soft(radius: Tensor, distance: Tensor) -> Tensor:
            return torch.sigmoid(2 * (1 - (distance / radius + roughness * lumps)) * radius / edge)

        blob = soft(*first)
        if self.several > 1:
            number = torch.randint(1, self.several + 1, one, device=device)
            small = (self.radius[0], sqrt(self.radius[0] * self.radius[1]))
            for further in range(1, self.several):
                other = soft(*self._ellipsoid(patches, small))
                blob = torch.maximum(blob, other * (number > further))
        return blob * chosen

    def _ellipsoid(self, patches: Tensor, bounds: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """A mean radius (B, 1, 1, 1[, 1]), and the distance of each voxel (B, 1, H, W[, D]) to a place at random.

        In voxels, the distance along axes that are turned and stretched at random.
        """
        n, dims, device = patches.shape[0], self.spatial_dims, patches.device
        radius = _log_uniform((n, *[1] * (dims + 1)), bounds, device)
        turn = torch.linalg.qr(torch.randn(n, dims, dims, device=device)).Q
        axes = torch.exp((torch.rand(n, dims, 1, device=device) - 0.5) * 1.4)  # relative lengths of the half axes
        line = torch.arange(self.patch_size, device=device) + 0.5
        grid = torch.stack(torch.meshgrid(*[line] * dims, indexing="ij")).flatten(1)
        centre = torch.rand(n, dims, 1, device=device) * self.patch_size
        along = turn @ (grid - centre) / axes
        distance = sum(part.square() for part in along.unbind(1)).sqrt()  # ``norm`` takes ten times as long
        return radius, distance.view(n, 1, *patches.shape[2:])

    def _filling(self, normal: Tensor, blob: Tensor) -> Tensor:
        """What the blobs of each patch are filled with, in one of four ways: (B, C, H, W[, D])."""
        n, channels, device = normal.shape[0], normal.shape[1], normal.device
        each, one = ((n, c, *[1] * self.spatial_dims) for c in (channels, 1))
        over = tuple(range(2, normal.ndim))
        level = (normal * blob).sum(over, keepdim=True) / blob.sum(over, keepdim=True).clamp(min=1e-6)
        shift = _log_uniform(each, self.contrast, device) * torch.where(torch.rand(each, device=device) < 0.5, -1, 1)
        texture = self.texture * torch.rand(each, device=device) * smooth_noise(normal, self.patch_size // 2)
        lowest, highest = self.levels
        any_level = lowest + (highest - lowest) * torch.rand(each, device=device)
        place = torch.randint(normal[0, 0].numel(), (n, 1, 1), device=device).expand(n, channels, 1)
        tissue_level = normal.flatten(2).gather(2, place).view(each)  # that of a voxel of the patch
        flat = torch.where(torch.rand(one, device=device) < 0.5, any_level, tissue_level).expand_as(normal)
        share = torch.rand(one, device=device) * 0.7 + 0.3
        foreign = share * normal.roll(1, 0) + (1 - share) * normal  # of the patch before it in the batch
        kind = torch.randint(4, one, device=device)
        filling = torch.where(kind == 0, normal + shift + texture, level + shift + texture)
        filling = torch.where(kind == 2, flat, torch.where(kind == 3, foreign, filling))
        if channels > 1:  # a lesion need not show in every channel
            untouched = torch.rand(each, device=device) < 0.25
            untouched[:, 0] = False
            filling = torch.where(untouched, normal, filling)
        return filling

    def score(self, patches: Tensor) -> Tensor:
        return self._log_odds(self._logits(at_least_four(patches))[: patches.shape[0]], self.sign)

    @torch.jit.unused
    def score_signs(self, patches: Tensor, signs: list[str]) -> Tensor:
        logits = self._logits(at_least_four(patches))[: patches.shape[0]]
        return torch.cat([self._log_odds(logits, sign) for sign in signs], dim=1)

    def _log_odds(self, logits: Tensor, sign: str) -> Tensor:
        """That a voxel is brighter, darker or either: (B, 1, H, W[, D])."""
        if sign == "both":
            return torch.logsumexp(logits[:, 1:], dim=1, keepdim=True) - logits[:, :1]
        wanted, other = (1, 2) if sign == "bright" else (2, 1)
        rest = torch.logsumexp(torch.stack([logits[:, 0], logits[:, other]]), dim=0)
        return (logits[:, wanted] - rest)[:, None]


def _log_uniform(shape: tuple[int, ...], bounds: tuple[float, ...], device: torch.device) -> Tensor:
    least, most = bounds
    return torch.exp(torch.rand(shape, device=device) * log(most / least) + log(least))

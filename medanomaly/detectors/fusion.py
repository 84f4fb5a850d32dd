"""Fusion: several detectors, each with its own patch size and channels, joined into one score on a common scale.

Scores of different detectors cannot be compared. How rare a score is among normal tissue can: each member's score is
turned into ``-log10`` of the share of normal voxels that score as high, and these are averaged, as in Fisher's method
of combining p-values. The shares come from training patches (normals only); beyond the rarest tabulated share the
scale goes on as an exponential tail, so that it never saturates and keeps the order.

Planes are joined by the inferer (``planes``), which averages them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors import detector_class
from medanomaly.detectors.base import SIGNS, Detector
from medanomaly.errors import ConfigError
from medanomaly.networks.intensities import foreground
from medanomaly.networks.stages import Stage

DEFAULT_MEMBERS: tuple[Mapping[str, Any], ...] = (
    {"detector": "denoising_autoencoder"},
    {"detector": "synthetic_anomalies"},
)
RAREST = 3.0  # -log10 of the rarest share in the table: 0.1 % of normal voxels
STEPS = 301  # of the table
MOST_VOXELS = 2**21  # of normal tissue for each table


class Fusion(Detector):
    """Mean over members of ``-log10(share of normal voxels that score as high)``; scores (B, 1, H, W[, D]), at least 0.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`.
        members: for each ``{"detector": "ganomaly", "channels": [0, 1], "patch_size": 16, "weight": 1.0}`` and
            further arguments of that detector. All channels, the fusion's patch size and a weight of 1 if not given.
            Smaller patches are cut from the fusion's, ``stride`` (half of their size, if not given) apart.
        sign: "both", "bright" or "dark". The last two need members that tell them apart.
        prior_weight: of an intensity prior, beside the members; 0 leaves it out. A prior is knowledge about the
            disease (lesions are bright on FLAIR), not about normal tissue: reports name it.
        prior_channel: whose smoothed intensity the prior is. "bright": the higher the rarer; "dark": the lower; "both":
            the farther from the median.
        prior_sigma: of the Gaussian, in voxels; background does not count.

    Raises:
        ConfigError: if a member is unknown, cannot tell the sign, or its patches or channels do not fit.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 64,
        spatial_dims: int = 2,
        members: Sequence[Mapping[str, Any]] = DEFAULT_MEMBERS,
        sign: str = "both",
        prior_weight: float = 0.0,
        prior_channel: int = 0,
        prior_sigma: float = 1.5,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if not members:
            raise ConfigError("fusion: there are no members; name at least one detector.")
        if not 0 <= prior_channel < in_channels:
            raise ConfigError(f"fusion: prior_channel is {prior_channel}, but there are {in_channels} channel(s).")
        if not prior_sigma > 0:
            raise ConfigError(f"fusion: prior_sigma is {prior_sigma}, but a Gaussian needs more than 0 voxels.")
        self.channels = [list(member.get("channels") or range(in_channels)) for member in members]
        self.members = nn.ModuleList(
            _member(member, channels, self) for member, channels in zip(members, self.channels, strict=True)
        )
        detectors = self._detectors()
        self.signed = all(member.signed for member in detectors)
        self.searches = any(member.searches for member in detectors)
        self.exportable = all(member.exportable for member in detectors)
        self.keeps_patches = any(member.keeps_patches for member in detectors)
        self.streams = tuple(dict.fromkeys(stream for member in detectors for stream in member.streams))
        self.sizes = [int(member.patch_size) for member in self.members]  # type: ignore[arg-type]
        self.strides = [int(m.get("stride") or s // 2) for m, s in zip(members, self.sizes, strict=True)]
        self.weights = [float(member.get("weight", 1.0)) for member in members]
        if min(*self.weights, prior_weight) < 0 or sum(self.weights) + prior_weight == 0:
            raise ConfigError(
                f"fusion: weights are {self.weights}, the prior's {prior_weight}: none below 0, one above."
            )
        self.prior_weight, self.prior_channel = float(prior_weight), prior_channel
        reach = int(4 * prior_sigma + 0.5)
        kernel = torch.exp(-0.5 * torch.square(torch.arange(-reach, reach + 1) / prior_sigma))
        self.kernel = nn.Buffer(kernel / kernel.sum(), persistent=False)
        n_maps, self.step = len(self.members) + 1, RAREST / (STEPS - 1)
        self.quantiles = nn.Buffer(torch.linspace(0, 1, STEPS).expand(len(SIGNS), n_maps, STEPS).clone())
        self.tail = nn.Buffer(torch.ones(len(SIGNS), n_maps))  # mean excess over the 99 % quantile
        self.prior_median = nn.Buffer(torch.zeros(()))
        self.signs = list(SIGNS)  # the rows of the tables
        self.set_sign(sign)

    def set_sign(self, sign: str) -> None:
        super().set_sign(sign)
        for member in self._detectors():
            member.set_sign(sign)

    def stages(self) -> Iterator[Stage]:
        """The members' first stages at once, then their second ones, ...; who has had all of its stages rests."""
        for parts in zip_longest(*(member.stages() for member in self._detectors())):
            yield _joined(parts)

    def training_step(self, batch: Tensor | Mapping[str, Tensor], stage: Stage) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number, (member, part) in enumerate(zip(self._detectors(), stage.parts, strict=True)):
            if part is not None:
                step = member.training_step(self._batch_of(number, member.streams, batch), part)
                losses |= {f"{number} {name}": loss for name, loss in step.items()}
        return losses

    def _batch_of(
        self, number: int, streams: tuple[str, ...], batch: Tensor | Mapping[str, Tensor]
    ) -> Tensor | dict[str, Tensor]:
        """A member's tiles of its streams, as it takes them."""
        by_stream = {self.streams[0]: batch} if isinstance(batch, Tensor) else batch
        channels, size = self.channels[number], self.sizes[number]
        tiles = {stream: self._tiles(by_stream[stream], channels, size, size) for stream in streams}
        return tiles[streams[0]] if len(streams) == 1 else tiles

    def validation_loss(self, batch: Tensor) -> Tensor:
        """Geometric mean of the trained members' losses: each counts by its relative change.

        Of members that are only fitted, the mean score.
        """
        losses = [
            member.validation_loss(self._tiles(batch, self.channels[n], self.sizes[n], self.sizes[n]))
            for n, member in enumerate(self._detectors())
            if type(member).stages is not Detector.stages  # one that is only fitted has no loss yet
        ]
        if not losses:
            return super().validation_loss(batch)
        return torch.stack(losses).clamp(min=1e-12).log().mean().exp()  # above 0, as early stopping needs it

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Fit the members, then the tables of how rare each score is in the foreground of ``batches``, by sign."""
        kept = list(batches)
        for n, member in enumerate(self._detectors()):
            member.fit_statistics([self._tiles(b, self.channels[n], self.sizes[n], self.sizes[n]) for b in kept])
        smoothed = torch.cat([self._smoothed(batch)[foreground(batch)] for batch in kept])
        self.prior_median.copy_(smoothed.median())
        every = max(1, smoothed.numel() // MOST_VOXELS)
        signs = self.signs if self.signed else self.signs[:1]
        found: list[list[Tensor]] = []
        for batch in kept:
            prior = torch.cat([self._prior_map(batch, sign) for sign in signs], dim=1)
            maps, inside = [*self._maps_of_signs(batch, signs), prior], foreground(batch)[:, 0]
            found.append([m.transpose(0, 1)[:, inside][:, ::every] for m in maps])
        for n, scores in enumerate(zip(*found, strict=True)):
            for number, own in enumerate(torch.cat(scores, dim=1)):
                self._fit_table(number, n, own)

    def _fit_table(self, sign: int, number: int, scores: Tensor) -> None:
        ordered = scores.double().sort().values
        shares = 1 - 10 ** -torch.linspace(0, RAREST, STEPS, dtype=torch.float64, device=scores.device)
        at = (shares * (len(ordered) - 1)).round().long()
        self.quantiles[sign, number] = ordered[at].float()
        one_percent = ordered[int(0.99 * (len(ordered) - 1))]
        self.tail[sign, number] = (ordered[ordered >= one_percent] - one_percent).mean().clamp(min=1e-6).float()

    def cautions(self) -> list[str]:
        return list(dict.fromkeys(caution for member in self._detectors() for caution in member.cautions()))

    def score(self, patches: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for number, member in enumerate(self.members):
            size, stride = self.sizes[number], self.strides[number]
            if self.weights[number] > 0:
                scores = member(self._tiles(patches, self.channels[number], size, stride))
                maps.append(self._stitched(scores, size, stride, patches))
            else:
                maps.append(torch.zeros_like(patches[:, :1]))
        return self._fused(maps, self.sign, patches)

    @torch.jit.unused
    def score_signs(self, patches: Tensor, signs: list[str]) -> Tensor:
        maps = self._maps_of_signs(patches, signs, unweighted=False)
        fused = [self._fused([m[:, n : n + 1] for m in maps], sign, patches) for n, sign in enumerate(signs)]
        return torch.cat(fused, dim=1)

    @torch.jit.unused
    def _maps_of_signs(self, patches: Tensor, signs: list[str], unweighted: bool = True) -> list[Tensor]:
        """Of each member a score a voxel and sign (B, len(signs), H, W[, D]); 0 of weight 0, unless ``unweighted``."""
        maps = []
        for number, member in enumerate(self._detectors()):
            if not unweighted and self.weights[number] == 0:
                maps.append(torch.zeros_like(patches[:, :1]).expand(-1, len(signs), *patches.shape[2:]))
                continue
            size, stride = self.sizes[number], self.strides[number]
            tiles = self._tiles(patches, self.channels[number], size, stride)
            maps.append(self._stitched(member(tiles, signs), size, stride, patches))
        return maps

    def _fused(self, maps: list[Tensor], sign: str, patches: Tensor) -> Tensor:
        """The weighted mean of how rare the members' scores (B, 1, H, W[, D]) and the prior's are."""
        total, weight = torch.zeros_like(patches[:, :1]), 0.0
        for number, scores in enumerate(maps):
            total = total + self.weights[number] * self._rarity(scores, sign, number)
            weight += self.weights[number]
        if self.prior_weight > 0:
            total = total + self.prior_weight * self._rarity(self._prior_map(patches, sign), sign, len(self.weights))
            weight += self.prior_weight
        return total / weight

    def _rarity(self, scores: Tensor, sign: str, number: int) -> Tensor:
        """``-log10`` of the share of normal voxels that score at least as high, of the shape of ``scores``."""
        scores = scores.float()  # bfloat16 under autocast; the table is not
        row = self.signs.index(sign)
        quantiles = self.quantiles[row, number]
        # of several equal quantiles the first: a score that many normal voxels share is not rare
        above = torch.searchsorted(quantiles, scores.contiguous()).clamp(1, quantiles.shape[0] - 1)
        low, high = quantiles[above - 1], quantiles[above]
        part = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        beyond = (scores - quantiles[-1]).clamp(min=0) / (self.tail[row, number] * log(10))
        return self.step * (above - 1 + part) + beyond

    def _tiles(self, patches: Tensor, channels: list[int], size: int, stride: int) -> Tensor:
        """Smaller patches (B * n, c, size, size[, size]) of some channels, ``stride`` apart."""
        tiles = torch.stack([patches[:, channel] for channel in channels], dim=1)
        if size == self.patch_size:
            return tiles
        for axis in range(self.spatial_dims):
            tiles = tiles.unfold(2 + axis, size, stride)
        tiles = tiles.flatten(2, 1 + self.spatial_dims).transpose(1, 2)
        return tiles.flatten(0, 1).contiguous()

    def _stitched(self, scores: Tensor, size: int, stride: int, patches: Tensor) -> Tensor:
        """The mean of the tiles' scores (B * n, K[, size, ...]) that cover each voxel: (B, K, H, W[, D])."""
        n_maps = scores.shape[1]
        if scores.ndim == 2:  # one a patch
            one = [scores.shape[0], n_maps] + [1] * self.spatial_dims
            scores = scores.view(one).expand([scores.shape[0], n_maps] + [size] * self.spatial_dims)
        if size == self.patch_size:
            return scores
        count = torch.zeros_like(patches[:1, :1])
        total = torch.zeros_like(patches[:, :1]).repeat([1, n_maps] + [1] * self.spatial_dims)
        corners = list(range(0, self.patch_size - size + 1, stride))
        n_tiles = scores.shape[0] // patches.shape[0]
        scores = scores.unflatten(0, [patches.shape[0], n_tiles])
        for number in range(n_tiles):
            place, there, hits = number, total, count
            for axis in range(self.spatial_dims - 1, -1, -1):  # the last axis runs fastest
                corner = corners[place % len(corners)]
                place = place // len(corners)
                there, hits = there.narrow(2 + axis, corner, size), hits.narrow(2 + axis, corner, size)
            there += scores[:, number]
            hits += 1
        return total / count

    def _prior_map(self, patches: Tensor, sign: str) -> Tensor:
        value = self._smoothed(patches)
        if sign == "bright":
            return value
        return -value if sign == "dark" else (value - self.prior_median).abs()

    def _smoothed(self, patches: Tensor) -> Tensor:
        """Gaussian mean of the prior's channel over the foreground: (B, 1, H, W[, D])."""
        inside = foreground(patches).to(patches.dtype)
        both = torch.cat([patches[:, self.prior_channel : self.prior_channel + 1] * inside, inside])
        reach = self.kernel.shape[0] // 2
        for axis in range(2, patches.ndim):
            turned = both.transpose(axis, -1)
            both = F.conv1d(turned.reshape(-1, 1, turned.shape[-1]), self.kernel[None, None], padding=reach)
            both = both.reshape(turned.shape).transpose(axis, -1)
        value, share = both.chunk(2)
        return value / share.clamp(min=1e-6)

    @torch.jit.unused
    def _detectors(self) -> list[Detector]:
        return [member for member in self.members if isinstance(member, Detector)]


def _member(settings: Mapping[str, Any], channels: list[int], fusion: Fusion) -> Detector:
    """The detector that a member's settings describe."""
    own = {k: v for k, v in settings.items() if k not in ("detector", "channels", "weight", "stride")}
    name, size, whole = settings.get("detector"), int(own.pop("patch_size", fusion.patch_size)), fusion.patch_size
    if name == "fusion":
        raise ConfigError("fusion: a fusion cannot be a member of a fusion: name its members instead.")
    kind = detector_class(str(name))
    if not all(0 <= channel < fusion.in_channels for channel in channels):
        raise ConfigError(f"fusion: {name} is to use channels {channels}, of {fusion.in_channels}, counted from 0.")
    stride = int(settings.get("stride") or size // 2)
    if not 0 < size <= whole or whole % size or not 0 < stride <= size or (whole - size) % stride:
        raise ConfigError(
            f"fusion: {name} has patches of {size} voxels, {stride} apart, but they must tile the fusion's of {whole}."
        )
    return kind(in_channels=len(channels), patch_size=size, spatial_dims=fusion.spatial_dims, **own)


def _joined(parts: tuple[Stage | None, ...]) -> Stage:
    """One stage of several that run at once.

    It keeps the last epoch if any of them does: no loss then ranks the epochs of them all. It is as long as the
    longest, or as the trainer says if one of them leaves that to it.
    """
    under_way = [part for part in parts if part is not None]
    lengths = [part.max_epochs for part in under_way if part.max_epochs is not None]
    return Stage(
        name=" and ".join(part.name for part in under_way),
        optimizers={
            f"{number} {name}": optimizer
            for number, part in enumerate(parts)
            if part is not None
            for name, optimizer in part.optimizers.items()
        },
        keep="best" if all(part.keep == "best" for part in under_way) else "last",
        max_epochs=max(lengths) if len(lengths) == len(under_way) else None,
        settled=lambda: all(part.settled() for part in under_way),
        parts=parts,
        still_to_come=max(part.still_to_come for part in under_way),
    )

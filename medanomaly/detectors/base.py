"""The contract of every detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medanomaly.errors import ConfigError
from medanomaly.networks.stages import Stage

SIGNS = ("both", "bright", "dark")


class Detector(nn.Module):
    """Learns what normal patches look like, then says how abnormal a patch is.

    A detector knows patches only: no files, volumes or metrics. It learns in :meth:`stages`, each with optimisers of
    its own: in a stage, :meth:`training_step` is called for each batch and :meth:`validation_loss` after each epoch
    (early stopping watches it). At the end :meth:`fit_statistics` sees normal training patches once more. A detector
    that is only fitted has no stages and learns there. Called with patches it gives :meth:`score`: higher is more
    abnormal, and the score of a patch depends on that patch and on training statistics alone.

    Args:
        in_channels: image channels C.
        patch_size: length of a side in voxels.
        spatial_dims: 2 for patches (B, C, H, W), 3 for (B, C, H, W, D).

    Attributes:
        streams: sections of the datalist that training batches come from; "training" holds what is normal.
        searches: whether scoring needs gradients, as where each patch's best code is searched for.
        exportable: whether ``torch.jit.script`` works.
        keeps_patches: whether its state holds patches that it was trained on, as they are. Who publishes it publishes
            these.
        signed: whether the detector can tell what is brighter from what is darker than expected.
        sign: what the score tells of: "both", "bright" or "dark".
    """

    streams = ("training",)  # type: tuple[str, ...]  # a comment, as TorchScript cannot read the annotation
    searches = False
    exportable = True
    keeps_patches = False
    signed = False

    def __init__(self, in_channels: int = 1, patch_size: int = 16, spatial_dims: int = 2) -> None:
        super().__init__()
        if in_channels < 1:
            raise ConfigError(f"in_channels is {in_channels}: a detector needs at least one image channel.")
        if spatial_dims not in (2, 3):
            raise ConfigError(f"spatial_dims is {spatial_dims}, but patches are 2-D or 3-D: set it to 2 or 3.")
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.spatial_dims = spatial_dims
        self.sign = "both"

    def set_sign(self, sign: str) -> None:
        """Score what is "bright" or "dark", relative to what is expected there, alone, or "both".

        Raises:
            ConfigError: for another word, or if the detector does not tell them apart.
        """
        if sign not in SIGNS:
            raise ConfigError(f"sign is {sign!r}: use one of {', '.join(SIGNS)}.")
        if sign != "both" and not self.signed:
            raise ConfigError(f"{type(self).__name__} does not tell brighter from darker: its sign must be 'both'.")
        self.sign = sign

    def stages(self) -> Iterator[Stage]:
        """The phases of training, in their order; none for a detector that is only fitted.

        A generator: what stands between two ``yield`` runs when the first of the stages has ended, with the weights
        that it keeps, in eval mode and with a seed of its own. It may change the detector: add or freeze layers, draw
        weights. A training that is resumed runs through it again and then loads the weights that it had, so whatever
        is not in the state dictionary must come out the same from any weights.
        """
        return iter(())

    def training_step(self, batch: Any, stage: Stage) -> dict[str, Tensor]:
        """Learn from one batch and step ``stage.optimizers``.

        Args:
            batch: patches (B, C, H, W[, D]); of a detector with several ``streams``, a dictionary of them by stream.
            stage: the one that is under way.

        Returns:
            The losses by name: scalars, detached.
        """
        raise NotImplementedError

    def validation_loss(self, batch: Tensor) -> Tensor:
        """Mean loss of held-out normal patches (B, C, H, W[, D]): a scalar; lower is better.

        It is not asked for in stages that keep their last weights. If not overridden, the mean score.
        """
        with torch.no_grad():
            return torch.mean(self(batch))

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Fit what the score needs to know of normal patches (for example median and MAD); nothing by default."""

    def cautions(self) -> list[str]:
        """What whoever gets this very model must know, in sentences for its card; for most detectors nothing."""
        return []

    def score(self, patches: Tensor) -> Tensor:
        """Scores of patches (B, C, H, W[, D]): (B, 1), one a patch, or (B, 1, H, W[, D]), one a voxel."""
        raise NotImplementedError

    @torch.jit.unused
    def score_signs(self, patches: Tensor, signs: list[str]) -> Tensor:
        """:meth:`score` with each of ``signs``, whatever the sign is now: (B, len(signs)[, H, W[, D]]).

        Detectors whose scores of several signs come from one pass of their network override it.
        """
        asked = self.sign
        try:
            found = []
            for sign in signs:
                self.set_sign(sign)
                found.append(self.score(patches))
        finally:
            self.set_sign(asked)
        return torch.cat(found, dim=1)

    def forward(self, patches: Tensor, signs: list[str] | None = None) -> Tensor:
        """:meth:`score`, with gradients where it ``searches``, even under ``no_grad`` or ``inference_mode``.

        With ``signs``, :meth:`score_signs`.
        """
        if torch.jit.is_scripting():
            return self.score(patches)
        return self._score_with_gradients(patches, signs) if self.searches else self._scored(patches, signs)

    @torch.jit.unused
    def _scored(self, patches: Tensor, signs: list[str] | None) -> Tensor:
        return self.score(patches) if signs is None else self.score_signs(patches, signs)

    @torch.jit.unused
    def _score_with_gradients(self, patches: Tensor, signs: list[str] | None) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            # a tensor made in inference mode can never take part in a gradient; a copy made outside can
            return self._scored(patches.clone() if patches.is_inference() else patches, signs).detach()

    def __prepare_scriptable__(self) -> Detector:
        """What ``torch.jit.script`` calls first, so that every way to export meets this check.

        Raises:
            ConfigError: if the detector cannot be exported.
        """
        if not self.exportable:
            raise ConfigError(
                f"{type(self).__name__} cannot be exported to TorchScript: score with its weights (models/model.pt)."
            )
        return self

"""What can be trained: a detector, or a generator that scores nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor

from medanomaly.networks.stages import Stage


class Trainable(Protocol):
    """What :class:`DetectorTrainer` asks of a network, an ``nn.Module``; see :class:`medanomaly.detectors.Detector`.

    Only the first four are its own to write; the rest every module has.
    """

    streams: tuple[str, ...]  # sections of the datalist that a training batch draws from

    def stages(self) -> Iterator[Stage]: ...

    def training_step(self, batch: Any, stage: Stage) -> dict[str, Tensor]: ...

    def validation_loss(self, batch: Tensor) -> Tensor: ...

    def fit_statistics(self, batches: Iterable[Tensor]) -> None: ...

    def to(self, device: Any) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...

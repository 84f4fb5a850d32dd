"""The training loop of every detector, on MONAI's engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping, ProgressBar
from monai.engines.trainer import Trainer
from torch import Tensor
from tqdm import tqdm

from medanomaly.data.writing import written_whole
from medanomaly.detectors.base import Detector
from medanomaly.errors import InputError, TrainingError, check_count
from medanomaly.patches.layout import prepare_network
from medanomaly.patches.sampling import PatchSampler
from medanomaly.training.checkpoints import load_checkpoint

CHECK_EVERY = 50  # steps


class DetectorTrainer(Trainer):
    """Trains a detector on normal patches, keeps the weights with the lowest validation loss, and fits its statistics.

    After each epoch the validation loss is measured on the same held-out patches, ``last.pt`` (weights, optimisers,
    counters) and, if it is the lowest so far, ``best.pt`` are written. Training ends after ``max_epochs``, or after
    ``patience`` epochs without a relative improvement of 1e-4. Then the best weights are loaded, the detector fits its
    statistics on training patches, and ``model_file`` is written, and not before.

    A detector that grows is trained so at each of its sizes: from the best weights of a size it grows to the next, with
    new optimisers; epochs in which new layers fade in do not count (Madzia-Madzou & Kuijf). A detector
    without optimisers is only fitted.

    The randomness of an epoch comes from ``seed`` and the epoch alone, so a training that is resumed ends with the same
    weights, bit for bit, as one that was never interrupted (on the CPU; same machine, same number of threads).

    Args:
        device: where to train.
        max_epochs: most epochs (at each size, after the fade).
        train_data_loader: batches (B, C, p, p[, p]), redrawn in each epoch.
        network: the detector.
        val_data_loader: held-out batches, always the same.
        ckpt_dir: folder of ``last.pt`` and ``best.pt``.
        model_file: the finished model, a state dictionary; conventionally ``models/model.pt`` of a bundle.
        patience: epochs without improvement before training ends.
        seed: of the randomness in the steps (the weights are drawn when the network is made).
        resume: go on from ``last.pt`` if it is there.
        decay: let the learning rates fall to 0, linearly over the second half of ``max_epochs`` (at each size): swings
            from epoch to epoch, which decide what the best epoch is, die down.
        amp: take the training steps in bfloat16 (autocast), which is faster where the processor has it; validation
            losses and statistics stay float32.
        progress: show bars and a line an epoch.
        train_handlers: further MONAI or Ignite handlers (TensorBoard, ...); the losses are in
            ``engine.state.output``, the validation loss in ``engine.state.metrics["val_loss"]``.

    Raises:
        ConfigError: if ``max_epochs`` or ``patience`` is not a whole number of at least 1.
        InputError: if ``ckpt_dir`` holds another training and ``resume`` is False.
        TrainingError: within 50 steps of a loss that is not finite, and before anything is saved.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: PatchSampler,
        network: Detector,
        val_data_loader: PatchSampler,
        ckpt_dir: str | Path,
        model_file: str | Path,
        patience: int = 10,
        seed: int = 0,
        resume: bool = False,
        decay: bool = False,
        amp: bool = False,
        progress: bool = True,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        check_count("max_epochs", max_epochs)
        check_count("patience", patience)
        self.detector = network.to(device)
        prepare_network(self.detector)
        self.optimizers = network.optimizers()
        self.sampler, self.val_data_loader = train_data_loader, val_data_loader
        self.ckpt_dir, self.model_file = Path(ckpt_dir), Path(model_file)
        self.seed, self.resume, self.decay, self.progress = seed, resume, decay, progress
        self.max_epochs, self.settled_epochs = max_epochs, 0
        self.best_loss, self.best_epoch = math.inf, 0
        super().__init__(
            device, max_epochs, data_loader=train_data_loader, epoch_length=len(train_data_loader), amp=amp
        )
        self.early_stopping = EarlyStopping(
            patience,
            lambda engine: engine.state.metrics["val_loss"],
            self,
            threshold=1e-4,
            threshold_mode="rel",
            mode="min",
        )
        self.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._validate)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._judge)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._report)
        if progress:
            ProgressBar(
                persist=False, bar_format="{desc}[{n_fmt}/{total_fmt}] {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
            ).attach(self)
        self._register_handlers(list(train_handlers or []))

    def run(self) -> None:  # type: ignore[override]
        """Train to the end (or go on to it), then write ``model_file``."""
        last = self.ckpt_dir / "last.pt"
        if last.exists():
            if not self.resume:
                raise InputError(
                    f"{self.ckpt_dir} holds a training already: set resume (--resume) to go on with it, or choose "
                    "another folder."
                )
            self._restore(load_checkpoint(last))
        growing = bool(self.optimizers)
        while growing:
            finished = self.early_stopping.counter >= self.early_stopping.patience
            if not finished and self.state.epoch < self.state.max_epochs:
                super().run()
            self.detector.load_state_dict(load_checkpoint(self.ckpt_dir / "best.pt"))
            growing = self.detector.grow()
            if growing:
                self._start_size()
        self._finish()

    def _iteration(self, engine: Trainer, batchdata: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        batch = batchdata.to(engine.state.device, non_blocking=True)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.amp):
            losses = self.detector.training_step(batch, self.optimizers)
        sums = self.state.loss_sums
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.double()
        # a look at the losses makes a GPU wait: not at every step
        if engine.state.iteration % CHECK_EVERY == 0 or engine.state.iteration % engine.state.epoch_length == 0:
            self._check(sums)
        return losses

    def _check(self, sums: dict[str, Tensor]) -> None:
        for name, total in sums.items():
            if not torch.isfinite(total):
                raise TrainingError(
                    f"the {name} loss became {float(total)} in epoch {self.state.epoch}: lower the learning rate "
                    "(network_def#learning_rate) and train again."
                )

    def _start_epoch(self) -> None:
        torch.manual_seed(self.seed * 1_000_003 + self.state.epoch)
        self.sampler.set_epoch(self.state.epoch)
        self.state.loss_sums = {}
        if self.decay:
            share = min(1.0, 2 * (1 - self.settled_epochs / self.max_epochs))
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = share * optimizer.defaults["lr"]
        self.detector.train()

    @torch.no_grad()
    def _validate(self) -> None:
        self.detector.eval()
        losses = [float(self.detector.validation_loss(batch.to(self.state.device))) for batch in self.val_data_loader]
        value = sum(losses) / len(losses)
        if not math.isfinite(value):
            raise TrainingError(
                f"the validation loss became {value} in epoch {self.state.epoch}: lower the learning rate."
            )
        self.state.metrics["val_loss"] = value

    def _judge(self) -> None:
        """Keep the epoch if it is the best, and stop on a plateau; while new layers fade in, only go on."""
        if self.detector.is_settled():
            self.settled_epochs += 1
            self.early_stopping(self)
            if self.state.metrics["val_loss"] < self.best_loss:
                self.best_loss, self.best_epoch = self.state.metrics["val_loss"], self.state.epoch
                _save_whole(self.detector.state_dict(), self.ckpt_dir / "best.pt")
        self._save()

    def _save(self) -> None:
        self.state.max_epochs = self.state.epoch + self.max_epochs - self.settled_epochs
        checkpoint = {
            "epoch": self.state.epoch,
            "settled_epochs": self.settled_epochs,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "early_stopping": dict(self.early_stopping.state_dict()),
            "detector": self.detector.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }
        _save_whole(checkpoint, self.ckpt_dir / "last.pt")

    def _report(self) -> None:
        if self.progress:
            epoch, loss = self.state.epoch, self.state.metrics["val_loss"]
            means = "  ".join(
                f"{name} {float(total) / self.state.epoch_length:.4g}" for name, total in self.state.loss_sums.items()
            )
            mark = " (best)" if epoch == self.best_epoch else "" if self.detector.is_settled() else " (fading in)"
            tqdm.write(f"epoch {epoch}/{self.state.max_epochs}  {means}  validation {loss:.4g}{mark}")

    def _start_size(self) -> None:
        """After growth: new optimisers, and a new best to find."""
        self.optimizers = self.detector.optimizers()
        self.best_loss, self.best_epoch, self.settled_epochs = math.inf, 0, 0
        self.early_stopping.counter, self.early_stopping.best_score = 0, None
        self._save()  # now: beside the best epoch of this size, the last one of the size before would mislead
        if self.progress:
            tqdm.write(f"{type(self.detector).__name__} grew to its next size")

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.detector.load_state_dict(checkpoint["detector"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(checkpoint["optimizers"][name])
        self.best_loss, self.best_epoch = checkpoint["best_loss"], checkpoint["best_epoch"]
        self.early_stopping.load_state_dict(checkpoint["early_stopping"])
        self.state.epoch, self.settled_epochs = checkpoint["epoch"], checkpoint["settled_epochs"]
        self.state.max_epochs = self.state.epoch + self.max_epochs - self.settled_epochs
        self.state.iteration = checkpoint["epoch"] * self.state.epoch_length

    def _finish(self) -> None:
        self.detector.eval()
        torch.manual_seed(self.seed)
        self.sampler.set_epoch(0)  # patches that no epoch trained on
        self.detector.fit_statistics(batch.to(self.state.device) for batch in self.sampler)
        _save_whole(self.detector.state_dict(), self.model_file)


def _save_whole(content: Any, path: Path) -> None:
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)  # to a stream: a path would put the temporary name into the file

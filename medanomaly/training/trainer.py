"""The training loop of everything that learns in stages, on MONAI's engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.engines.trainer import Trainer
from torch import Tensor, nn

from medanomaly.data.writing import written_whole
from medanomaly.errors import ConfigError, InputError, TrainingError, check_count
from medanomaly.networks.adversaries import GAN
from medanomaly.networks.stages import Stage
from medanomaly.patches.layout import prepare_network
from medanomaly.patches.sampling import PatchSampler
from medanomaly.terminal import bar, say
from medanomaly.training.checkpoints import load_checkpoint, save_whole
from medanomaly.training.epoch_choice import PseudoAUC
from medanomaly.training.grid_stage import GridStage
from medanomaly.training.progress import TrainingProgress
from medanomaly.training.protocol import Trainable
from medanomaly.training.streams import choose_streams

CHECK_EVERY = 50  # steps


class DetectorTrainer(Trainer):
    """Trains a detector, stage by stage, keeps the weights that each stage asks for, and fits its statistics.

    In a stage that keeps the best weights, the validation loss is measured on the same held-out patches after each
    epoch; ``last.pt`` (weights, optimisers, counters) and, if the loss is the lowest so far, ``best.pt`` are written.
    The stage ends after ``max_epochs``, or after ``patience`` epochs without a relative improvement of 1e-4; then its
    best weights are loaded. A stage that keeps the last weights runs all of its epochs, and nothing is validated,
    unless there is a ``choice``: then all of its epochs are rated, and the weights of the best are loaded.
    Epochs in which new layers fade in (see :class:`Stage`) are not judged, and do not count. After the last stage,
    the detector fits its statistics on normal training patches, and ``model_file`` is written, and not before. A
    detector without stages is only fitted.

    The randomness of an epoch comes from ``seed`` and the epoch alone, and that between two stages from ``seed`` and
    the number of the stage, so a training that is resumed ends with the same weights, bit for bit, as one that was
    never interrupted (on the CPU; same machine, same number of threads).

    Args:
        device: where to train.
        max_epochs: most epochs of each stage that does not say its own (after the fade).
        train_data_loader: batches (B, C, p, p[, p]), redrawn in each epoch; for a detector that learns from several
            sections of the datalist, a sampler for each, such as ``{"training": ..., "mixed": ...}``.
        network: the detector, or whatever else is :class:`Trainable`.
        val_data_loader: held-out batches of normal patches, always the same.
        ckpt_dir: folder of ``last.pt`` and ``best.pt``.
        model_file: the finished model, a state dictionary; conventionally ``models/model.pt`` of a bundle.
        patience: epochs without improvement before a stage ends.
        seed: of the randomness in the steps (the weights are drawn when the network is made).
        resume: go on from ``last.pt`` if it is there.
        decay: let the learning rates fall to 0, linearly over the second half of each stage: swings from epoch to
            epoch, which decide what the best epoch is, die down.
        choice: rates the epochs of stages that would keep the last weights. Beside ``model_file``, of the epoch that it
            chose, ``model_last.pt`` gets what the last would have given, and ``epoch.json`` says which was chosen.
        amp: take the training steps in bfloat16 (autocast), which is faster where the processor has it; validation
            losses and statistics stay float32.
        progress: show bars and a line an epoch.
        grid: let a grid of GANs coevolve (:func:`medanomaly.training.coevolve`) where the detector's first stage is a
            GAN, such as ``{"rows": 2, "columns": 2, "workers": "ray"}``; an epoch is an iteration of each cell.
        train_handlers: further MONAI or Ignite handlers (TensorBoard, ...); the losses are in
            ``engine.state.output``, the validation loss in ``engine.state.metrics["val_loss"]`` where there is one,
            the stage in ``engine.stage``.

    Raises:
        ConfigError: if ``max_epochs`` or ``patience`` is not a whole number of at least 1, or there is no sampler for
            a section that the detector learns from, or its first stage is not a GAN, which ``grid`` needs.
        InputError: if ``ckpt_dir`` holds another training and ``resume`` is False.
        TrainingError: within 50 steps of a loss that is not finite, and before anything is saved.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: PatchSampler | Mapping[str, PatchSampler],
        network: Trainable,
        val_data_loader: PatchSampler,
        ckpt_dir: str | Path,
        model_file: str | Path,
        patience: int = 10,
        seed: int = 0,
        resume: bool = False,
        decay: bool = False,
        choice: PseudoAUC | None = None,
        amp: bool = False,
        progress: bool = True,
        grid: Mapping[str, Any] | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        check_count("max_epochs", max_epochs)
        check_count("patience", patience)
        self.detector = network
        self.grid = None if grid is None else GridStage(grid, seed)
        self._lay_out(device)
        self.normal_sampler, self.sampler = choose_streams(type(network).__name__, network.streams, train_data_loader)
        self.val_data_loader = val_data_loader
        self.ckpt_dir, self.model_file = Path(ckpt_dir), Path(model_file)
        self.seed, self.resume, self.decay, self.progress = seed, resume, decay, progress
        self.choice, self.pseudo_aucs = choice, list[float]()
        self.stage, self.stage_number, self.rates = Stage("none", {}), 0, dict[str, list[float]]()
        self.epochs_of_trainer = self.stage_epochs = max_epochs
        self.settled_epochs, self.best_loss, self.best_epoch = 0, math.inf, 0
        super().__init__(device, max_epochs, data_loader=self.sampler, epoch_length=len(self.sampler))
        self.bfloat16 = amp  # MONAI's own `amp` makes a scaler, which float16 needs and bfloat16 does not
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
        self.shown = TrainingProgress(self) if progress else None
        self._register_handlers(list(train_handlers or []))

    def run(self) -> None:  # type: ignore[override]
        """Train to the end (or go on to it), then write ``model_file``."""
        last = self.ckpt_dir / "last.pt"
        saved = None
        if last.exists():
            if not self.resume:
                raise InputError(
                    f"{self.ckpt_dir} holds a training already: set resume (--resume) to go on with it, or choose "
                    "another folder."
                )
            saved = load_checkpoint(last)
            if "stage" not in saved:
                raise InputError(f"{last} is of an older version, which cannot be gone on from: train in a new folder.")
        resumed_at = 0 if saved is None else saved["stage"]
        done = 0 if saved is None else saved["epoch"] * len(self.sampler)
        with bar(f"training {type(self.detector).__name__}", None, self.progress, done) as shown:
            if self.shown is not None:
                self.shown.bar = shown
            self._run_stages(saved, resumed_at)
            shown.update("fitting statistics to normal patches")
            self._finish()

    def _run_stages(self, saved: dict[str, Any] | None, resumed_at: int) -> None:
        for number, stage in enumerate(self._stages()):
            if number >= resumed_at:
                self._start_stage(number, stage)
                if saved is not None and number == resumed_at:
                    self._restore(saved)
                elif number > 0:
                    self._save()  # now: beside the best epoch of this stage, the last of the one before would mislead
                self._run_stage()
        self._check_grid()

    def _stages(self) -> Iterator[Stage]:
        """The network's stages; what it draws on the way to one depends on the seed and the number of the stage."""
        stages = self.detector.stages()
        for number in count():
            torch.manual_seed(self.seed * 1_000_003 - 1 - number)
            self.detector.eval()
            stage = next(stages, None)
            if stage is None:
                return
            yield stage

    def _start_stage(self, number: int, stage: Stage) -> None:
        if stage.max_epochs is not None:
            check_count(f"max_epochs of the stage {stage.name}", stage.max_epochs)
        self._lay_out(self.state.device)  # with the layers that are new
        self.stage, self.stage_number = stage, number
        self.stage_epochs = stage.max_epochs or self.epochs_of_trainer
        self.rates = {
            name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in stage.optimizers.items()
        }
        self.best_loss, self.best_epoch, self.settled_epochs, self.pseudo_aucs = math.inf, 0, 0, []
        self.early_stopping.counter, self.early_stopping.best_score = 0, None
        for name in ("val_loss", "pseudo_auc"):
            self.state.metrics.pop(name, None)
        self._plan_epochs()
        if self.progress and number > 0:
            say(f"{type(self.detector).__name__}: next stage, {stage.name}")

    def _run_stage(self) -> None:
        self._check_grid()
        if self.grid is not None and self.stage.gan is not None and self.settled_epochs == 0:
            self._coevolve(self.grid, self.stage.gan)
        finished = self.early_stopping.counter >= self.early_stopping.patience
        if not finished and self.state.epoch < self.state.max_epochs:
            super().run()
        if self.stage.keep == "best" or self._chooses():
            self.detector.load_state_dict(load_checkpoint(self.ckpt_dir / "best.pt"))

    def _chooses(self) -> bool:
        """Whether the epochs of this stage are rated, where no loss would rank them."""
        return self.choice is not None and self.stage.keep == "last" and bool(self.stage.optimizers)

    def _check_grid(self) -> None:
        if self.grid is not None and self.stage_number == 0 and self.stage.gan is None:
            raise ConfigError(
                f"{type(self.detector).__name__} does not begin with a GAN that a grid could train: leave out grid, or "
                "choose a detector that does, f_anogan or anogan."
            )

    def _coevolve(self, grid: GridStage, gan: GAN) -> None:
        """A grid in place of the epochs of this stage."""
        self._save()  # so that there is a training to resume
        where = self.ckpt_dir / "grid", self.resume, self.state.device, self.progress
        grid.run(gan, self.normal_sampler, self.val_data_loader, self.stage_epochs, *where)
        self.state.epoch += self.stage_epochs
        self.settled_epochs = self.stage_epochs
        self.state.iteration = self.state.epoch * self.state.epoch_length
        self._save()

    def _lay_out(self, device: torch.device | str) -> None:
        self.detector.to(device)
        if isinstance(self.detector, nn.Module):
            prepare_network(self.detector)

    def _iteration(self, engine: Trainer, batchdata: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        device = torch.device(engine.state.device)
        batch = (
            {stream: patches.to(device, non_blocking=True) for stream, patches in batchdata.items()}
            if isinstance(batchdata, dict)
            else batchdata.to(device, non_blocking=True)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            losses = self.detector.training_step(batch, self.stage)
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
            share = min(1.0, 2 * (1 - self.settled_epochs / self.stage_epochs))
            for name, optimizer in self.stage.optimizers.items():
                for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
                    group["lr"] = share * rate
        self.detector.train()

    @torch.no_grad()
    def _validate(self) -> None:
        if self.stage.keep == "last":
            return
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
        if self.stage.settled():
            self.settled_epochs += 1
            if self.stage.keep == "best":
                self.early_stopping(self)
                self._keep_if_best(self.state.metrics["val_loss"])
            elif self.choice is not None and self._chooses():
                self.detector.eval()
                self.pseudo_aucs.append(self.choice(self.detector, self.state.device))
                self.state.metrics["pseudo_auc"] = self.pseudo_aucs[-1]
                self._keep_if_best(-self.pseudo_aucs[-1])
        self._save()

    def _keep_if_best(self, loss: float) -> None:
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.state.epoch
            save_whole(self.detector.state_dict(), self.ckpt_dir / "best.pt")

    def _plan_epochs(self) -> None:
        self.state.max_epochs = self.state.epoch + self.stage_epochs - self.settled_epochs

    def _save(self) -> None:
        self._plan_epochs()
        checkpoint = {
            "stage": self.stage_number,
            "epoch": self.state.epoch,
            "settled_epochs": self.settled_epochs,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "pseudo_aucs": self.pseudo_aucs,
            "early_stopping": dict(self.early_stopping.state_dict()),
            "detector": self.detector.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.stage.optimizers.items()},
        }
        save_whole(checkpoint, self.ckpt_dir / "last.pt")

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.detector.load_state_dict(checkpoint["detector"])
        for name, optimizer in self.stage.optimizers.items():
            optimizer.load_state_dict(checkpoint["optimizers"][name])
        self.best_loss, self.best_epoch = checkpoint["best_loss"], checkpoint["best_epoch"]
        self.pseudo_aucs = list(checkpoint.get("pseudo_aucs", []))
        if self._chooses() and len(self.pseudo_aucs) < checkpoint["settled_epochs"]:
            raise InputError(
                f"the training in {self.ckpt_dir} has epochs that were not rated, so the best of them is not known: go "
                "on with choose_epoch last, or train in a new folder."
            )
        self.early_stopping.load_state_dict(checkpoint["early_stopping"])
        self.state.epoch, self.settled_epochs = checkpoint["epoch"], checkpoint["settled_epochs"]
        self.state.iteration = checkpoint["epoch"] * self.state.epoch_length
        self._plan_epochs()

    def _finish(self) -> None:
        if self.choice is not None and self._chooses():
            last = load_checkpoint(self.ckpt_dir / "last.pt")["detector"]
            chosen = {name: value.clone() for name, value in self.detector.state_dict().items()}
            self.detector.load_state_dict(last)
            self._fit_and_save(self.model_file.with_name("model_last.pt"))
            self.detector.load_state_dict(chosen)
            with written_whole(self.model_file.with_name("epoch.json")) as temporary:
                temporary.write_text(json.dumps(self.choice.record(self.pseudo_aucs), indent=1), encoding="utf-8")
        self._fit_and_save(self.model_file)

    def _fit_and_save(self, file: Path) -> None:
        self.detector.eval()
        torch.manual_seed(self.seed)
        self.normal_sampler.set_epoch(0)  # patches that no epoch trained on
        self.detector.fit_statistics(batch.to(self.state.device) for batch in self.normal_sampler)
        save_whole(self.detector.state_dict(), file)

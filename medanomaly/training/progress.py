"""What a person sees of a training: a line an epoch, and a bar with the time that is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ignite.engine import Events

from medanomaly.terminal import Bar, say

if TYPE_CHECKING:
    from medanomaly.training.trainer import DetectorTrainer


class TrainingProgress:
    """Follows a trainer, and fills its bar; the time left is that of all its stages, at most, as one may stop early.

    Args:
        trainer: to follow; its other handlers come first.
    """

    def __init__(self, trainer: DetectorTrainer) -> None:
        self.bar: Bar | None = None
        trainer.add_event_handler(Events.EPOCH_STARTED, self._tell_time)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._tell_losses)

    def _tell_time(self, trainer: DetectorTrainer) -> None:
        if self.bar is not None:
            stage = trainer.stage
            epochs = (trainer.state.max_epochs or 0) + stage.still_to_come * trainer.epochs_of_trainer
            name = f"{stage.name}, " if trainer.stage_number or stage.still_to_come else ""
            words = f"{name}epoch {trainer.state.epoch} of at most {epochs}"
            self.bar.update(words, epochs * len(trainer.sampler))

    def _advance(self, trainer: DetectorTrainer) -> None:
        if self.bar is not None:
            self.bar.advance()

    def _tell_losses(self, trainer: DetectorTrainer) -> None:
        state, stage = trainer.state, trainer.stage
        parts = [f"{name} {float(total) / state.epoch_length:.4g}" for name, total in state.loss_sums.items()]
        if stage.keep == "best":
            parts.append(f"validation {state.metrics['val_loss']:.4g}")
        elif "pseudo_auc" in state.metrics:
            parts.append(f"pseudo-AUC {state.metrics['pseudo_auc']:.3f}")
        mark = " (best)" if state.epoch == trainer.best_epoch else "" if stage.settled() else " (fading in)"
        say(f"epoch {state.epoch}/{state.max_epochs}  {'  '.join(parts)}{mark}")

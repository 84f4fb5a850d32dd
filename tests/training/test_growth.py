"""The training of a detector that grows: when it grows, from which weights, and how one that died goes on."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import ProgressiveGANomaly
from medanomaly.training import DetectorTrainer, load_checkpoint
from tests.training.small_trainings import Recorder, assert_ends_like, unequal


class Growing(ProgressiveGANomaly):
    """Its validation loss is the next of the given ones; it keeps what it was at each call."""

    losses, calls = (), ()

    def validation_loss(self, batch):
        loss, *self.losses = self.losses
        self.calls = (*self.calls, (self.stage, self.alpha(), {k: v.clone() for k, v in self.state_dict().items()}))
        return torch.tensor(float(loss))


def growing(losses, fade_images=48, patch_size=16):
    torch.manual_seed(7)
    detector = Growing(patch_size=patch_size, features=(4, 4, 4), latent_dim=6, fade_images=fade_images)
    detector.losses = losses
    return detector


def test_a_plateau_reloads_the_best_epoch_and_grows_and_at_the_last_size_it_ends(trainer):
    """Acceptance c of Progressive GANomaly. An epoch shows 24 patches, so a fade of 48 lasts two epochs."""
    # 8 voxels: best in epoch 2, plateau of 2; fade in 5 and (at its end settled) 6; best in epoch 7, plateau of 2
    losses = [5, 3, 4, 4, 0.1, 2, 1, 2, 2]
    detector, recorder = growing(losses), Recorder()
    grew_from, stages, optimizers = [], detector.stages, []

    def watched():
        for stage in stages():
            optimizers.append(stage.optimizers["generator"])
            yield stage
            grew_from.append({k: v.clone() for k, v in detector.state_dict().items()})

    detector.stages = watched
    run = trainer(max_epochs=50, patience=2, detector=detector, recorder=recorder)
    run.run()
    assert [(stage, alpha) for stage, alpha, _ in detector.calls] == [(0, 1.0)] * 4 + [(1, 0.5)] + [(1, 1.0)] * 4
    assert recorder.losses == pytest.approx(losses)
    assert len(grew_from) == 2  # the second time there was no more, and training ended
    assert unequal(grew_from[0], recorder.weights[2]) == []
    assert unequal(grew_from[1], recorder.weights[7]) == []  # not epoch 5, in mid-fade, though its loss was lower
    assert unequal(load_checkpoint(run.model_file), recorder.weights[7]) == []
    steps = [max(float(state["step"]) for state in optimizer.state.values()) for optimizer in optimizers]
    assert steps == [4 * 3, 5 * 3]  # fresh states at each size: four and five epochs of three batches


def test_max_epochs_counts_at_each_size_from_the_end_of_the_fade(trainer):
    detector = growing([9 - n for n in range(9)], fade_images=96)
    trainer(max_epochs=2, detector=detector).run()
    assert [(stage, alpha) for stage, alpha, _ in detector.calls] == [
        *[(0, 1.0)] * 2,
        *[(1, 0.25), (1, 0.5), (1, 0.75)],
        *[(1, 1.0)] * 2,
    ]


@pytest.mark.parametrize("crash", [(1, 2), (3, 1), (4, 2), (5, 3), (6, 1)])
def test_a_growing_training_that_died_goes_on_in_the_middle_of_a_fade(trainer, crash):
    def detector():
        torch.manual_seed(7)
        return ProgressiveGANomaly(features=(4, 4, 4), latent_dim=6, fade_images=60)

    recorder = Recorder()
    whole = trainer("whole", max_epochs=2, detector=detector(), recorder=recorder)
    whole.run()
    assert len(recorder.losses) == 6  # 2; 24 and 48 of 60 shown; 2
    first = trainer(max_epochs=2, detector=detector(), recorder=Recorder(crash))
    with pytest.raises(RuntimeError, match="pulled the plug"):
        first.run()
    torch.manual_seed(12345)
    second = trainer(max_epochs=2, detector=detector(), resume=True)
    second.run()
    assert_ends_like(
        second, (load_checkpoint(whole.model_file), load_checkpoint(whole.ckpt_dir / "last.pt")["detector"])
    )


def test_a_training_that_died_before_its_first_save_after_growth_goes_on_at_the_new_size(trainer, monkeypatch):
    def detector():
        torch.manual_seed(7)
        return ProgressiveGANomaly(features=(4, 4, 4), latent_dim=6, fade_images=20)

    save = DetectorTrainer._save

    def dies_in_the_second_epoch(self):
        if self.state.epoch == 2:
            raise RuntimeError("pulled the plug")
        save(self)

    first = trainer(max_epochs=1, detector=detector())
    with monkeypatch.context() as patch:
        patch.setattr(DetectorTrainer, "_save", dies_in_the_second_epoch)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            first.run()
    assert load_checkpoint(first.ckpt_dir / "best.pt")["_extra_state"][0] == 1  # of the new size already
    recorder = Recorder()
    second = trainer(max_epochs=1, detector=detector(), resume=True, recorder=recorder)
    second.run()
    assert sorted(recorder.weights) == [2] and second.detector.stage == 1

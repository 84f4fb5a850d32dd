"""The training loop: what it keeps, when it stops, and that an interrupted training ends as if it had not been."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events

from medanomaly.detectors import GANomaly
from medanomaly.errors import InputError, TrainingError
from medanomaly.patches import PatchSampler
from medanomaly.training import DetectorTrainer, load_checkpoint, load_detector


def made_dataset(n=2, seed=0):
    """Cases of smooth waves with a brain that fills most of the volume."""
    generator = torch.Generator().manual_seed(seed)
    brain = torch.zeros(1, 24, 22, 3)
    brain[:, 2:22, 2:20] = 1
    cases = []
    for number in range(n):
        noise = torch.rand(1, 24, 22, 3, generator=generator)
        cases.append({"image": torch.sin(torch.arange(24.0) / 3).view(1, 24, 1, 1) + 0.1 * noise, "brain": brain, "case": f"c{number}"})
    return cases


def network(critic="wgan-gp", **arguments):
    torch.manual_seed(7)
    return GANomaly(variant="K", critic=critic, features=4, latent_dim=8, **arguments)


def sampler(seed=0, batch_size=8):
    return PatchSampler(made_dataset(), 16, batch_size=batch_size, patches_per_epoch=24, seed=seed)


class Recorder:
    """A handler that keeps the validation losses and the patches of each epoch, and may stop the training as a crash does."""

    def __init__(self, crash=(0, 0)):
        self.losses, self.patches, self.crash = [], {}, crash

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: self.losses.append(e.state.metrics["val_loss"]))

    def step(self, engine):
        self.patches.setdefault(engine.state.epoch, []).append(engine.state.batch.clone())
        if (engine.state.epoch, len(self.patches[engine.state.epoch])) == self.crash:
            raise KeyboardInterrupt("pulled the plug")


@pytest.fixture
def trainer(tmp_path):
    def make(folder="run", max_epochs=4, recorder=None, detector=None, training=None, validation=None, **settings):
        return DetectorTrainer(
            device="cpu",
            max_epochs=max_epochs,
            train_data_loader=training or sampler(),
            network=detector or network(),
            val_data_loader=validation or sampler(seed=1),
            ckpt_dir=tmp_path / folder,
            model_file=tmp_path / folder / "models" / "model.pt",
            progress=False,
            train_handlers=[recorder] if recorder else None,
            **settings,
        )

    return make


def assert_equal_weights(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def differ(a, b):
    return any(not torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def uninterrupted(trainer):
    recorder = Recorder()
    whole = trainer("whole", recorder=recorder)
    whole.run()
    return load_checkpoint(whole.model_file), load_checkpoint(whole.ckpt_dir / "last.pt"), recorder


def test_more_epochs_later_end_as_if_asked_for_at_once(trainer, uninterrupted):
    first = trainer(max_epochs=2)
    first.run()
    torch.manual_seed(12345)  # whatever happened in between
    second = trainer(resume=True)
    second.run()
    model, last, _ = uninterrupted
    assert differ(load_checkpoint(first.ckpt_dir / "last.pt")["detector"], {}) is False  # still readable
    assert_equal_weights(load_checkpoint(second.ckpt_dir / "last.pt")["detector"], last["detector"])
    assert_equal_weights(load_checkpoint(second.model_file), model)


@pytest.mark.parametrize("crash", [(1, 2), (3, 1), (3, 2), (4, 3)], ids=str)
def test_a_training_that_died_within_an_epoch_ends_as_if_it_had_not(trainer, uninterrupted, crash):
    died = trainer(recorder=Recorder(crash))
    with pytest.raises(KeyboardInterrupt, match="pulled the plug"):
        died.run()
    assert not died.model_file.exists()
    torch.manual_seed(12345)
    resumed, recorder = trainer(resume=True, recorder=(recorder := Recorder())), recorder
    resumed.run()
    model, last, whole = uninterrupted
    assert list(recorder.patches) == [epoch for epoch in range(1, 5) if epoch >= crash[0]]
    assert recorder.losses == whole.losses[crash[0] - 1 :]
    assert_equal_weights(load_checkpoint(resumed.ckpt_dir / "last.pt")["detector"], last["detector"])
    assert_equal_weights(load_checkpoint(resumed.model_file), model)

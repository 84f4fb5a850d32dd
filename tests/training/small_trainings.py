"""What a training of seconds is made of, a handler that watches it and may crash it, and how two are compared."""

from __future__ import annotations

import torch
from ignite.engine import Events

from medanomaly.detectors import GANomaly
from medanomaly.patches import PatchSampler, PatchSpec
from medanomaly.training import load_checkpoint


def made_dataset():
    """Two cases of smooth waves with a brain that fills most of the volume."""
    generator = torch.Generator().manual_seed(0)
    brain = torch.zeros(1, 24, 22, 3)
    brain[:, 2:22, 2:20] = 1
    wave = torch.sin(torch.arange(24.0) / 3).view(1, 24, 1, 1)
    return [{"image": wave + 0.1 * torch.rand(1, 24, 22, 3, generator=generator), "region": brain} for _ in range(2)]


def sampler(seed=0, batch_size=8):
    return PatchSampler(made_dataset(), PatchSpec(16), batch_size=batch_size, patches_per_epoch=24, seed=seed)


def network(kind=GANomaly, **arguments):
    torch.manual_seed(7)
    return kind(**{"variant": "K", "features": 4, "latent_dim": 8, **arguments})


class Recorder:
    """A handler that keeps each epoch's patches, validation loss and weights, and may crash at (epoch, batch)."""

    def __init__(self, crash=(0, 0), error=RuntimeError):
        self.losses, self.patches, self.weights, self.crash, self.error = [], {}, {}, crash, error

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.batch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)

    def batch(self, engine):
        epoch = engine.state.epoch
        self.patches.setdefault(epoch, []).append(engine.state.batch.clone())
        if (epoch, len(self.patches[epoch])) == self.crash:
            raise self.error("pulled the plug")

    def epoch(self, engine):
        self.losses.append(engine.state.metrics["val_loss"])
        self.weights[engine.state.epoch] = {k: v.clone() for k, v in engine.detector.state_dict().items()}


def unequal(a, b, ignore=()):
    """The names of the weights that are not the same bit for bit."""
    assert a.keys() == b.keys()
    return [name for name in a if name not in ignore and not torch.equal(a[name], b[name])]


def assert_ends_like(run, whole):
    assert unequal(load_checkpoint(run.model_file), whole[0]) == []
    assert unequal(load_checkpoint(run.ckpt_dir / "last.pt")["detector"], whole[1]) == []

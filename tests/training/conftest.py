"""A training of seconds, for the files here that ask different things of it."""

from __future__ import annotations

import pytest

from medanomaly.training import DetectorTrainer
from tests.training.small_trainings import network, sampler


@pytest.fixture
def trainer(tmp_path):
    """Makes a trainer of a GANomaly, or of another detector, in a folder of its own."""

    def make(folder="run", max_epochs=4, recorder=None, detector=None, progress=False, **settings):
        return DetectorTrainer(
            device="cpu",
            max_epochs=max_epochs,
            train_data_loader=sampler(),
            network=detector or network(),
            val_data_loader=sampler(seed=1, batch_size=24),  # one batch
            ckpt_dir=tmp_path / folder,
            model_file=tmp_path / folder / "models" / "model.pt",
            progress=progress,
            train_handlers=[recorder] if recorder else None,
            **settings,
        )

    return make

"""The training loop: what it keeps, when it stops, and that an interrupted training ends as if it had not been."""

from __future__ import annotations

import warnings

import pytest
import torch

from medanomaly.detectors import Detector, GANomaly
from medanomaly.errors import ConfigError, InputError, TrainingError
from medanomaly.patches.layout import channels_last, prepare_network
from medanomaly.training import load_checkpoint
from tests.training.small_trainings import Recorder, assert_ends_like, network, sampler, unequal


class Scripted(GANomaly):
    """A GANomaly whose validation loss is the next of the given ones."""

    losses = ()

    def validation_loss(self, batch):
        loss, *self.losses = self.losses
        return torch.tensor(loss)


def scripted(losses):
    detector = network(Scripted)
    detector.losses = losses
    return detector


@pytest.fixture
def whole(trainer):
    """A training of four epochs that nothing interrupts: finished model, last weights, recorder."""
    recorder = Recorder()
    run = trainer("whole", recorder=recorder)
    run.run()
    return load_checkpoint(run.model_file), load_checkpoint(run.ckpt_dir / "last.pt")["detector"], recorder


def test_more_epochs_later_end_as_if_asked_for_at_once(trainer, whole):
    first = trainer(max_epochs=2)
    first.run()
    assert unequal(load_checkpoint(first.ckpt_dir / "last.pt")["detector"], whole[1])
    torch.manual_seed(12345)  # whatever happened in between
    second = trainer(resume=True)
    second.run()
    assert_ends_like(second, whole)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("crash", [(1, 2), (3, 1), (4, 3)], ids=str)
def test_a_training_that_died_within_an_epoch_ends_as_if_it_had_not(trainer, whole, crash, error):
    died = trainer(recorder=Recorder(crash, error))
    with pytest.raises(error, match="pulled the plug"):
        died.run()
    assert not died.model_file.exists()
    torch.manual_seed(12345)
    recorder = Recorder()
    resumed = trainer(resume=True, recorder=recorder)
    resumed.run()
    assert list(recorder.patches) == list(range(crash[0], 5))
    assert recorder.losses == whole[2].losses[crash[0] - 1 :]
    assert_ends_like(resumed, whole)


def test_a_resumed_training_that_has_ended_gives_the_same_model_again(trainer, whole):
    first = trainer()
    first.run()
    first.model_file.unlink()
    recorder = Recorder()
    trainer(resume=True, recorder=recorder).run()
    assert recorder.patches == {}
    assert_ends_like(first, whole)


def test_the_seed_changes_the_steps(trainer, whole):
    other = trainer(seed=1)
    other.run()
    assert unequal(load_checkpoint(other.model_file), whole[0])


@pytest.mark.parametrize(
    ("losses", "patience", "epochs", "best"),
    [
        ([5.0, 3.0, 4.0, 2.0, 6.0], 9, 5, 4),
        ([5.0, 3.0, 4.0, 2.0, 6.0], 1, 3, 2),  # stops at the first that is no better
        ([5.0, 3.0, 4.0, 2.0, 6.0], 2, 5, 4),  # 2 comes in time
        ([1.0, 2.0, 3.0, 4.0, 0.5], 3, 4, 1),
        ([1.0, 0.99999, 0.99998, 0.99997, 0.5], 3, 4, 4),  # better by less than 1e-4 does not count as progress ...
        ([1.0, 0.9998, 0.9996, 0.9994, 0.9992], 1, 5, 5),  # ... by more than that it does
    ],
)
def test_stops_after_patience_epochs_and_keeps_the_epoch_of_the_lowest_loss(trainer, losses, patience, epochs, best):
    recorder = Recorder()
    run = trainer(max_epochs=5, detector=scripted(losses), recorder=recorder, patience=patience)
    run.run()
    assert list(recorder.weights) == list(range(1, epochs + 1))
    model = load_checkpoint(run.model_file)
    assert unequal(model, recorder.weights[best], ignore=("modified.median", "modified.mad")) == []
    assert all(
        unequal(model, w, ignore=("modified.median", "modified.mad"))
        for epoch, w in recorder.weights.items()
        if epoch != best
    )
    assert unequal(model, run.detector.state_dict()) == [] and not run.detector.training


def test_patience_is_counted_on_over_an_interruption(trainer):
    trainer(max_epochs=3, detector=scripted([1.0, 2.0, 2.0]), patience=3).run()
    recorder = Recorder()
    trainer(max_epochs=9, detector=scripted([2.0] * 6), patience=3, resume=True, recorder=recorder).run()
    assert list(recorder.patches) == [4]
    recorder = Recorder()
    trainer(max_epochs=9, detector=scripted([]), patience=3, resume=True, recorder=recorder).run()
    assert recorder.patches == {}  # it had ended already


def test_another_training_is_never_overwritten(trainer):
    first = trainer(max_epochs=1)
    first.run()
    before = {path: path.read_bytes() for path in first.ckpt_dir.rglob("*.pt")}
    assert len(before) == 3
    with pytest.raises(InputError, match="holds a training already: set resume"):
        trainer(max_epochs=2).run()
    assert {path: path.read_bytes() for path in first.ckpt_dir.rglob("*") if path.is_file()} == before


def test_a_training_loss_that_is_not_finite_ends_the_training(trainer):
    run = trainer(detector=network(learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"loss became (nan|inf) in epoch 1: lower the learning rate"):
        run.run()
    assert not run.model_file.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_ends_the_training(trainer, bad):
    run = trainer(detector=scripted([1.0, bad, 1.0]))
    with pytest.raises(TrainingError, match=r"validation loss became (nan|inf) in epoch 2"):
        run.run()
    assert not run.model_file.exists()
    assert load_checkpoint(run.ckpt_dir / "last.pt")["epoch"] == 1


def test_statistics_are_fitted_with_the_best_weights_on_patches_of_no_epoch(trainer):
    recorder = Recorder()
    run = trainer(detector=scripted([2.0, 1.0, 3.0, 4.0]), recorder=recorder)
    run.run()
    expected = network().eval()
    expected.load_state_dict(recorder.weights[2])
    prepare_network(expected)
    patches = sampler().draw(24)  # of epoch 0
    assert not any(torch.equal(patches, torch.cat(drawn)) for drawn in recorder.patches.values())
    expected.fit_statistics(channels_last(batch) for batch in patches.split(8))
    model = load_checkpoint(run.model_file)
    assert unequal(model, expected.state_dict()) == []
    assert (model["modified.mad"] != 1).all() and (model["modified.median"] != 0).all()


def test_each_epoch_trains_on_new_patches_and_is_measured_on_the_same(trainer, monkeypatch):
    measured, measure = [], GANomaly.validation_loss

    def look(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        measured.append(batch.clone())
        return measure(self, batch)

    monkeypatch.setattr(GANomaly, "validation_loss", look)
    recorder = Recorder()
    trainer(recorder=recorder, detector=network(variant="A")).run()
    assert len(measured) == 4 and all(torch.equal(batch, measured[0]) for batch in measured)
    epochs = [torch.cat(batches) for batches in recorder.patches.values()]
    assert not any(torch.equal(epochs[i], epochs[j]) for i in range(4) for j in range(i))
    assert recorder.losses[-1] < recorder.losses[0]


def test_progress_is_a_line_an_epoch(trainer, capsys):
    trainer(max_epochs=2, detector=scripted([0.5, 0.75]), progress=True).run()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert lines[0].endswith("validation 0.5 (best)") and lines[1].endswith("validation 0.75")
    assert all(name in lines[0] for name in ("adversarial", "contextual", "encoder", "critic"))


@pytest.mark.parametrize(("variant", "critic"), [("A", "bce"), ("K", "bce"), ("K", "wgan-gp")])
def test_bfloat16_steps_train_float32_weights(trainer, variant, critic):
    detectors = {}
    for amp in (False, True):
        detector = detectors[amp] = network(variant=variant, critic=critic, learning_rate=1e-4)
        run = trainer(folder=f"amp_{amp}", max_epochs=2, detector=detector, amp=amp)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*GradScaler")  # bfloat16 needs none, and a CPU has none
            run.run()
        assert all(value.dtype != torch.bfloat16 for value in detector.state_dict().values())
    weights, fast = (list(detectors[amp].decoder.parameters()) for amp in (False, True))
    assert not all(torch.equal(a, b) for a, b in zip(weights, fast, strict=True))
    assert all(torch.allclose(a, b, rtol=0, atol=2e-3) for a, b in zip(weights, fast, strict=True))


def test_the_network_is_laid_out_for_fast_convolutions(trainer):
    run = trainer()
    weight = next(p for p in run.detector.trunk.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)


class Fitted(Detector):
    """Learns without a step: the mean of the patches."""

    def __init__(self):
        super().__init__()
        self.mean, self.n = torch.nn.Buffer(torch.zeros(())), 0

    def fit_statistics(self, batches):
        patches = torch.cat(list(batches))
        self.mean.copy_(patches.mean())
        self.n = len(patches)


def test_a_detector_without_stages_is_only_fitted(trainer):
    run = trainer(detector=Fitted())
    run.run()
    assert run.state.epoch == 0 and run.detector.n == 24
    assert load_checkpoint(run.model_file)["mean"] == run.detector.mean != 0
    assert not (run.ckpt_dir / "last.pt").exists()


@pytest.mark.parametrize("crash", [None, (3, 2)])
def test_learning_rates_fall_to_zero_over_the_second_half(trainer, crash):
    seen = []

    class Rates(Recorder):
        def epoch(self, engine):
            super().epoch(engine)
            seen.append([optimizer.param_groups[0]["lr"] for optimizer in engine.stage.optimizers.values()])

    run = trainer(max_epochs=5, decay=True, recorder=Rates(crash or (0, 0)))
    if crash:
        with pytest.raises(RuntimeError, match="pulled the plug"):
            run.run()
        run = trainer(max_epochs=5, decay=True, resume=True, recorder=Rates())
    run.run()
    rate = network().learning_rate
    assert seen == [pytest.approx([share * rate] * 2) for share in (1, 1, 1, 0.8, 0.4)]


@pytest.mark.parametrize("name", ["patience", "max_epochs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None])
def test_a_count_that_counts_nothing_is_a_config_error(trainer, name, value):
    with pytest.raises(ConfigError, match=rf"{name} is {value!r}, .*whole number.* 1"):
        trainer(**{"max_epochs": 2, name: value})

"""Stages: what each trains, keeps and asks for, and that a training killed in one ends as if it had not been."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from torch import nn

from medanomaly.detectors import Detector, Stage
from medanomaly.errors import ConfigError, InputError
from medanomaly.patches import PatchSampler, PatchSpec
from medanomaly.training import DetectorTrainer, StreamSampler, load_checkpoint


def sampler(seed=0):
    generator = torch.Generator().manual_seed(seed)
    case = {"image": torch.rand(1, 24, 24, 2, generator=generator), "region": torch.ones(1, 24, 24, 2)}
    return PatchSampler([case], PatchSpec(8), batch_size=8, patches_per_epoch=24, seed=seed)


class ThreeStages(Detector):
    """An autoencoder; then new layers, drawn at random, in its middle; then, everything else frozen, a critic."""

    def __init__(self, streams=("training",)):
        super().__init__(patch_size=8)
        self.streams, self.asked = streams, []
        self.encoder, self.decoder = nn.Linear(64, 6), nn.Linear(6, 64)
        self.middle, self.norm = nn.ModuleList(), nn.BatchNorm1d(6)
        self.critic = nn.Linear(64, 1)

    def stages(self):
        parts = (self.encoder, self.norm, self.decoder)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        yield Stage("coarse", {"all": torch.optim.Adam(parameters, lr=1e-2)}, max_epochs=2)
        self.middle.append(nn.Linear(6, 6))
        self(torch.rand(20, 1, 8, 8))  # in eval mode, or the running means would change
        yield Stage("fine", {"all": torch.optim.Adam([*parameters, *self.middle.parameters()], lr=1e-2)})
        for parameter in [*parameters, *self.middle.parameters()]:
            parameter.requires_grad_(False)
        critic = [{"params": [self.critic.weight]}, {"params": [self.critic.bias], "lr": 0.5}]
        yield Stage("critic", {"critic": torch.optim.SGD(critic, lr=0.1, momentum=0.9)}, keep="last", max_epochs=2)

    def reconstruct(self, patches):
        z = self.norm(self.encoder(patches.flatten(1)))
        for layer in self.middle:
            z = layer(torch.relu(z))
        return self.decoder(z)

    def training_step(self, batch, stage):
        normal = batch if len(self.streams) == 1 else batch["training"]
        other = normal + torch.randn_like(normal) if len(self.streams) == 1 else batch["mixed"]
        if stage.name == "critic":
            loss = (self.critic(normal.flatten(1)) - self.critic(other.flatten(1))).mean()
        else:
            loss = (self.reconstruct(other) - normal.flatten(1)).abs().mean()
        for optimizer in stage.optimizers.values():
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return {stage.name: loss.detach()}

    def validation_loss(self, batch):
        assert not self.training
        self.asked.append(len(self.middle))
        return (self.reconstruct(batch) - batch.flatten(1)).abs().mean()

    def score(self, patches):
        return (self.reconstruct(patches) - patches.flatten(1)).abs().mean(dim=1, keepdim=True)


class Pull:
    """A handler that pulls the plug at (event, number of the event), and counts the epochs by stage."""

    def __init__(self, event=None, number=0):
        self.event, self.number, self.epochs = event, number, []

    def attach(self, engine):
        if self.event:
            engine.add_event_handler(self.event(once=self.number), self.pull)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: self.epochs.append(engine.stage.name))

    def pull(self):
        raise KeyboardInterrupt


@pytest.fixture
def trainer(tmp_path):
    def make(folder="run", handler=None, streams=("training",), **settings):
        torch.manual_seed(3)
        loaders = sampler() if streams == ("training",) else {"training": sampler(), "mixed": sampler(5)}
        return DetectorTrainer(
            "cpu",
            **{"max_epochs": 3, "network": ThreeStages(streams), "train_data_loader": loaders, **settings},
            val_data_loader=sampler(1),
            ckpt_dir=tmp_path / folder,
            model_file=tmp_path / folder / "model.pt",
            progress=False,
            train_handlers=[handler] if handler else None,
        )

    return make


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_each_stage_has_its_epochs_and_keeps_what_it_says(trainer):
    handler, weights = Pull(), []
    run = trainer(handler=handler, decay=True)

    def remember(engine):
        rates = [group["lr"] for optimizer in engine.stage.optimizers.values() for group in optimizer.param_groups]
        weights.append({key: value.clone() for key, value in engine.detector.state_dict().items()})
        weights[-1]["rates"], weights[-1]["loss"] = rates, engine.state.metrics.get("val_loss")

    run.add_event_handler(Events.EPOCH_COMPLETED, remember)
    run.run()
    assert handler.epochs == ["coarse"] * 2 + ["fine"] * 3 + ["critic"] * 2
    assert run.detector.asked == [0] * 6 + [1] * 9, "three batches an epoch; none in the stage that keeps the last"
    for epoch, rates in zip(weights, [[0.01]] * 4 + [[0.02 / 3]] + [[0.1, 0.5]] * 2, strict=True):
        assert epoch.pop("rates") == pytest.approx(rates)
    losses = [epoch.pop("loss") for epoch in weights]
    assert losses[5:] == [None, None]
    best = min(range(2, 5), key=lambda epoch: losses[epoch])
    model = load_checkpoint(run.model_file)
    for key, value in model.items():
        assert torch.equal(value, weights[6 if key.startswith("critic") else best][key]), key


# (event, its number): three batches an epoch; epochs 1-2, 3-5 and 6-7 are those of the three stages
KILLED = [
    (Events.ITERATION_COMPLETED, 1),
    (Events.ITERATION_COMPLETED, 5),
    (Events.EPOCH_STARTED, 3),
    (Events.ITERATION_COMPLETED, 7),
    (Events.ITERATION_COMPLETED, 11),
    (Events.EPOCH_COMPLETED, 2),
    (Events.EPOCH_COMPLETED, 5),
    (Events.EPOCH_STARTED, 6),
    (Events.ITERATION_COMPLETED, 17),
    (Events.EPOCH_COMPLETED, 6),
    (Events.EPOCH_COMPLETED, 7),
]


@pytest.mark.parametrize("streams", [("training",), ("training", "mixed")])
def test_a_training_killed_in_any_stage_ends_as_one_that_was_not(trainer, streams):
    whole = trainer("whole", streams=streams)
    whole.run()
    expected = [load_checkpoint(whole.ckpt_dir / file) for file in ("model.pt", "last.pt")]
    for number, (event, at) in enumerate(KILLED):
        folder = f"killed_{number}"
        with pytest.raises(KeyboardInterrupt):
            trainer(folder, Pull(event, at), streams).run()
        torch.manual_seed(12345)  # whatever happened in between
        resumed = trainer(folder, streams=streams, resume=True)
        torch.rand(number)
        resumed.run()
        model, last = (load_checkpoint(resumed.ckpt_dir / file) for file in ("model.pt", "last.pt"))
        assert equal(model, expected[0]), (event, at)
        assert equal(last["detector"], expected[1]["detector"]) and last["stage"] == 2, (event, at)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_training_killed_between_two_stages_ends_as_one_that_was_not(trainer, monkeypatch, stage, place):
    whole = trainer("whole")
    whole.run()
    save = DetectorTrainer._save

    def killed(self):
        if self.stage_number == stage and self.settled_epochs == 0:  # the first save of a stage
            if place == "after":
                save(self)
            raise KeyboardInterrupt
        save(self)

    with monkeypatch.context() as patch:
        patch.setattr(DetectorTrainer, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer().run()
    assert load_checkpoint(whole.ckpt_dir.parent / "run" / "last.pt")["stage"] == stage - (place == "before")
    resumed = trainer(resume=True)
    resumed.run()
    assert equal(load_checkpoint(resumed.model_file), load_checkpoint(whole.model_file))


def test_what_is_drawn_between_stages_depends_on_the_seed(trainer):
    runs = [trainer(f"seed_{seed}", seed=seed) for seed in (0, 1)]
    drawn = []
    for run in runs:
        stages = run._stages()
        next(stages), next(stages)
        drawn.append(run.detector.middle[0].weight.clone())
    assert not torch.equal(*drawn)


def test_a_plateau_ends_one_stage_and_not_the_next(trainer):
    class Flat(ThreeStages):
        def validation_loss(self, batch):
            return torch.tensor(1.0)

    handler = Pull()
    trainer(handler=handler, max_epochs=9, patience=2, network=Flat()).run()
    assert handler.epochs == ["coarse"] * 2 + ["fine"] * 3 + ["critic"] * 2


def test_streams_are_read_in_step_and_redrawn_with_the_epoch():
    streams = StreamSampler({"training": sampler(), "mixed": sampler(5)})
    alone = sampler(5)
    for epoch in (1, 2):
        streams.set_epoch(epoch)
        alone.set_epoch(epoch)
        batches = list(streams)
        assert len(batches) == len(streams) == 3 and all(list(batch) == ["training", "mixed"] for batch in batches)
        assert all(torch.equal(batch["mixed"], other) for batch, other in zip(batches, alone, strict=True))


def test_a_stage_of_no_epochs_and_the_checkpoint_of_an_older_version_are_refused(trainer):
    class Never(ThreeStages):
        def stages(self):
            yield Stage("never", {}, max_epochs=0)

    with pytest.raises(ConfigError, match="max_epochs of the stage never is 0"):
        trainer(network=Never()).run()
    run = trainer(resume=True)
    run.ckpt_dir.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 3}, run.ckpt_dir / "last.pt")
    with pytest.raises(InputError, match="is of an older version"):
        run.run()

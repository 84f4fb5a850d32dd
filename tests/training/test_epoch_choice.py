"""Pseudo-AUC, and a training whose epoch it chooses: both weights are kept, and it can be gone on with exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from medanomaly.data import chosen_epoch
from medanomaly.detectors import Detector, Stage
from medanomaly.errors import ConfigError, InputError, TrainingError
from medanomaly.patches import PatchSampler, PatchSpec
from medanomaly.training import DetectorTrainer, PseudoAUC, debiased_auc, epoch_choice, load_checkpoint, pseudo_auc

RATED = [0.6, 0.8, 0.7]  # the pseudo-AUC of each epoch


def test_a_perfect_scorer_reaches_three_quarters_where_half_of_the_mixture_is_healthy():
    """Acceptance (c), and that the debiased formula gives the AUROC of the abnormal alone back."""
    random = np.random.default_rng(0)
    healthy, also_healthy = random.uniform(0, 1, 4000), random.uniform(0, 1, 4000)
    found = pseudo_auc(healthy, np.concatenate([also_healthy, random.uniform(2, 3, 4000)]))
    assert found == pytest.approx(0.75, abs=0.01)
    assert debiased_auc(found, 0.5) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("n_abnormal", [70, 300, 1200])
def test_pseudo_auc_is_the_share_of_pairs_in_order_and_the_debiased_one_that_of_the_abnormal(n_abnormal):
    """The healthy ones of the mixture score just like the others, so both figures are exact."""
    random = np.random.default_rng(1)
    healthy, abnormal = random.normal(0, 1, 300), random.normal(0.8, 1, n_abnormal)
    mixture = np.concatenate([healthy, abnormal])
    in_order = (np.sign(mixture[:, None] - healthy[None]) + 1) / 2
    assert pseudo_auc(healthy, mixture) == pytest.approx(in_order.mean(), abs=1e-9)
    found = debiased_auc(pseudo_auc(healthy, mixture), 300 / (300 + n_abnormal))
    assert found == pytest.approx((abnormal[:, None] > healthy[None]).mean(), abs=1e-9)


def test_ties_count_half_and_a_share_of_all_says_nothing():
    assert pseudo_auc([1, 1], [1, 1, 1]) == 0.5
    assert debiased_auc(0.9, 0.0) == 0.9
    for share in (1.0, -0.1, 1.5):
        with pytest.raises(ConfigError, match=f"healthy_share is {share}"):
            debiased_auc(0.7, share)


def sampler(level, seed=0, cases=2):
    generator = torch.Generator().manual_seed(seed)
    made = [
        {
            "case": str(n),
            "image": level + torch.rand(1, 24, 24, 2, generator=generator),
            "region": torch.ones(1, 24, 24, 2),
        }
        for n in range(cases)
    ]
    return PatchSampler(made, PatchSpec(8), batch_size=8, patches_per_epoch=24, flip=False, seed=seed)


class Brightness(Detector):
    """Scores brightness, up or down by the sign of a weight; the weight follows a list, one entry a step."""

    def __init__(self, keep="last"):
        super().__init__(patch_size=8)
        self.keep, self.weight = keep, nn.Parameter(torch.zeros(()))
        self.seen, self.fits = nn.Buffer(torch.zeros((), dtype=torch.long)), nn.Buffer(torch.zeros(()))

    def stages(self):
        yield Stage("only", {"all": torch.optim.SGD(self.parameters(), lr=0.1)}, keep=self.keep)

    def training_step(self, batch, stage):
        stage.optimizers["all"].zero_grad()
        noise = torch.rand(())  # of the epoch's own
        torch.autograd.backward((self.weight - noise).square())
        stage.optimizers["all"].step()
        return {"loss": noise}

    def fit_statistics(self, batches):
        self.fits.copy_(self.weight * 2)

    def score(self, patches):
        return self.weight * patches.flatten(1).mean(dim=1, keepdim=True)


class Rated(PseudoAUC):
    """Rates the epochs as a list says."""

    def __init__(self, values):
        super().__init__(sampler(0), sampler(0.1))
        self.values, self.asked = list(values), 0

    def __call__(self, detector, device):
        assert not detector.training
        self.asked += 1
        return self.values.pop(0)


@pytest.fixture
def trainer(tmp_path):
    def make(folder="run", choice=None, handler=None, max_epochs=3, keep="last", **settings):
        torch.manual_seed(3)
        return DetectorTrainer(
            "cpu",
            max_epochs,
            sampler(0),
            Brightness(keep),
            val_data_loader=sampler(0, seed=1),
            ckpt_dir=tmp_path / folder / "checkpoints",
            model_file=tmp_path / folder / "models" / "model.pt",
            choice=choice,
            progress=False,
            train_handlers=[handler] if handler else None,
            **settings,
        )

    return make


class Weights:
    """A handler that keeps the weights of each epoch, and may pull the plug after one."""

    def __init__(self, stop=0):
        self.kept, self.stop = [], stop

    def attach(self, engine):
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)

    def epoch(self, engine):
        self.kept.append(engine.detector.weight.item())
        if len(self.kept) == self.stop:
            raise KeyboardInterrupt


def test_the_best_epoch_is_taken_and_the_last_is_kept_beside_it(trainer):
    weights = Weights()
    run = trainer(choice=Rated(RATED), handler=weights)
    run.run()
    model, last = (load_checkpoint(run.model_file.with_name(name)) for name in ("model.pt", "model_last.pt"))
    assert float(model["weight"]) == pytest.approx(weights.kept[1]) and float(last["weight"]) == weights.kept[2]
    for weights_of in (model, last):  # each is fitted for itself
        assert float(weights_of["fits"]) == pytest.approx(2 * float(weights_of["weight"]))
    assert float(run.detector.weight) == float(model["weight"])
    assert {path.name for path in run.ckpt_dir.iterdir()} == {"best.pt", "last.pt"}
    told = chosen_epoch(run.model_file.parents[1])
    assert told == json.loads(run.model_file.with_name("epoch.json").read_text())
    assert (told["epoch"], told["epochs"], told["pseudo_auc"]) == (2, 3, RATED)
    assert told["words"] == (
        "2 of 3, chosen by pseudo-AUC: held-out healthy cases against the cases under 'mixed', unlabelled, which were "
        "trained on; 0.800"
    )


def test_without_a_choice_nothing_is_rated_and_the_last_epoch_is_the_model(trainer):
    weights = Weights()
    run = trainer(handler=weights)
    run.run()
    assert float(load_checkpoint(run.model_file)["weight"]) == weights.kept[2]
    assert [path.name for path in run.model_file.parent.iterdir()] == ["model.pt"]
    assert chosen_epoch(run.model_file.parents[1]) is None


def test_stages_whose_losses_rank_the_epochs_are_left_to_them(trainer):
    choice = Rated([])
    run = trainer(choice=choice, keep="best")
    run.run()
    assert choice.asked == 0 and [path.name for path in run.model_file.parent.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_training_that_died_ends_as_one_that_did_not(trainer, stop):
    whole = trainer("whole", Rated(RATED))
    whole.run()
    died = trainer("died", Rated(RATED), Weights(stop))
    with pytest.raises(KeyboardInterrupt):
        died.run()
    torch.manual_seed(12345)
    rated = load_checkpoint(died.ckpt_dir / "last.pt")["pseudo_aucs"]
    assert rated == RATED[:stop]
    resumed = trainer("died", Rated(RATED[stop:]), resume=True)
    resumed.run()
    for name in ("model.pt", "model_last.pt"):
        a, b = (load_checkpoint(run.model_file.with_name(name)) for run in (whole, resumed))
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert chosen_epoch(resumed.model_file.parents[1]) == chosen_epoch(whole.model_file.parents[1])


def test_a_training_whose_epochs_were_not_rated_is_not_gone_on_with(trainer):
    trainer(max_epochs=1).run()
    with pytest.raises(InputError, match="has epochs that were not rated"):
        trainer(choice=Rated(RATED), resume=True).run()


def test_ratings_are_those_of_the_same_patches_of_every_case_each_time():
    detector = Brightness().eval()
    healthy, mixed = sampler(0, cases=3), sampler(0.05, seed=1, cases=700)
    choice = PseudoAUC(healthy, mixed, healthy_share=0.5)
    with torch.no_grad():
        detector.weight.fill_(1.0)
        up = choice(detector, "cpu")
        detector.weight.fill_(-1.0)
        down = choice(detector, "cpu")
    assert up > 0.6 and up + down == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        detector.weight.fill_(1.0)
        healthy.set_epoch(5)
        assert choice(detector, "cpu") == up
        detector.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="no longer finite"):
        choice(detector, "cpu")
    told = choice.record([up, down])
    assert told["debiased_auc"][0] == pytest.approx(debiased_auc(up, 0.5), abs=1e-4)
    assert "debiased" in told["words"] and "share of 0.5 healthy" in told["words"]
    seen = PseudoAUC(healthy, mixed, held_out=False).record([0.5, 0.7])
    assert "healthy cases that were trained on" in seen["words"] and "debiased_auc" not in seen


def test_a_bundle_asks_for_it_by_a_word():
    samplers = sampler(0), sampler(0.1)
    assert epoch_choice("last", *samplers) is None
    assert isinstance(epoch_choice("pseudo_auc", *samplers, 0.3), PseudoAUC)
    with pytest.raises(ConfigError, match="choose_epoch is 'best': use one of last, pseudo_auc"):
        epoch_choice("best", *samplers)
    for word in ("last", "pseudo_auc"):
        with pytest.raises(ConfigError, match=r"healthy_share is 1\.2"):
            epoch_choice(word, *samplers, 1.2)

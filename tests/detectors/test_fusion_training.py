"""How the members of a fusion are trained and fitted: the patches, stages and streams that reach each of them."""

from __future__ import annotations

import math

import pytest
import torch

from medanomaly.detectors import detector_class
from medanomaly.errors import TrainingError
from tests.detectors.fusion_members import DENOISING, GANOMALY, SVM, SYNTHETIC, make, noise

pytestmark = pytest.mark.usefixtures("made_members")


def test_a_step_trains_every_member():
    fusion = make(DENOISING, GANOMALY, SVM, SYNTHETIC | {"patch_size": 16}, patch_size=32, in_channels=2)
    stage = next(fusion.stages())
    assert {name.split()[0] for name in stage.optimizers} == {"0", "1", "3"}
    before = [{k: v.clone() for k, v in member.state_dict().items()} for member in fusion.members]
    losses = fusion.train().training_step(noise(8, 2, 32), stage)
    assert {"0 denoising", "3 segmentation"} < set(losses) and {name.split()[0] for name in losses} == {"0", "1", "3"}
    assert all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses.values())
    changed = [
        any(not torch.equal(value, old[key]) for key, value in member.state_dict().items())
        for old, member in zip(before, fusion.members, strict=True)
    ]
    assert changed == [True, True, False, True]


def test_smaller_members_learn_from_tiles_that_do_not_overlap(monkeypatch):
    fusion, seen = make(SYNTHETIC | {"patch_size": 16, "channels": [1]}, patch_size=32, in_channels=2), []
    monkeypatch.setattr(fusion.members[0], "training_step", lambda tiles, own: seen.append((tiles, own)) or {})
    batch, stage = noise(3, 2, 32), next(fusion.stages())
    fusion.training_step(batch, stage)
    ((tiles, own),) = seen
    expected = [batch[n, 1:, i : i + 16, j : j + 16] for n in range(3) for i in (0, 16) for j in (0, 16)]
    assert torch.equal(tiles, torch.stack(expected))
    assert own.optimizers == {"network": stage.optimizers["0 network"]}


@torch.no_grad()
def test_the_validation_loss_is_the_geometric_mean_of_the_trained_members():
    fusion, batch = make(DENOISING, SVM, SYNTHETIC), noise()
    first, second = (float(fusion.members[n].validation_loss(batch)) for n in (0, 2))
    assert float(fusion.validation_loss(batch)) == pytest.approx(math.sqrt(first * second), rel=1e-5)


def test_a_member_that_grows_grows_in_the_fusion():
    progressive = {"detector": "progressive_ganomaly", "features": (4, 4, 4), "latent_dim": 8, "fade_images": 16}
    fusion = make(DENOISING, progressive)
    stages, batch = fusion.stages(), noise(8)
    first = next(stages)
    assert first.name == "denoising and 8 voxels a side" and first.settled()
    grown = next(stages)
    assert fusion.members[1].stage == 1
    before = {name: value.clone() for name, value in fusion.members[0].state_dict().items()}
    for _ in range(2):
        assert not grown.settled()
        assert "0 denoising" not in fusion.train().training_step(batch, grown)
    assert grown.settled() and next(stages, None) is None
    # the member that has had its one stage rests
    assert all(torch.equal(value, before[name]) for name, value in fusion.members[0].state_dict().items())
    other = make(DENOISING, progressive)
    other.load_state_dict(fusion.state_dict())
    assert other.members[1].stage == 1


def test_two_members_grow_at_once():
    progressive = {"detector": "progressive_ganomaly", "features": (4, 4, 4), "latent_dim": 8}
    fusion = make(progressive, progressive)
    assert [[member.stage for member in fusion.members] for _ in fusion.stages()] == [[0, 0], [1, 1]]


def test_joint_stages_are_as_long_as_the_longest_and_keep_the_last_epoch_if_one_does():
    two, seven = {"detector": "two_streams"}, {"detector": "scheduled"}
    assert [(s.keep, s.max_epochs) for s in make(two, seven).stages()] == [("best", None), ("last", 3)]
    assert [(s.keep, s.max_epochs) for s in make(seven, seven).stages()] == [("best", 7)]


def test_each_member_gets_the_streams_that_it_learns_from():
    fusion = make({"detector": "two_streams", "channels": [1]}, GANOMALY, in_channels=2)
    assert fusion.streams == ("training", "mixed") and make(GANOMALY).streams == ("training",)
    batch = {"training": noise(8, 2), "mixed": noise(8, 2, seed=1)}
    for stage in fusion.stages():
        losses = fusion.train().training_step(batch, stage)
        assert ("1 critic" in losses) == (stage.name == "first and GANomaly")
    names, batches = zip(*fusion.members[0].seen, strict=True)
    assert names == ("first", "second")
    assert all(torch.equal(batches[0][stream], batch[stream][:, 1:]) for stream in ("training", "mixed"))


@torch.no_grad()
def test_members_that_are_only_fitted_are_fitted_with_the_fusion():
    fusion, batches = make(SVM, {"detector": "one_class_svm", "patch_size": 8}), [noise(seed=1), noise(seed=2)]
    assert list(fusion.stages()) == []
    with pytest.raises(TrainingError, match="not fitted yet"):
        fusion(batches[0])
    fusion.fit_statistics(iter(batches))  # batches can be read once only
    scores = fusion(batches[0])
    assert scores.shape == (20, 1, 16, 16) and torch.isfinite(scores).all()
    assert float(fusion.validation_loss(batches[0])) == pytest.approx(float(scores.mean()))
    by_itself = detector_class("one_class_svm")(patch_size=8)
    by_itself.fit_statistics([fusion._tiles(batch, [0], 8, 8) for batch in batches])
    assert torch.equal(by_itself.dual_coef, fusion.members[1].dual_coef)


def test_fitting_fits_the_statistics_of_the_members_and_keeps_the_sign():
    fusion = make(DENOISING, GANOMALY | {"variant": "K"})
    assert (fusion.members[1].modified.median == 0).all()
    fusion.fit_statistics([noise(seed=1), noise(seed=2)])
    assert (fusion.members[1].modified.median != 0).any()
    fusion = make(DENOISING, sign="dark")
    fusion.fit_statistics([noise(seed=1)])
    assert fusion.sign == fusion.members[0].sign == "dark"
    assert (fusion.quantiles[:, 0].diff(dim=0).abs().amax(dim=1) > 0).all()  # a table for each sign

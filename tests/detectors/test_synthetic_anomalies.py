"""Made anomalies: where they lie, which class a voxel has, the loss by hand, and the log odds of the score."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from medanomaly.detectors import SyntheticAnomalies
from medanomaly.detectors.synthetic_anomalies import BRIGHT, DARK, LEAST_CHANGE, NORMAL
from medanomaly.errors import ConfigError
from medanomaly.networks.intensities import biased, jittered, rescanned

SHARES = (0.8, 0.5, 0.5)  # of patches that get a first, a second and a third anomaly, if nothing else is asked for


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return SyntheticAnomalies(**{"patch_size": 16, "features": 8, "jitter": 0.0, "gamma": 0.0, **arguments})


def textured(n=5, channels=1, size=16, spatial_dims=2, seed=0):
    """Patches whose first rows lie outside the brain."""
    generator = torch.Generator().manual_seed(seed)
    patches = 0.3 + 0.5 * torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)
    patches[:, :, :4] = 0
    return patches


SETTINGS = pytest.mark.parametrize(("channels", "spatial_dims"), [(1, 2), (3, 2), (1, 3), (2, 3)])


def with_anomalies(channels, spatial_dims, monkeypatch, n=100):
    """A detector's patches and classes, the normal ones, and the blobs that it drew."""
    detector, normal = make(in_channels=channels, spatial_dims=spatial_dims), textured(n, channels, 16, spatial_dims)
    blobs, draw = [], detector._blob
    monkeypatch.setattr(detector, "_blob", lambda *arguments: blobs.append(draw(*arguments)) or blobs[-1])
    torch.manual_seed(1)
    patches, target = detector.with_anomalies(normal)
    assert len(blobs) == len(SHARES)
    return normal, patches, target, torch.stack(blobs).amax(dim=0)


@SETTINGS
def test_patches_change_within_blobs_and_background_stays(channels, spatial_dims, monkeypatch):
    normal, patches, target, blob = with_anomalies(channels, spatial_dims, monkeypatch)
    assert patches.shape == normal.shape and target.shape == (100, *normal.shape[2:]) and target.dtype == torch.int64
    none = (blob == 0).expand_as(normal)
    assert none.any() and torch.equal(patches[none], normal[none])
    assert (target[blob[:, 0] < 0.5] == NORMAL).all()
    assert (patches[:, :, :4] == 0).all() and (target[:, :4] == NORMAL).all()
    assert torch.isfinite(patches).all()


@SETTINGS
def test_the_class_of_a_voxel_is_the_sign_of_its_change_in_the_first_channel(channels, spatial_dims, monkeypatch):
    normal, patches, target, blob = with_anomalies(channels, spatial_dims, monkeypatch)
    change = patches - normal
    first = change[:, 0]
    assert {NORMAL, BRIGHT, DARK} == set(target.unique().tolist())
    assert (first[target == BRIGHT] >= 0).all() and (first[target == DARK] < 0).all()
    assert torch.equal(target != NORMAL, (blob[:, 0] >= 0.5) & (normal != 0).any(dim=1)), "the whole of every blob"


def test_a_blob_that_changes_next_to_nothing_is_normal(monkeypatch):
    detector, normal = make(), textured(20, 1, 16, 2)
    for change, expected in ((0.9 * LEAST_CHANGE, False), (1.1 * LEAST_CHANGE, True)):
        monkeypatch.setattr(
            detector, "_blob", lambda patches, share: torch.full_like(patches, float(share == SHARES[0]))
        )
        monkeypatch.setattr(detector, "_filling", lambda patches, blob, change=change: patches + change)
        assert bool((detector.with_anomalies(normal)[1] != NORMAL).any()) == expected


def test_a_blob_may_be_missing_in_every_channel_but_the_first():
    detector = make(in_channels=3, patch_size=64, radius=(4.0, 10.0), shares=(1.0,))
    normal = textured(1000, 3, 64)
    torch.manual_seed(1)
    patches, target = detector.with_anomalies(normal)
    with_blob = (target != NORMAL).flatten(1).any(dim=1)
    missing = [float((patches == normal)[with_blob, c].flatten(1).all(1).float().mean()) for c in range(3)]
    assert missing == pytest.approx([0, 0.25, 0.25], abs=0.05)


def test_blobs_are_in_as_many_patches_as_the_shares_say():
    torch.manual_seed(0)
    detector = make(patch_size=64, radius=(4.0, 10.0))
    blobs = [detector._blob(torch.ones(1000, 1, 64, 64), share) for share in SHARES]
    shares = [(blob.flatten(1).amax(dim=1) > 0).float().mean() for blob in blobs]
    assert [float(share) for share in shares] == pytest.approx(SHARES, abs=0.05)
    _, target = detector.with_anomalies(0.5 + 0.1 * torch.rand(1000, 1, 64, 64))
    assert float((target != NORMAL).flatten(1).any(dim=1).float().mean()) == pytest.approx(0.95, abs=0.05)


def test_a_blob_is_about_as_large_as_its_radius_says():
    torch.manual_seed(0)
    for radius in (4.0, 12.0):
        blob = make(patch_size=64, radius=(radius, radius))._blob(torch.ones(400, 1, 64, 64), 1.0)
        inside = (blob >= 0.5).flatten(1).sum(dim=1).double()
        middle = inside[(blob[:, :, :2] < 0.5).flatten(1).all(1)].median()  # not those that are cut off
        assert 0.4 < float((middle / torch.pi).sqrt()) / radius < 1.6
        assert float(blob.min()) >= 0 and float(blob.max()) <= 1


@torch.no_grad()
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_several_blobs_of_one_filling_are_apart_and_all_but_the_first_are_small(spatial_dims):
    torch.manual_seed(0)
    size = {2: 64, 3: 32}[spatial_dims]
    settings = {"patch_size": size, "spatial_dims": spatial_dims, "radius": (2.0, 8.0)}
    patches = torch.ones(60, 1, *[size] * spatial_dims)
    covered, parts = [], []
    for several in (1, 6):
        blobs = make(**settings, several=several)._blob(patches, 1.0)[:, 0] >= 0.5
        covered.append(float(blobs.float().mean()))
        parts.append(sum(ndimage.label(one.numpy())[1] for one in blobs) / len(blobs))
    assert parts[0] + 0.7 < parts[1], "one to six, some of them in one another or lumps"
    assert covered[0] < covered[1] < 3 * covered[0], "up to the geometric mean of the radii, 4 voxels"


def test_a_thick_sliced_scan_is_thick_sliced_in_its_anomalies_too(monkeypatch):
    detector = make(patch_size=32, thickness=4, noise=0.1)
    normal, seen = textured(8, 1, 32), []
    monkeypatch.setattr(detector, "_logits", lambda patches: seen.append(patches) or torch.zeros(8, 3, 32, 32))
    torch.manual_seed(1)
    detector._loss(normal)
    torch.manual_seed(1)
    patches, _ = detector.with_anomalies(normal)
    assert torch.equal(seen[0], rescanned(patches, 4, 0.1))


def test_a_training_patch_has_a_field_of_a_coil_where_one_is_asked_for(monkeypatch):
    normal, seen = textured(8, 1, 32), []
    detector = make(patch_size=32, bias=0.2)
    monkeypatch.setattr(detector, "_loss", lambda patches: seen.append(patches) or detector.network(patches).mean())
    torch.manual_seed(1)
    detector.training_step(normal, next(detector.stages()))
    torch.manual_seed(1)
    assert torch.equal(seen[0], biased(jittered(normal, 0.0, 0.0), 0.2))


def test_scores_are_log_odds_by_sign():
    patches = textured(6, 2)
    by_sign = {sign: make(in_channels=2, sign=sign).eval()(patches).double() for sign in ("both", "bright", "dark")}
    p = make(in_channels=2).eval().network(patches).double().softmax(dim=1).split(1, dim=1)
    expected = {
        "both": torch.log(p[BRIGHT] + p[DARK]) - torch.log(p[NORMAL]),
        "bright": torch.logit(p[BRIGHT]),
        "dark": torch.logit(p[DARK]),
    }
    for sign, scores in by_sign.items():
        assert scores.shape == (6, 1, 16, 16)
        torch.testing.assert_close(scores, expected[sign], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_made_anomalies():
    detector, batch = make(in_channels=2).eval(), textured(channels=2)
    found = detector.validation_loss(batch)
    torch.manual_seed(0)
    patches, target = detector.with_anomalies(batch)
    log_p = detector.network(patches).double().log_softmax(dim=1)
    by_hand = -log_p.gather(1, target[:, None]).mean()
    assert float(found) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(found) == pytest.approx(float(F.cross_entropy(detector.network(patches), target)), rel=1e-6)


def test_validation_draws_the_same_anomalies_and_leaves_the_random_numbers_alone():
    detector, batch = make().eval(), textured()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = detector.validation_loss(batch)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    assert detector.validation_loss(batch) == first


def test_a_step_lowers_the_loss_of_its_batch():
    detector, batch = make(jitter=0.1), textured(32)
    stage = next(detector.stages())
    before = float(detector.eval().validation_loss(batch))
    losses = [detector.train().training_step(batch, stage)["segmentation"] for _ in range(10)]
    assert not any(loss.requires_grad for loss in losses)
    assert float(detector.eval().validation_loss(batch)) < before


@torch.no_grad()
def test_scores_in_bfloat16_are_single_precision_and_close():
    detector, patches = make().eval(), textured()
    with torch.autocast("cpu", torch.bfloat16):
        fast = detector(patches)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, detector(patches), rtol=0.05, atol=0.05)


def test_training_in_bfloat16_shows_the_same_patches(monkeypatch):
    seen = []
    for amp in (False, True):
        detector = make(patch_size=64)
        draw = detector.with_anomalies
        monkeypatch.setattr(detector, "with_anomalies", lambda normal, draw=draw: seen.append(draw(normal)) or seen[-1])
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            detector.training_step(textured(size=64), next(detector.stages()))
    (patches, target), (others, classes) = seen
    assert torch.equal(patches, others) and torch.equal(target, classes)


@pytest.mark.parametrize(("size", "spatial_dims"), [(16, 2), (48, 2), (64, 2), (16, 3)])
@torch.no_grad()
def test_shapes_and_export(size, spatial_dims):
    detector = make(in_channels=2, patch_size=size, spatial_dims=spatial_dims, sign="dark").eval()
    patches = textured(2, 2, size, spatial_dims)
    assert detector(patches).shape == (2, 1) + (size,) * spatial_dims
    assert torch.equal(torch.jit.script(detector)(patches), detector(patches))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 24}, "patch_size is 24, but a U-Net with four halvings needs a multiple of 16"),
        ({"features": 4}, "features is 4, but group norm with 8 groups needs a multiple of 8"),
        ({"sign": "up"}, "sign is 'up': use one of both, bright, dark"),
        ({"radius": (0, 5)}, r"radius is \(0, 5\): give the least, above 0, and the most"),
        ({"contrast": [1.0, 0.5]}, r"contrast is \(1.0, 0.5\): give the least"),
        ({"shares": []}, r"shares is \[\]: give at least one, each from 0 to 1"),
        ({"shares": [0.5, 1.5]}, r"shares is \[0.5, 1.5\]"),
        ({"several": 0}, "several=0, thickness=1, noise=0.0, bias=0.0: an anomaly has at least 1"),
        ({"thickness": 0}, "thickness=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"bias": -0.1}, "bias=-0.1"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"in_channels": 2, "context_channels": 2}, "context_channels is 2 of 2 channel"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticAnomalies(**arguments)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_maps_are_seen_as_they_are_and_images_with_anomalies(spatial_dims, monkeypatch):
    settings = {"jitter": 0.2, "bias": 0.1, "noise": 0.1, "spatial_dims": spatial_dims}
    detector = make(in_channels=4, context_channels=2, **settings)
    batch, seen, logits = textured(6, 4, 16, spatial_dims), [], detector._logits
    monkeypatch.setattr(detector, "_logits", lambda patches: seen.append(patches) or logits(patches))
    (stage,) = detector.stages()
    detector.training_step(batch, stage)
    detector.validation_loss(batch)
    for patches in seen:
        assert torch.equal(patches[:, 2:], batch[:, 2:])
        assert all(not torch.equal(patches[:, n], batch[:, n]) for n in (0, 1))
    assert len(seen) == 2


def test_anomalies_are_blurred_as_a_scan_of_larger_voxels_is():
    detector, change = make(voxels_of_scan=2), torch.zeros(1, 1, 16, 16)
    assert torch.equal(make()._as_scanned(change + 1), change + 1)
    change[..., 6:8, 8:10] = 1.0  # one voxel of the scan
    blurred = detector._as_scanned(change)
    assert float(blurred.sum()) == pytest.approx(4.0)
    # linear interpolation between the centres of voxels of two: 3/4 of the voxel itself, 1/4 of its neighbour, each way
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(blurred[0, 0, 5:9, 7:11], line[:, None] * line)


def test_the_network_can_see_the_differences_of_voxels_to_their_neighbours():
    detector, seen = make(fineness=0.05), []
    detector.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    patches = textured(4, 1, 16, 2)
    detector(patches)
    assert torch.equal(seen[0][:, :1], patches)
    for channel, reach in ((1, 1), (2, 4)):
        around = patches[:, 0, 8 - reach : 9 + reach, 5 - reach : 6 + reach].mean(dim=(1, 2))
        torch.testing.assert_close(seen[0][:, channel, 8, 5], torch.tanh((patches[:, 0, 8, 5] - around) / 0.05))

"""Frozen features: which maps, of what size; weights of others and of earlier runs, and what does not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from monai.networks.nets import ResNet, resnet18
from torch.nn import functional as F

from medanomaly.detectors import DenoisingAutoencoder, SyntheticAnomalies
from medanomaly.errors import ConfigError, InputError
from medanomaly.networks import foreign_weights
from medanomaly.networks.frozen_features import IMAGENET, FrozenFeatures, ScoreMap
from medanomaly.networks.resnets import resnet

TORCHVISION = {"spatial_dims": 2, "n_input_channels": 3, "conv1_t_stride": 2, "bias_downsample": False}


def patches(channels=1, size=32, dims=2, n=4, seed=0):
    return torch.rand((n, channels) + (size,) * dims, generator=torch.Generator().manual_seed(seed))


def of_torchvision(network):
    """A state dictionary as torchvision's files hold it: the same names, a classifier, no count of batches."""
    state = {name: value for name, value in network.state_dict().items() if "num_batches_tracked" not in name}
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def random_statistics(network, seed=0):
    """Running means and variances that matter."""
    torch.manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("backbone", "layers", "channels", "side"),
    [
        ("resnet10", (1,), 64, 8),
        ("resnet18", (2, 3), 384, 4),
        ("resnet50", (1, 2), 768, 8),
        ("wide_resnet50_2", (3,), 1024, 2),
        ("unet", (1, 2, 3), 7 * 8, 16),
        ("unet", (4,), 64, 2),
    ],
)
def test_maps_have_the_channels_and_the_size_that_are_said(backbone, layers, channels, side, dims):
    if dims == 3 and "50" in backbone:
        pytest.skip("slow, and nothing new")
    features = FrozenFeatures(1, 32, dims, backbone, layers, features=8)
    assert (features.channels, features.side) == (channels, side)
    found = features(patches(dims=dims, n=2))
    assert found.shape == (2, channels) + (side,) * dims and torch.isfinite(found).all()


def test_sides_that_do_not_halve_are_rounded_up():
    features = FrozenFeatures(1, 50, 2, "resnet10", (1, 2))
    assert features(patches(size=50)).shape[2:] == (features.side,) * 2 == (13, 13)


def test_the_maps_are_those_of_the_network_joined_at_the_size_of_the_first(tmp_path):
    network = random_statistics(resnet18(**TORCHVISION))
    torch.save(of_torchvision(network), tmp_path / "resnet18.pth")
    features = FrozenFeatures(1, 32, 2, "resnet18", (1, 3))
    features.take(str(tmp_path / "resnet18.pth"))
    x = patches()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    with torch.no_grad():
        stem = network.maxpool(network.act(network.bn1(network.conv1((x.expand(-1, 3, -1, -1) - mean) / std))))
        first = network.layer1(stem)
        third = network.layer3(network.layer2(first))
    expected = torch.cat([first, F.interpolate(third, size=(8, 8), mode="bilinear")], dim=1)
    torch.testing.assert_close(features(x), expected)


def test_a_feature_may_be_the_mean_of_its_neighbours():
    torch.manual_seed(0)
    plain = FrozenFeatures(1, 32, 2, "unet", (2,), features=8)
    pooled = FrozenFeatures(1, 32, 2, "unet", (2,), features=8, pool=3)
    pooled.load_state_dict(plain.state_dict())
    found, of = pooled(patches()), plain(patches())
    torch.testing.assert_close(found[:, :, 2, 2], of[:, :, 1:4, 1:4].mean(dim=(2, 3)))
    torch.testing.assert_close(found[:, :, 0, 0], of[:, :, :2, :2].mean(dim=(2, 3)))  # of those there are


def test_channels_are_seen_one_by_one_by_a_resnet():
    features = FrozenFeatures(3, 32, 2, "resnet10", (1,))
    alone = FrozenFeatures(1, 32, 2, "resnet10", (1,))
    alone.load_state_dict(features.state_dict())
    x = patches(3)
    expected = torch.cat([alone(x[:, channel : channel + 1]) for channel in range(3)], dim=1)
    torch.testing.assert_close(features(x), expected)


def test_it_stays_as_it_is():
    features = FrozenFeatures(1, 32, 2, "resnet10", (1,))
    torch.nn.Sequential(features).train()
    assert not features.training and not features.backbone.bn1.training
    before = {name: value.clone() for name, value in features.state_dict().items()}
    assert not features(patches()).requires_grad
    assert all(torch.equal(before[name], value) for name, value in features.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_weights_are_found_in_checkpoints_of_several_forms(prefix, wrapped, tmp_path):
    state = {f"{prefix}{name}": value for name, value in of_torchvision(resnet18(**TORCHVISION)).items()}
    torch.save(state if wrapped is None else {wrapped: state, "epoch": 3}, tmp_path / "weights.pth")
    features = FrozenFeatures(1, 32, 2, "resnet18", (1, 2))
    assert features.untrained and features.cautions()
    features.take(str(tmp_path / "weights.pth"))
    assert not features.untrained and not features.cautions()
    for name, value in features.backbone.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, state[prefix + name]), name


def test_the_bottlenecks_have_the_shapes_of_torchvisions():
    """Of its wide_resnet50_2, and the 68,883,240 and 25,557,032 parameters that its documentation says."""
    with torch.device("meta"):
        wide, narrow = resnet("wide_resnet50_2", 2, 4), resnet("resnet50", 2, 4)
    shapes = {name: tuple(value.shape) for name, value in wide.state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.conv1.weight"] == (128, 64, 1, 1)
    assert shapes["layer1.0.conv3.weight"] == (256, 128, 1, 1)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer2.3.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer4.2.bn3.weight"] == (2048,)
    assert "layer1.0.downsample.0.bias" not in shapes
    classifier = 2048 * 1000 + 1000
    assert sum(p.numel() for p in wide.parameters()) == 68_883_240 - classifier
    assert sum(p.numel() for p in narrow.parameters()) == 25_557_032 - classifier


@pytest.mark.parametrize("depth", [10, 18])
def test_weights_of_medicalnet_fit(depth, tmp_path):
    shortcut = {10: "B", 18: "A"}[depth]
    name = f"resnet{depth}"
    form = {"spatial_dims": 3, "n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False}
    blocks = [depth // 8] * 2 + [1, 1]  # the first two layers are taken
    made = ResNet("basic", blocks, [64, 128, 1, 1], **form, shortcut_type=shortcut, feed_forward=False)
    network = random_statistics(made)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "resnet_23dataset.pth")
    features = FrozenFeatures(1, 32, 3, name, (1, 2))
    features.take(str(tmp_path / "resnet_23dataset.pth"))
    x = (patches(dims=3, n=2) - 0.5) / 0.304
    with torch.no_grad():
        first = network.layer1(network.maxpool(network.act(network.bn1(network.conv1(x)))))
        second = F.interpolate(network.layer2(first), scale_factor=2, mode="trilinear")
    torch.testing.assert_close(features(patches(dims=3, n=2)), torch.cat([first, second], dim=1))


@pytest.mark.parametrize(("dims", "channels", "seen"), [(2, 1, 3), (3, 3, 1)])
def test_a_first_convolution_of_other_channels_gives_the_same_for_grey(dims, channels, seen):
    features = FrozenFeatures(1, 16, dims, "resnet10", (1,))
    state = features.backbone.state_dict()
    weights = torch.randn(64, channels, *[7] * dims)
    fitted = foreign_weights.fitted_weights({**state, "conv1.weight": weights}, features.backbone, "it")
    convolve, grey = (F.conv2d, F.conv3d)[dims - 2], patches(size=16, dims=dims)
    expected = convolve(grey.expand(-1, channels, *grey.shape[2:]), weights)
    assert fitted["conv1.weight"].shape[1] == seen
    found = convolve(grey.expand(-1, seen, *grey.shape[2:]), fitted["conv1.weight"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "channels", "dims"),
    [(DenoisingAutoencoder, 1, 2), (SyntheticAnomalies, 2, 2), (DenoisingAutoencoder, 1, 3)],
)
@pytest.mark.parametrize("given", ["the folder", "the file"])
def test_the_encoder_of_a_model_that_was_trained_here(kind, channels, dims, given, tmp_path):
    trained = kind(channels, 32, dims, features=8).eval()
    (tmp_path / "run" / "models").mkdir(parents=True)
    torch.save(trained.state_dict(), tmp_path / "run" / "models" / "model.pt")
    features = FrozenFeatures(channels, 32, dims, "unet", (1, 3), features=8)
    features.take(str(tmp_path / "run" if given == "the folder" else tmp_path / "run" / "models" / "model.pt"))
    x, network = patches(channels, dims=dims), trained.network
    with torch.no_grad():
        first = network.down_1(network.conv_0(x))
        third = network.down_3(network.down_2(first))
    size = first.shape[2:]
    third = F.interpolate(third, size=size, mode="bilinear" if dims == 2 else "trilinear")
    torch.testing.assert_close(features(x), torch.cat([first, third], dim=1))


def test_no_weights_at_all_are_refused_and_random_ones_are_named():
    features = FrozenFeatures(1, 32, 2, "resnet10", (1,))
    with pytest.raises(ConfigError, match="the backbone resnet10 has no weights: set backbone_weights to a file"):
        features.take(None)
    before = features.backbone.conv1.weight.clone()
    with pytest.warns(UserWarning, match="resnet10 has random weights"):
        features.take("random")
    assert torch.equal(features.backbone.conv1.weight, before) and features.untrained
    assert "random weights" in features.cautions()[0]


def broken(state):
    return {name: value for name, value in state.items() if name not in ("conv1.weight", "layer1.0.bn1.bias")}


@pytest.mark.parametrize(
    ("backbone", "change", "said"),
    [
        ("resnet18", broken, r"it lacks conv1.weight, layer1.0.bn1.bias\."),
        ("resnet10", dict, "it has, besides, layer1.1.conv1.weight"),
        ("resnet50", dict, r"layer1.0.conv1.weight \(64, 64, 3, 3\) in place of \(64, 64, 1, 1\)"),
        ("unet", dict, "it lacks conv_0.conv_0.conv.weight, conv_0.conv_0.conv.bias"),
        ("resnet18", lambda state: {"a": torch.zeros(2)}, r"it lacks conv1.weight, bn1.weight, bn1.bias and \d+ more"),
        ("resnet18", lambda state: [1, 2], "it lacks conv1.weight"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_names(backbone, change, said, tmp_path):
    torch.save(change(of_torchvision(resnet18(**TORCHVISION))), tmp_path / "weights.pth")
    features = FrozenFeatures(1, 32, 2, backbone, (1, 2))
    with pytest.raises(InputError, match=said) as caught:
        features.take(str(tmp_path / "weights.pth"))
    assert f"weights.pth does not fit the backbone {backbone} in 2-D" in str(caught.value)
    assert features.untrained


def test_a_run_of_another_width_or_for_another_backbone_is_told_apart(tmp_path):
    torch.save(DenoisingAutoencoder(patch_size=32, features=16).state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"conv_0.conv_0.conv.weight \(16, 1, 3, 3\) in place of \(8, 1, 3, 3\)"):
        FrozenFeatures(1, 32, 2, "unet", (1,), features=8).take(str(tmp_path / "model.pt"))
    with pytest.raises(InputError, match="it holds a U-Net, so set backbone to unet"):
        FrozenFeatures(1, 32, 2, "resnet18", (1,)).take(str(tmp_path / "model.pt"))


def test_what_is_not_there_or_holds_no_weights_is_refused(tmp_path):
    features = FrozenFeatures(1, 32, 2, "resnet10", (1,))
    for place, meant in (("nowhere.pth", "nowhere.pth"), ("", "models/model.pt")):
        with pytest.raises(InputError, match=f"there are no weights at .*{meant}"):
            features.check(str(tmp_path / place))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth holds no weights that can be read"):
        features.take(str(tmp_path / "text.pth"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the servers, and a cache of its own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "server"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("name", "dims", "backbone"), [("imagenet", 2, "resnet18"), ("medicalnet", 3, "resnet10")])
def test_weights_with_a_name_are_downloaded_once(name, dims, backbone, server, monkeypatch):
    published = FrozenFeatures(1, 16, dims, backbone, (1,)).backbone.state_dict()
    torch.save({f"module.{key}": value for key, value in published.items()}, server / "weights.pth")
    digest = hashlib.sha256((server / "weights.pth").read_bytes()).hexdigest()[:8]
    file = (server / "weights.pth").rename(server / f"{backbone}-{digest}.pth")
    monkeypatch.setattr(foreign_weights, "IMAGENET", f"file://{server}/")
    monkeypatch.setitem(foreign_weights.URLS[name], backbone, f"file://{file}")
    for _ in range(2):  # then from the cache
        features = FrozenFeatures(1, 16, dims, backbone, (1,))
        features.take(name)
        assert torch.equal(features.backbone.conv1.weight, published["conv1.weight"]) and not features.untrained
        file.unlink(missing_ok=True)


def test_a_download_that_is_not_what_was_published_is_refused(server, monkeypatch):
    torch.save({"a": torch.zeros(1)}, server / "resnet18-00000000.pth")
    monkeypatch.setattr(foreign_weights, "IMAGENET", f"file://{server}/")
    monkeypatch.setitem(foreign_weights.URLS["imagenet"], "resnet18", f"file://{server}/resnet18-00000000.pth")
    with pytest.raises(InputError, match=r"resnet18-00000000\.pth cannot be downloaded \(invalid hash value"):
        FrozenFeatures(1, 16, 2, "resnet18", (1,)).take("imagenet")


def test_without_a_network_the_message_says_what_to_do(server, monkeypatch):
    monkeypatch.setitem(foreign_weights.URLS["medicalnet"], "resnet10", f"file://{server}/none.pth")
    with pytest.raises(InputError, match=r"none\.pth cannot be downloaded .* on a machine with a network"):
        FrozenFeatures(1, 16, 3, "resnet10", (1,)).take("medicalnet")


@pytest.mark.parametrize(
    ("name", "backbone", "dims"), [("imagenet", "resnet10", 2), ("imagenet", "resnet18", 3), ("medicalnet", "unet", 3)]
)
def test_weights_that_a_backbone_does_not_have_are_refused(name, backbone, dims):
    with pytest.raises(ConfigError, match=rf"backbone_weights is '{name}', .* the backbone is {backbone} in {dims}-D"):
        FrozenFeatures(1, 16, dims, backbone, (1,)).check(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "vgg"}, "backbone is 'vgg': use one of resnet10, "),
        ({"layers": ()}, r"layers is \[\]"),
        ({"layers": (2, 1)}, r"layers is \[2, 1\]"),
        ({"layers": (0, 1)}, r"layers is \[0, 1\]"),
        ({"backbone": "unet", "features": 3}, "features is 3"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        FrozenFeatures(1, 32, 2, **arguments)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_is_enlarged_linearly_and_smoothed(dims):
    from scipy.ndimage import gaussian_filter

    grid = torch.rand((2, 1) + (4,) * dims, generator=torch.Generator().manual_seed(0))
    plain = ScoreMap(4, 16, 0.0)(grid)
    mode = "bilinear" if dims == 2 else "trilinear"
    torch.testing.assert_close(plain, F.interpolate(grid, scale_factor=4, mode=mode))
    smooth = ScoreMap(4, 16, 1.5)(grid)
    for found, of in zip(smooth, plain, strict=True):
        expected = gaussian_filter(of[0].double().numpy(), 1.5, mode="nearest", truncate=4)
        torch.testing.assert_close(found[0], torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)
    assert torch.allclose(ScoreMap(4, 16, 4.0)(torch.ones_like(grid)), torch.ones(2, 1, *[16] * dims))


def test_a_negative_smoothing_is_refused():
    with pytest.raises(ConfigError, match="smoothing is -1"):
        ScoreMap(4, 16, -1)

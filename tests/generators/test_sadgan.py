"""SADGAN: what its edges and correlation are, that it learns, and what survives a translation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medanomaly.data.translation_phantoms import CLASSES, SIGNALS, edges_of, make_head
from medanomaly.errors import ConfigError
from medanomaly.generators.sadgan import SADGAN, correlation, sobel
from studies.translation import judge, measured, trained


@pytest.mark.parametrize("shape", [(9, 12), (7, 8, 6)])
def test_the_edge_map_is_that_of_scipy(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    parts = [ndimage.sobel(x, axis, mode="nearest") / (2 * 4 ** (x.ndim - 1)) for axis in range(x.ndim)]
    expected = np.sqrt(sum(part**2 for part in parts))
    assert np.allclose(sobel(torch.from_numpy(x)[None, None])[0, 0], expected, atol=2e-3)


def test_correlation_is_pearsons() -> None:
    a, b = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(a.numpy(), b.numpy(), strict=True)]
    assert np.allclose(correlation(a, b), expected, atol=1e-5)
    assert correlation(torch.ones(1, 1, 4, 4), a[:1, :, :4, :4]).abs().max() < 1e-4


def test_a_made_head_has_the_signals_of_its_kind_and_edges_where_classes_meet() -> None:
    for kind, signals in SIGNALS.items():
        image, labels = make_head(kind, np.random.default_rng([1, 2]))
        assert set(np.unique(labels)) == set(range(len(CLASSES)))
        for number, signal in enumerate(signals[1:], start=1):
            assert image[labels == number].mean() == pytest.approx(signal, abs=0.02)
    again = make_head("mr", np.random.default_rng([1, 2]))
    assert np.array_equal(image, again[0]) and np.array_equal(labels, again[1])
    flat = np.zeros((6, 6, 2), np.uint8)
    flat[3:] = 1
    assert np.array_equal(np.flatnonzero(edges_of(flat).any(axis=(1, 2))), [2, 3])


@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_step_changes_every_network_and_each_by_its_own_optimiser(
    edges: bool, spatial_dims: int, classes: int
) -> None:
    torch.manual_seed(0)
    model = SADGAN(16, spatial_dims, classes, 8, edges)
    (stage,) = model.stages()
    owned = [id(p) for o in stage.optimizers.values() for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    before = {name: value.clone() for name, value in model.named_parameters()}
    shape = (2, 1, *[16] * spatial_dims)
    source, labels = torch.rand(shape), torch.randint(0, max(classes, 1), shape).float()
    batch = {"training": torch.cat([source, labels], dim=1) if classes else source, "target": torch.rand(shape)}
    losses = model.training_step(batch, stage)
    changed = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name.split(".")[0] for name in before}
    assert ("edge" in losses) == edges and ("segmenter" in losses) == (classes > 0)
    assert model(source).shape == (2, 1 + classes, *shape[2:])
    assert stage.keep == ("best" if classes else "last")


def test_classes_of_nothing_but_background_are_refused() -> None:
    with pytest.raises(ConfigError, match="classes is 1"):
        SADGAN(16, classes=1)
    with pytest.raises(ConfigError, match="no segmenter"):
        SADGAN(16).segment(torch.zeros(1, 1, 16, 16))


def test_a_short_training_moves_the_translation_towards_the_target() -> None:
    figures = [measured(trained(0, steps=steps), 0, judge(0, steps=60)) for steps in (0, 40)]
    assert figures[1]["Dice of S on translated CT"] > figures[0]["Dice of S on translated CT"] + 0.2
    assert figures[1]["Dice by nearest intensity"] > figures[0]["Dice by nearest intensity"] + 0.05


@pytest.mark.slow  # two trainings of three minutes
def test_labels_survive_translation_and_edges_are_worth_their_branch() -> None:
    with_edges, without = (measured(trained(0, edges), 0, judge(0)) for edges in (True, False))
    assert with_edges["Dice of S on translated CT"] >= 0.9
    assert with_edges["Dice of S on MR"] >= 0.8
    assert without["edge F1"] < with_edges["edge F1"] - 0.01

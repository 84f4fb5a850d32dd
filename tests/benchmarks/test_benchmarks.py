"""The benchmarks' own arithmetic and the agreement of the ways they time; nothing here asserts a time."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine, plots, scaling, tables, timing
from benchmarks.networks import copy_weights, made_detector, operations_per_patch, plain_ganomaly
from benchmarks.ways import (
    ellipse_mask,
    grid_of,
    largest_difference,
    made_volume,
    naive_loop,
    patch_inferer,
    sliding_windows,
)
from medanomaly.patches import PatchScoreInferer, PatchSpec

CPU = torch.device("cpu")


@pytest.mark.parametrize(("patch_size", "millions"), [(16, 14.2), (32, 104.7)])
def test_operations_are_those_known_and_do_not_depend_on_how_a_layer_is_computed(patch_size, millions):
    ours, plain = made_detector(patch_size), plain_ganomaly(patch_size)
    assert operations_per_patch(ours) == pytest.approx(millions * 1e6, rel=0.01)
    assert operations_per_patch(plain.eval()) == operations_per_patch(ours)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_operations_are_those_that_torch_counts_on_plain_layers(spatial_dims):
    plain = plain_ganomaly(16, spatial_dims).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(torch.zeros(4, 1, *(16,) * spatial_dims))  # fewer are scored as four
    assert operations_per_patch(plain) == counter.get_total_flops() / 4


@pytest.mark.parametrize(("patch_size", "spatial_dims"), [(16, 2), (32, 2), (16, 3)])
def test_the_plain_layers_compute_the_same_scores(patch_size, spatial_dims):
    ours, plain = made_detector(patch_size, spatial_dims), plain_ganomaly(patch_size, spatial_dims).eval()
    copy_weights(ours, plain)
    patches = torch.rand(3, 1, *(patch_size,) * spatial_dims)
    with torch.inference_mode():
        scores = ours(patches)
        assert torch.allclose(plain(patches), scores, rtol=0, atol=1e-5)
        assert torch.allclose(plain.critic(patches), ours.critic(patches), rtol=0, atol=1e-5)
    assert (scores > 0.1).all()  # else agreement would say nothing


@pytest.mark.parametrize(
    ("patch_size", "spatial_dims", "stride", "shape"), [(16, 2, 8, (32, 24, 2)), (16, 3, 8, (24,) * 3)]
)
def test_all_ways_give_the_same_heatmap(patch_size, spatial_dims, stride, shape):
    network, volume = made_detector(patch_size, spatial_dims), made_volume(shape)
    mask, everywhere = torch.zeros(1, 1, *shape), torch.ones(1, 1, *shape)
    mask[0, 0, 3, 4, 1] = 1
    size, spec = (patch_size, stride, spatial_dims), PatchSpec(patch_size, spatial_dims, stride=stride)
    expected = naive_loop(volume, network, *size)
    for heatmap in (
        sliding_windows(volume, network, *size, window_batch=3),
        patch_inferer(volume, network, *size, batch_size=4),
        PatchScoreInferer(spec)(volume, network, mask=everywhere),
    ):
        assert largest_difference(expected, heatmap) <= 1e-5
    in_brain = naive_loop(volume, network, *size, mask=mask)
    assert in_brain.isnan().any() and not in_brain.isnan().all()
    assert largest_difference(in_brain, patch_inferer(volume, network, *size, 4, mask)) <= 1e-5
    assert largest_difference(in_brain, PatchScoreInferer(spec)(volume, network, mask=mask)) <= 1e-5
    assert largest_difference(in_brain, expected) == float("inf")


@pytest.mark.parametrize(("shape", "axes"), [((64, 64, 64), 3), ((128, 128, 2), 2)])
def test_the_brain_fills_the_share_that_is_asked_for(shape, axes):
    assert float(ellipse_mask(shape, 0.3, axes).mean()) == pytest.approx(0.3, abs=0.01)


def test_patches_are_counted():
    mask = torch.zeros(1, 1, 32, 32, 3)
    assert grid_of(mask, 16, 4, 2) == (5 * 5 * 3, 0)
    mask[..., 0, 0, 1] = 1
    assert grid_of(mask, 16, 4, 2) == (5 * 5 * 3, 1)
    assert grid_of(mask[..., :1].expand(1, 1, 32, 32, 32) + 1, 16, 8, 3) == (27, 27)


def test_ways_take_turns_and_medians_keep_their_order():
    calls = []
    seconds = timing.interleaved({name: lambda name=name: calls.append(name) for name in "cab"}, rounds=3)
    assert "".join(calls) == "cab" * 4  # once to warm up
    assert [len(values) for values in seconds.values()] == [3, 3, 3]
    assert timing.medians({"c": [3.0, 1.0, 9.0], "a": [2.0, 2.0, 1.0]}) == {"c": 3.0, "a": 2.0}
    assert list(timing.medians(seconds)) == list("cab")
    assert timing.spread([1.0, 2.0, 3.0]) == 1.0


def test_the_floor_takes_the_fastest_product():
    peaks = machine.Peaks({"torch.mm, fp32": 2.0e11, "1x1 convolution, fp32": 4.0e11, "torch.mm, bf16": 9.0e11})
    assert peaks.rate("fp32") == 4.0e11
    probe = machine.repeated(machine.Probe("one", lambda: None, 10.0), CPU, seconds=1e-4)
    assert probe.operations >= 10.0 and probe.operations % 10 == 0


def test_memory_of_this_process_is_read():
    setting = scaling.Setting(16, 32)
    found = scaling.measure(setting, CPU)
    assert found["patches"] == grid_of(ellipse_mask((32,) * 3), 16, 4, 2)[1]
    assert found["growth"] is None or found["growth"] < 200 * scaling.MEGABYTE


def test_tables_and_plot_render(tmp_path):
    section = tables.Section(
        tables=[tables.Table("A title", ("way", "s"), [("ours", "1.5")], "A note.")],
        gates=[
            tables.at_least("faster", 3.0, 2.5),
            tables.at_most("share", 0.02, 0.001, "%"),
            tables.skipped("scan", "< 1", "no data"),
        ],
        points=[tables.Point("16 px, 2-D", "PatchScoreInferer", patches, patches / 1e4) for patches in (100, 1000)],
        floors={"16 px, 2-D": {"fp32": 5e-5, "bf16": 3e-5}},
    )
    text = tables.markdown({"commit": "abc"}, [section], "make bench", "plot.png")
    assert "| faster | >= 3x | 2.5x | **no** |" in text
    assert "| share | <= 2.0 % | 0.1 % | yes |" in text
    assert "| scan | < 1 | skipped: no data | skipped |" in text
    assert "| ours | 1.5 |\n\nA note." in text
    assert tables.as_json({}, {"a": section}, "make bench")["sections"]["a"]["gates"][0]["met"] is False
    assert plots.draw([section], tmp_path / "plot.png", "a machine") and (tmp_path / "plot.png").stat().st_size > 1000
    assert not plots.draw([tables.Section()], tmp_path / "none.png", "")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1e-6, "1.0e-06"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_figures_have_three_digits(value, text):
    assert tables.number(value) == text

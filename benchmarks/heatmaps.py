"""(a) Heatmaps against a plain loop and MONAI's inferers, and (f) which share of the arithmetic floor each reaches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import repeated
from benchmarks.networks import made_detector, operations_per_patch
from benchmarks.tables import Gate, Point, Section, Table, at_least, at_most, number
from benchmarks.timing import Run, interleaved, medians, say, spread
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
from medanomaly.patches.layout import prepare_network

WINDOW_BATCHES = (16, 64, 256, 1024)
NAIVE_PATCHES = 200  # of the plain loop are timed, and scaled up
DEFAULT, BEST, INFERER, FILTERED, NAIVE = (
    "sliding_window_inference, window batch 4",
    "sliding_window_inference, best window batch",
    "PatchInferer, best batch",
    "PatchInferer with a filter, best batch",
    "one patch at a time",
)
LAID_OUT = "the same, network channels_last"
OURS, OURS_BF16 = "PatchScoreInferer", "PatchScoreInferer, bf16"
MM = "torch.mm, fp32"


@dataclass(frozen=True)
class Setting:
    """What is scored: a slab or a cube, 30 % of it brain."""

    patch_size: int
    spatial_dims: int
    stride: int
    shape: tuple[int, int, int]
    rounds: int
    speed_up: tuple[float, float] | None = None  # needed: over the best and the default window batch of MONAI
    of_floor: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.patch_size} px, {self.spatial_dims}-D"


SETTINGS = [
    Setting(16, 2, 4, (256, 256, 4), 5, (3.0, 7.0), 0.75),
    Setting(32, 2, 4, (256, 256, 4), 3, (1.7, 3.0), 0.85),
    Setting(16, 3, 4, (64, 64, 64), 3),
]
QUICK = [
    Setting(16, 2, 4, (128, 128, 2), 2, (3.0, 7.0), 0.75),
    Setting(32, 2, 4, (160, 160, 1), 2, (1.7, 3.0), 0.85),
    Setting(16, 3, 8, (64, 64, 64), 2),
]


def run(settings: Run) -> Section:
    """Time every way at every setting."""
    section = Section()
    for setting in QUICK if settings.quick else SETTINGS:
        _time_setting(setting, settings, section)
    return section


def _time_setting(setting: Setting, settings: Run, section: Section) -> None:
    device, size = settings.device, (setting.patch_size, setting.stride, setting.spatial_dims)
    volume = made_volume(setting.shape)
    mask = ellipse_mask(setting.shape, axes=setting.spatial_dims)
    everywhere = torch.ones_like(mask)
    all_patches, in_brain = grid_of(mask, *size)
    network = made_detector(*size[::2]).to(device)
    theirs = copy.deepcopy(network)  # ours lays the weights out channels_last in place

    laid_out = copy.deepcopy(network)  # what a user of MONAI gains with one line, and our way without the skipping
    prepare_network(laid_out)

    window_batch, batch = _best_batches(setting, settings, theirs)
    spec = PatchSpec(setting.patch_size, setting.spatial_dims, stride=setting.stride)
    ours, ours_bf16 = PatchScoreInferer(spec), PatchScoreInferer(spec, amp=True)
    moved = partial(volume.to, device)  # MONAI is fastest with the volume on the device of the network
    timed = min(NAIVE_PATCHES, in_brain)
    ways: dict[str, tuple[str, Callable[[], Any]]] = {
        f"{NAIVE}, in brain": (NAIVE, lambda: naive_loop(moved(), theirs, *size, mask=mask, limit=timed)),
        f"{DEFAULT}, all": (DEFAULT, lambda: sliding_windows(moved(), theirs, *size, window_batch=4)),
        f"{BEST}, all": (BEST, lambda: sliding_windows(moved(), theirs, *size, window_batch=window_batch)),
        f"{LAID_OUT}, all": (LAID_OUT, lambda: sliding_windows(moved(), laid_out, *size, window_batch=window_batch)),
        f"{INFERER}, all": (INFERER, lambda: patch_inferer(moved(), theirs, *size, batch_size=batch)),
        f"{FILTERED}, in brain": (FILTERED, lambda: patch_inferer(moved(), theirs, *size, batch, mask)),
        f"{OURS}, all": (OURS, lambda: ours(volume, network, mask=everywhere)),
        f"{OURS}, in brain": (OURS, lambda: ours(volume, network, mask=mask)),
        f"{OURS_BF16}, in brain": (OURS_BF16, lambda: ours_bf16(volume, network, mask=mask)),
    }
    say(f"[a] {setting.name}: do the ways agree?")
    difference = _largest_disagreement({name: call for name, (_, call) in ways.items()})
    fastest, fastest_bf16 = settings.peaks.fastest("fp32"), settings.peaks.fastest("bf16")
    probes = {
        name: repeated(settings.peaks.best[name], device, 0.1 if settings.quick else 0.5)
        for name in dict.fromkeys((MM, fastest, fastest_bf16))
    }
    calls = {name: call for name, (_, call) in ways.items()} | {name: probe.call for name, probe in probes.items()}
    rounds = settings.rounds(setting.rounds)
    say(f"[a] {setting.name}: {len(calls)} ways, {rounds} rounds")
    seconds = interleaved(calls, rounds, device, warm_up=False)
    seconds[f"{NAIVE}, in brain"] = [s * in_brain / timed for s in seconds[f"{NAIVE}, in brain"]]
    seconds[f"{NAIVE}, all"] = [s * all_patches / in_brain for s in seconds[f"{NAIVE}, in brain"]]

    operations = operations_per_patch(network)
    rates = {name: probe.operations / median(seconds[name]) for name, probe in probes.items()}  # in these very rounds
    times = medians(seconds)
    patches = {"all": all_patches, "in brain": in_brain}
    floor = {(name, which): count * operations / rates[name] for name in rates for which, count in patches.items()}

    rows, floor_rows = [], []
    for way, note in (
        (NAIVE, f"{timed} patches timed, scaled up"),
        (DEFAULT, ""),
        (BEST, f"{window_batch}"),
        (LAID_OUT, f"{window_batch}"),
        (INFERER, f"{batch}"),
        (FILTERED, f"{batch}"),
        (OURS, ""),
        (OURS_BF16, ""),
    ):
        found = {which: times[f"{way}, {which}"] for which in patches if f"{way}, {which}" in times}
        which = "in brain" if "in brain" in found and way != NAIVE else "all"
        shares = [
            {which: floor[peak, which] / value for which, value in found.items()}
            for peak in ((fastest_bf16,) if way == OURS_BF16 else (MM, fastest))
        ]
        rows.append(
            (
                way + f" ({note})" * bool(note),
                *(number(found[w]) if w in found else "-" for w in patches),
                number(patches[which] / found[which]),
                number(found[which] / times[f"{OURS}, in brain"]),
                f"{100 * spread(seconds[f'{way}, {which}']):.0f} %",
            )
        )
        cells = [f"{100 * share[w]:.0f} %" if w in share else "-" for share in shares for w in patches]
        floor_rows.append((way, *["-"] * (4 - len(cells)), *cells))
        section.points += [Point(setting.name, way, patches[w], value) for w, value in found.items()]
    shape = " x ".join(map(str, setting.shape))
    section.tables += [
        Table(
            f"(a) Heatmaps, {setting.name}",
            ("way", "all patches, s", "in-brain patches, s", "patches/s", "times ours in brain", "spread"),
            rows,
            f"{shape} voxels, {100 * float(mask.mean()):.0f} % brain, stride {setting.stride}: {all_patches:,} "
            f"patches, {in_brain:,} touch the brain. {rounds} rounds; spread is (slowest - fastest) / median. The ways "
            f"agree to {difference:.1e}.",
        ),
        Table(
            f"(f) Share of the arithmetic floor, {setting.name}",
            ("way", "torch.mm: all", "torch.mm: in brain", "fastest product: all", "fastest product: in brain"),
            [
                ("*the floor, s*", *(number(floor[peak, w]) for peak in (MM, fastest) for w in patches)),
                *floor_rows,
            ],
            f"The floor: {operations / 1e6:.1f} MFLOP x patches / the rate of a matrix product, as its median in these "
            f"very rounds: torch.mm {rates[MM] / 1e9:,.0f} GFLOP/s ({probes[MM].name}); the fastest product that was "
            f"found {rates[fastest] / 1e9:,.0f} GFLOP/s ({probes[fastest].name}). bf16 is held against its own "
            f"fastest, {rates[fastest_bf16] / 1e9:,.0f} GFLOP/s. More than 100 % means that the product is not the "
            "limit of the machine.",
        ),
    ]
    section.floors[setting.name] = {
        "fp32": operations / rates[fastest],
        "bf16": operations / rates[fastest_bf16],
        "torch.mm, fp32": operations / rates[MM],
    }
    section.raw[setting.name] = {
        "seconds": seconds,
        "patches": patches,
        "operations_per_patch": operations,
        "rates": rates,
        "window_batch": window_batch,
        "patch_inferer_batch": batch,
    }
    section.gates += _gates(setting, times, difference, floor[MM, "in brain"], floor[fastest, "in brain"])


def _gates(
    setting: Setting, times: dict[str, float], difference: float, floor: float, strict_floor: float
) -> list[Gate]:
    gates = [at_most(f"{setting.name}: all ways give the same heatmap, to", 1e-5, difference, "")]
    if setting.speed_up is None:
        return gates
    ours = times[f"{OURS}, in brain"]
    best, default = setting.speed_up
    return [
        *gates,
        at_least(f"{setting.name}: in-brain fp32 against {BEST}", best, times[f"{BEST}, all"] / ours),
        at_least(f"{setting.name}: in-brain fp32 against {DEFAULT}", default, times[f"{DEFAULT}, all"] / ours),
        at_least(
            f"{setting.name}: share of the arithmetic floor (torch.mm), in brain", setting.of_floor, floor / ours, "%"
        ),
        at_least(
            f"{setting.name}: stricter, share of the floor of the fastest product found, in brain",
            setting.of_floor,
            strict_floor / ours,
            "%",
        ),
        at_least(f"{setting.name}: bf16 against fp32, in brain", 1.5, ours / times[f"{OURS_BF16}, in brain"]),
    ]


def _best_batches(setting: Setting, settings: Run, network: torch.nn.Module) -> tuple[int, int]:
    """The fastest batches of MONAI's two inferers, swept on a part of the volume."""
    depth = 1 if setting.spatial_dims == 2 else setting.patch_size + 2 * setting.stride
    volume = made_volume((*setting.shape[:2], depth)).to(settings.device)
    size = (setting.patch_size, setting.stride, setting.spatial_dims)
    batches = WINDOW_BATCHES[1:3] if settings.quick else WINDOW_BATCHES
    say(f"[a] {setting.name}: MONAI's best batches among {', '.join(map(str, batches))}")
    best = []
    for way in (sliding_windows, patch_inferer):
        ways = {str(batch): partial(way, volume, network, *size, batch) for batch in batches}
        seconds = interleaved(ways, 1 if settings.quick else 2, settings.device, warm_up=not settings.quick)
        best.append(int(min(seconds, key=lambda batch: min(seconds[batch]))))
    return best[0], best[1]


def _largest_disagreement(calls: dict[str, Callable[[], Tensor]]) -> float:
    """Over the fp32 ways that score all patches, and over those in the brain; also warms all of them up."""
    maps = {name: call() for name, call in calls.items()}
    return max(
        *(largest_difference(maps[f"{OURS}, all"], maps[f"{way}, all"]) for way in (DEFAULT, BEST, LAID_OUT, INFERER)),
        largest_difference(maps[f"{OURS}, in brain"], maps[f"{FILTERED}, in brain"]),
    )

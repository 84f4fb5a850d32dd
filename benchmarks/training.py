"""(b) Training throughput against an eager fp32 step with the layers as DCGAN writes them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from benchmarks.networks import made_detector, plain_ganomaly
from benchmarks.tables import Section, Table, at_least, number
from benchmarks.timing import Run, interleaved, medians, say, spread
from medanomaly.detectors import GANomaly
from medanomaly.patches.layout import channels_last, prepare_network

BATCH = 128
EAGER, OURS, OURS_AMP = "eager fp32, plain layers", "ours, fp32", "ours, bf16 (amp)"


def fast_step(detector: GANomaly, patch_size: int, device: torch.device, amp: bool) -> Callable[[], object]:
    """A step as :class:`DetectorTrainer` takes it: weights and batches channels_last, and bf16 where ``amp`` is on."""
    detector = copy.deepcopy(detector).to(device).train()
    prepare_network(detector)
    batch = channels_last(torch.rand(BATCH, 1, patch_size, patch_size, device=device))
    stage = next(detector.stages())

    def step() -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            return detector.training_step(batch, stage)

    return step


def eager_step(patch_size: int, device: torch.device) -> Callable[[], object]:
    """The baseline: plain layers, the default memory layout, fp32."""
    detector = plain_ganomaly(patch_size).to(device).train()
    batch = torch.rand(BATCH, 1, patch_size, patch_size, device=device)
    stage = next(detector.stages())
    return lambda: detector.training_step(batch, stage)


def run(settings: Run) -> Section:
    """Time steps of 128 patches."""
    section, rows = Section(), []
    for patch_size in (16, 32):
        say(f"[b] training steps, {patch_size} px")
        detector = made_detector(patch_size)
        seconds = interleaved(
            {
                EAGER: eager_step(patch_size, settings.device),
                OURS: fast_step(detector, patch_size, settings.device, amp=False),
                OURS_AMP: fast_step(detector, patch_size, settings.device, amp=True),
            },
            settings.rounds(15 if patch_size == 16 else 9),
            settings.device,
        )
        times = medians(seconds)
        rows += [
            (
                f"{patch_size} px, {way}",
                number(1000 * value),
                number(BATCH / value),
                f"{number(times[EAGER] / value)}x",
                f"{100 * spread(seconds[way]):.0f} %",
            )
            for way, value in times.items()
        ]
        section.gates.append(
            at_least(
                f"{patch_size} px: training step, fast settings against eager fp32", 1.5, times[EAGER] / times[OURS_AMP]
            )
        )
        section.raw[f"{patch_size} px"] = seconds
    columns = ("step", "ms", "patches/s", "against eager fp32", "spread")
    note = f"GANomaly A, batches of {BATCH}, generator and critic stepped."
    section.tables.append(Table("(b) Training", columns, rows, note))
    return section

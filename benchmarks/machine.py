"""The machine of a run, and the fastest matrix product that it was seen to do."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai
import torch
from torch.nn import functional as F

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Probe:
    """One matrix product, and how many operations (2 a multiply-add) a call does."""

    name: str
    call: Callable[[], Any]
    operations: float


@dataclass(frozen=True)
class Peaks:
    """Operations per second of the best size of each kind of product, and the probe that reached it, by name.

    There are two floors, because on some processors torch.mm (MKL) is far from what the processor can do, which a 1x1
    convolution (oneDNN) shows: "torch.mm, fp32", and the stricter one of the fastest product of all.
    """

    rates: dict[str, float] = field(default_factory=dict)
    best: dict[str, Probe] = field(default_factory=dict)

    def fastest(self, dtype: str) -> str:
        """The name of the fastest product in "fp32" or "bf16"."""
        return max((name for name in self.rates if name.endswith(dtype)), key=lambda name: self.rates[name])

    def rate(self, dtype: str) -> float:
        """The highest rate that was seen in "fp32" or "bf16"."""
        return self.rates[self.fastest(dtype)]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def strict_fp32() -> None:
    """No TF32 on a GPU: what is called fp32 is fp32, for all ways and for the floor."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _probes(device: torch.device, dtype: torch.dtype) -> dict[str, list[Probe]]:
    """Products of several sizes: torch.mm (MKL or cuBLAS), and 1x1 convolutions (oneDNN or cuDNN)."""
    sizes = (512, 1024, 2048) if device.type == "cpu" else (2048, 4096, 8192)
    products, convolutions = [], []
    for n in sizes:
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        products.append(Probe(f"{n} x {n}", lambda a=a, b=b: torch.mm(a, b), 2.0 * n**3))
    for channels, pixels in ((256, 32), (512, 32), (1024, 32)) if device.type == "cpu" else ((1024, 64), (4096, 64)):
        x = torch.rand(4, channels, pixels, pixels, device=device).to(dtype, memory_format=torch.channels_last)
        weight = torch.rand(channels, channels, 1, 1, device=device).to(dtype, memory_format=torch.channels_last)
        convolutions.append(
            Probe(f"{channels} channels", lambda x=x, weight=weight: F.conv2d(x, weight), 8.0 * pixels**2 * channels**2)
        )
    return {"torch.mm": products, "1x1 convolution": convolutions}


def repeated(probe: Probe, device: torch.device, seconds: float = 0.3) -> Probe:
    """The probe as often as takes about so many seconds."""
    _timed(probe, device)
    times = max(1, round(seconds / _timed(probe, device)))
    return Probe(probe.name, lambda: [probe.call() for _ in range(times)], times * probe.operations)


def _timed(probe: Probe, device: torch.device) -> float:
    start = time.perf_counter()
    probe.call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def measure_peaks(device: torch.device, quick: bool = False) -> Peaks:
    """The best rate of each kind of product: for each size, the fastest of several repetitions."""
    rates: dict[str, float] = {}
    best: dict[str, Probe] = {}
    for dtype_name, dtype in DTYPES.items():
        for kind, probes in _probes(device, dtype).items():
            name = f"{kind}, {dtype_name}"
            rates[name] = 0.0
            for probe in probes:
                longer = repeated(probe, device, 0.05 if quick else 0.2)
                rate = longer.operations / min(_timed(longer, device) for _ in range(3))
                if rate > rates[name]:
                    rates[name], best[name] = rate, Probe(f"{name}, {probe.name}", probe.call, probe.operations)
    return Peaks(rates, best)


def describe(device: torch.device) -> dict[str, str]:
    """What a reader of the table must know about the machine, the code and the day."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    described = {
        "processor": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "GPU": torch.cuda.get_device_name(device) if device.type == "cuda" else "none used",
        "fp32": "float32; TF32 is off",
        "torch, monai, Python": f"{torch.__version__}, {monai.__version__}, {platform.python_version()}",
        "commit": commit(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "load of the machine at the start": f"{load:.1f}",
    }
    return described


def slug(device: torch.device) -> str:
    """Name of the result files, such as "cpu-2-cores" or "nvidia-h200"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> str:
    """The commit of the checkout; with "dirty" if files other than earlier results differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
    return f"{head} (dirty)" if changed else head


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()

"""Where the figures of a benchmark come from: command, commit, dates, seeds, machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import medanomaly


def provenance_lines(results: Sequence[Mapping[str, Any]], folder: Path, data_root: Path | None) -> str:
    """The lines below the table: how, with what, when and where the figures were made."""
    seeds = sorted({result["seed"] for result in results})
    dates = sorted(result["date"][:10] for result in results)
    machines = dict.fromkeys(
        "{processor}, {cores} cores, {threads} threads, {device}, torch {torch}".format(**result["machine"])
        for result in results
    )
    lines = [
        *(f"Command: `{command}`" for command in _commands(results, folder, data_root)),
        f"Commit: {', '.join(dict.fromkeys(str(result['commit'] or 'unknown') for result in results))}",
        f"Date: {dates[0] if dates[0] == dates[-1] else f'{dates[0]} to {dates[-1]}'}",
        f"Seeds: {', '.join(map(str, seeds))}",
        f"Machine: {'; '.join(machines)}",
        *_origins(results),
        *_mixed_settings(results),
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _commands(results: Sequence[Mapping[str, Any]], folder: Path, data_root: Path | None) -> list[str]:
    """The commands that make the results again: one for those that were made with the same words."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        words = [*result.get("arguments", [result["experiment"]])]
        for key, value in result.get("changed_settings", {}).items():
            words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        groups.setdefault(shlex.join(["medanomaly", "benchmark", *words]), []).append(result)
    ends = [] if data_root is None else ["--data-root", str(data_root)]
    ends += ["--output", str(folder.parent), *(["--reduced"] if folder.name.endswith("-reduced") else [])]
    return [
        f"{command} --detectors {','.join(dict.fromkeys(result['detector'] for result in group))} "
        f"--seeds {','.join(map(str, sorted({result['seed'] for result in group})))} {shlex.join(ends)}"
        for command, group in groups.items()
    ]


def machine() -> dict[str, Any]:
    """What a run was made on: processor, its cores, threads, GPU or "cpu", and the version of torch."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def current_commit() -> str | None:
    """The commit of the checkout that the package lies in, "-dirty" if its files differ; None outside a checkout."""
    package = Path(medanomaly.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not one that is installed inside another checkout
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _origins(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """For all detectors that share them: what they were trained on, and how their settings were chosen."""
    detectors: dict[tuple[str, str], list[str]] = {}
    for result in results:
        named = detectors.setdefault((result["trained_on"], result["settings_chosen"]), [])
        if result["detector"] not in named:
            named.append(result["detector"])
    return [
        f"{', '.join(named)}: trained on {trained_on}; settings: {chosen}"
        for (trained_on, chosen), named in detectors.items()
    ]


def _mixed_settings(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each detector and setting whose seeds were not all run with the same settings."""
    seen: dict[tuple[str, str], set[str]] = {}
    for result in results:
        key = (result["detector"], result["setting"])
        seen.setdefault(key, set()).add(json.dumps(result["settings"], sort_keys=True))
    return [
        f"Beware: the seeds of {detector}, {setting} were run with different settings (see results/)."
        for (detector, setting), settings in seen.items()
        if len(settings) > 1
    ]

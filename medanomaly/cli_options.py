"""Options that several commands have, and what a shell completes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from medanomaly import terminal
from medanomaly.shipped import bundle_names

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and errors alone.", callback=terminal.be_quiet)
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print the result, and nothing else, as JSON.", callback=terminal.answer_in_json),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the GPU if there is one, when not given.")]
DataRoot = Annotated[Path | None, typer.Option(help="What relative paths in the datalist start from.")]
Section = Annotated[str, typer.Option(help="Section of the datalist.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the bundle, such as patch_size=32; repeatable."),
]
Series = Annotated[
    list[str] | None,
    typer.Option(metavar="SERIES", help="Which DICOM series of a folder or zip: number or description; repeatable."),
]
BRAINS = "auto (the case's own mask, or deepbet), given, nonzero, all, deepbet, hd-bet, synthstrip, or a command"


def examples(*lines: str) -> str:
    """What stands below the help of a command."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def completed_from(names: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """For ``autocompletion``: the names that begin as the word that is typed, or its last part after a comma."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def benchmarks() -> list[str]:
    from medanomaly.experiments import EXPERIMENTS

    return ["cohort", *EXPERIMENTS]


def benchmark_detectors() -> list[str]:
    return ["intensity", *bundle_names()]


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value that is JSON is read as such, anything else is text."""
    from medanomaly.errors import ConfigError

    settings: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r} has no value: write KEY=VALUE, such as --set patch_size=32.")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings

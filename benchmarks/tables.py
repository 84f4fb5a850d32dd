"""What a section hands back, and how it is written as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Gate:
    """A line that the run must show. ``met`` is None where it could not be measured."""

    name: str
    needed: str
    measured: str
    met: bool | None

    def verdict(self) -> str:
        return {True: "yes", False: "**no**", None: "skipped"}[self.met]


@dataclass(frozen=True)
class Table:
    """A table whose cells are written already."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Point:
    """For the plot: a way scored so many patches in so many seconds."""

    panel: str
    way: str
    patches: int
    seconds: float


@dataclass
class Section:
    """Results of one section; ``floors`` are the seconds that the arithmetic of a patch takes, by panel and dtype."""

    tables: list[Table] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)


def at_least(name: str, needed: float, measured: float, unit: str = "x") -> Gate:
    """A gate on a ratio ("x") or a share ("%", given as 0..1) that must not fall below what is needed."""
    return Gate(name, f">= {_written(needed, unit)}", _written(measured, unit), measured >= needed)


def at_most(name: str, needed: float, measured: float, unit: str) -> Gate:
    """A gate on a quantity that must not exceed what is needed."""
    return Gate(name, f"<= {_written(needed, unit)}", _written(measured, unit), measured <= needed)


def skipped(name: str, needed: str, reason: str) -> Gate:
    """A gate that could not be measured here."""
    return Gate(name, needed, f"skipped: {reason}", None)


def _written(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    return f"{number(value)}x" if unit == "x" else f"{number(value)} {unit}".strip()


def number(value: float) -> str:
    """A figure with about three digits."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    if abs(value) < 10:
        return f"{value:.3g}"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gate_table(gates: Sequence[Gate]) -> str:
    """The gates, one a line."""
    rows = [(gate.name, gate.needed, gate.measured, gate.verdict()) for gate in gates]
    return markdown_table(("gate", "needed", "measured", "met"), rows)


def markdown(machine: Mapping[str, str], sections: Sequence[Section], command: str, plot: str | None) -> str:
    """The whole report."""
    parts = [f"# Benchmarks\n\nWritten by `{command}`; times are medians of interleaved rounds."]
    parts.append(markdown_table(("machine", ""), list(machine.items())))
    gates = [gate for section in sections for gate in section.gates]
    if gates:
        parts += ["## Gates", gate_table(gates)]
    if plot is not None:
        parts.append(f"![Seconds against patches scored, log-log, with the arithmetic floor]({plot})")
    for section in sections:
        for table in section.tables:
            parts += [f"## {table.title}", markdown_table(table.columns, table.rows)]
            if table.note:
                parts.append(table.note)
    return "\n\n".join(parts) + "\n"


def as_json(machine: Mapping[str, str], sections: Mapping[str, Section], command: str) -> dict[str, Any]:
    """Everything that was measured, for machines."""
    return {
        "command": command,
        "machine": dict(machine),
        "sections": {name: asdict(section) for name, section in sections.items()},
    }

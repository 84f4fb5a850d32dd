"""Leaderboards, for a terminal and as Markdown: where a table has "X sd" beside "X", it is shown as "mean ± sd"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.table import Table

from medanomaly.report.tables import number


def leaderboard_table(frame: pd.DataFrame, title: str, width: int = 160) -> Table:
    """``frame`` for a terminal: figures on the right; of the columns, as many as fit in ``width``."""
    header, *rows = readable(frame)
    table = Table(title=title, title_justify="left", caption_justify="left")
    used = 1
    for place, (column, values) in enumerate(zip(header, zip(*rows, strict=True), strict=True)):
        needed = max(map(len, [*column.split(), *values]))  # headers fold between words, values do not
        used += needed + 3
        if used > width and place > 0:
            table.caption = f"columns left out: {len(header) - place}; leaderboard.md has all of them"
            break
        is_number = all(value[:1] in "-0123456789" for value in values)
        table.add_column(column, justify="right" if is_number else "left", width=needed)
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    return table


def markdown_table(frame: pd.DataFrame) -> str:
    """``frame`` as a table in Markdown."""
    header, *rows = readable(frame)
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *rows])


def readable(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as text: three digits, a dash where there is no figure, and spreads behind their means."""
    spreads = {column: f"{column} sd" for column in frame if f"{column} sd" in frame}
    columns = [column for column in frame if column not in spreads.values()]

    def text(row: Mapping[str, Any], column: str) -> str:
        value = row[column]
        shown = number(value) if isinstance(value, float) or value is None else str(value)
        spread = row[spreads[column]] if column in spreads else None
        return shown if spread is None or pd.isna(spread) else f"{shown} ± {number(spread)}"

    return [columns, *([text(row, column) for column in columns] for row in frame.to_dict("records"))]

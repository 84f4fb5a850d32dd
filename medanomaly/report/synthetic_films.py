"""A picture of synthetic films above the real ones that are most like them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from medanomaly.report.figures import save_figure


def synthetic_films_figure(rows: Mapping[str, NDArray[Any]], path: str | Path) -> None:
    """Rows of films (n, H, W) in [0, 1], each named beside it, as many in each.

    Args:
        rows: name to films, such as "normal, synthetic" and "nearest training film".
        path: PNG to write.
    """
    columns = max(len(films) for films in rows.values())
    figure = Figure(figsize=(1.3 * columns + 1.2, 1.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, films) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name.replace(", ", "\n"), fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
        for axis, film in zip(row, films, strict=False):
            axis.imshow(film, cmap="gray", vmin=0, vmax=1)
    save_figure(figure, path)

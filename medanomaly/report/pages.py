"""Pages of a report: one file each, filled from a template, with all that they show inside."""

from __future__ import annotations

import base64
import io
import json
import platform
import re
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import medanomaly
from medanomaly.data import written_whole
from medanomaly.errors import ConfigError

SHOWN_VERSIONS = ("torch", "monai", "numpy", "nibabel", "scikit-image")
NIIVUE = "_assets/js/niivue.umd.js"  # in nilearn, which draws surfaces with it


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Fill a template of this package and write it whole or not at all. What the values say is text, never HTML."""
    page = _environment().get_template(template).render(version=medanomaly.__version__, **values)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medanomaly.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = lambda name: Markup((_templates() / name).read_text(encoding="utf-8"))
    return environment


def _templates() -> Any:
    return resources.files("medanomaly.report") / "templates"


@cache
def niivue_source() -> Markup:
    """The viewer's program, out of the installed nilearn.

    Raises:
        ConfigError: if that nilearn has none.
    """
    try:
        source = (resources.files("nilearn") / NIIVUE).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the viewer of reports is NiiVue, which nilearn 0.14 carries as {NIIVUE}, but the installed nilearn "
            f"{metadata.version('nilearn')} does not: install nilearn 0.14, or leave out reports (--no-report)."
        ) from error
    return Markup(re.sub("</(script)", r"<\\/\1", source, flags=re.IGNORECASE))


def as_data(figure: Figure, dpi: int = 110) -> str:
    """A figure as the address of a PNG that lies in the page itself."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png")
    return png_data(file.getvalue())


def png_data(png: bytes) -> str:
    """The bytes of a PNG file as an address that lies in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@cache
def heat_colours() -> ListedColormap:
    """From violet over orange to pale yellow: the part of "inferno" that is seen on black and on grey."""
    return ListedColormap(matplotlib.colormaps["inferno"](np.linspace(0.3, 1, 256)), name="heat")


def versions() -> dict[str, str]:
    """What the maps were made with."""
    found = {"medanomaly": medanomaly.__version__, "Python": platform.python_version()}
    return found | {name: metadata.version(name) for name in SHOWN_VERSIONS}


def as_text(value: Any) -> str:
    """A setting for a reader: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

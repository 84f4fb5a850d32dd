"""Docstrings as the site shows them: without Sphinx's roles, and an entry for each of "height, width: in voxels"."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod|obj):`~?([^`]+)`")
SHARED_ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)+):(.*(?:\n {8}.*)*)", re.MULTILINE)


class Roles(griffe.Extension):
    """Changes every docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            plain = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = SHARED_ENTRY.sub(_entry_each, plain)


def _entry_each(match: re.Match[str]) -> str:
    return "\n".join(f"    {name}:{match[2]}" for name in match[1].split(", "))

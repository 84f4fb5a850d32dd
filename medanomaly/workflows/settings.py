"""Settings of a bundle: values that are put where its configs have a place for them, and never code."""

from __future__ import annotations

import difflib
import inspect
import json
import pydoc
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from medanomaly.errors import ConfigError

PROGRAM = ("imports", "initialize", "run", "finalize")  # keys of a config whose values are code by nature
READ_AS = {"$": "an expression", "@": "a reference", "%": "a macro"}  # what MONAI makes of a text that begins so


def apply_settings(settings: Mapping[str, Any], configs: Sequence[dict[str, Any]], where: str) -> None:
    """Put each setting into every config that has its place.

    Args:
        settings: key to value; ``network_def#learning_rate`` and ``network_def::learning_rate`` are one level down. A
            component (a dictionary with ``_target_``) also has a place for each argument that it does not name.
        configs: the content of config files; changed in place.
        where: what the message of an error calls them.

    Raises:
        ConfigError: if a value would be run as code, a key has no place in any config, or its place holds a component.
    """
    for key, value in settings.items():
        check_value(key, value)
        parts = key.replace("#", "::").split("::")
        if parts[0] in (*PROGRAM, "bundle_root") or any(part.startswith("_") for part in parts):
            raise ConfigError(
                f"{key}={value!r} cannot be set: it is part of the program of {where}, and settings are values; write "
                "code into the bundle's config file."
            )
        places = [place for config in configs if (place := _place(config, parts)) is not None]
        if not places:
            raise ConfigError(f"{where} has no setting {key!r}. {_hint(configs, parts)}")
        for holder, name in places:
            present = _inside(holder, name)
            if isinstance(present, dict) and "_target_" in json.dumps(present, default=str):
                names = ", ".join(f"{key}#{part}" for part in _names(present))
                raise ConfigError(f"{key} of {where} is not a single value: set one of {names}.")
            holder[name] = value


def check_value(key: str, value: Any) -> None:
    """Raise ConfigError for a value that MONAI's parser would run, look up or change instead of taking it as it is.

    The parser reads texts, dictionaries and lists. A tuple, a ``Path`` or a ``torch.device`` passes it untouched, so
    that is how cases, files and devices are handed to it.
    """
    if isinstance(value, str):
        for sign in READ_AS:
            if value.startswith(sign):
                raise ConfigError(
                    f"{key} holds {value!r}, which MONAI would read as {READ_AS[sign]}: settings are values; write "
                    "code into the bundle's config file."
                )
        for sign in ("#", "@::", "%::"):
            if sign in value:
                raise ConfigError(
                    f"{key} holds {value!r}, and a config of MONAI cannot hold a text with {sign!r}, which it takes "
                    "for a part of a reference: write it without; if it is a path, rename the file or folder."
                )
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if str(name).startswith("_"):
                raise ConfigError(
                    f"{key} holds {dict(value)!r}, whose key {name!r} MONAI would act on: settings are values; write "
                    "code into the bundle's config file."
                )
            check_value(key, item)
    elif isinstance(value, list):
        for item in value:
            check_value(key, item)


def device_setting(device: str | None) -> dict[str, Any]:
    """The setting ``device``, if a device is named and this machine has it.

    Raises:
        ConfigError: if it has not.
    """
    if device is None:
        return {}
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used here ({reason}): use cpu, or cuda with a GPU.") from error
    return {"device": torch.device(device)}


def _place(config: Any, parts: Sequence[str]) -> tuple[Any, Any] | None:
    """The dictionary or list that a setting goes into, and its key or index there; None if the config has none."""
    holder = config
    for part in parts[:-1]:
        holder = _inside(holder, part)
    if parts[-1] not in _names(holder):
        return None
    return holder, int(parts[-1]) if isinstance(holder, list) else parts[-1]


def _inside(holder: Any, name: Any) -> Any:
    if isinstance(holder, list) and str(name).isdigit() and int(name) < len(holder):
        return holder[int(name)]
    return holder.get(name) if isinstance(holder, dict) else None


def _names(holder: Any) -> list[str]:
    """What can be set in a part of a config."""
    if isinstance(holder, list):
        return [str(n) for n in range(len(holder))]
    if not isinstance(holder, dict):
        return []
    own = [name for name in holder if not name.startswith("_")]
    return list(dict.fromkeys([*own, *_arguments(str(holder.get("_target_", "")))]))


@cache
def _arguments(target: str) -> tuple[str, ...]:
    """Names of the arguments of a class or function, named in full or, if it is one of MONAI's, by its short name."""
    from monai.bundle import ComponentLocator

    module = None if not target or "." in target else ComponentLocator().get_component_module_name(target)
    if module is not None:
        target = f"{module if isinstance(module, str) else module[0]}.{target}"  # the first, as MONAI does
    try:
        found = inspect.signature(pydoc.locate(target)).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError, pydoc.ErrorDuringImport):  # nothing of that name, or it does not tell
        return ()
    return tuple(one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))


def _hint(configs: Sequence[Any], parts: Sequence[str]) -> str:
    """The nearest name, on the first level that does not have it."""
    known: list[str] = []
    deepest = 0
    for config in configs:
        holder, done = config, 0
        while done < len(parts) - 1 and parts[done] in _names(holder):
            holder, done = _inside(holder, parts[done]), done + 1
        if done > deepest:
            known, deepest = [], done
        if done == deepest:
            known += ["#".join([*parts[:done], name]) for name in _names(holder) if not (done == 0 and name in PROGRAM)]
    near = difflib.get_close_matches("#".join(parts[: deepest + 1]), known, 1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"It has {', '.join(sorted(set(known)))}." if known else f"{'#'.join(parts[:deepest])} has no parts to set."

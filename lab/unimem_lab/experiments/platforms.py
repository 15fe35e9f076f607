"""A platform with other parameters: what `system.parameters` of an experiment changes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from unimem_node.mpsoc.masters import explain
from unimem_node.mpsoc.platform import Platform, PlatformError, load


def platform_of(name: str, parameters: Mapping[str, Any]) -> Platform:
    """The platform `name` with parameters replaced: ``{"kernel.resolve_ps": 1, "pl.masters.ni.slots": 8}``.

    A part of a key names a key of a table, an element of a list by its `name`, or by its position. Raises
    `PlatformError` for a key that is not there and for values that do not fit.
    """
    return _platform(name, tuple(sorted(parameters.items())))


@lru_cache(maxsize=32)
def _platform(name: str, parameters: tuple[tuple[str, Any], ...]) -> Platform:
    platform = load(name)
    if not parameters:
        return platform
    whole = platform.model_dump()
    for key, value in parameters:
        _replace(whole, key, value, name)
    try:
        return Platform.model_validate(whole)
    except ValidationError as error:
        raise PlatformError(explain(f"platform {name} with system.parameters", error)) from None


def _replace(whole: Any, key: str, value: Any, name: str) -> None:
    *way, last = key.split(".")
    at = whole
    for part in way:
        at = at[_find(at, part, key, name)]
    at = _writable(at, key, name)
    at[_find(at, last, key, name)] = value


def _writable(at: Any, key: str, name: str) -> Any:
    if isinstance(at, dict | list):
        return at
    raise PlatformError(f"system.parameters: {key} of platform {name} leads into a value, not a table")


def _find(at: Any, part: str, key: str, name: str) -> Any:
    """Where `part` leads: a key of a table, or a position of a list."""
    if isinstance(at, dict):
        if part in at:
            return part
        there = sorted(map(str, at))
    elif isinstance(at, list | tuple):
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in at]
        if part in names:
            return names.index(part)
        if part.isdecimal() and int(part) < len(at):
            return int(part)
        there = [str(entry) for entry in names if entry] or [f"0 to {len(at) - 1}"]
    else:
        there = []
    ways = f"there are {', '.join(there)}" if there else "it is a value, not a table"
    raise PlatformError(f"system.parameters: {key}: platform {name} has no {part!r} there; {ways}")

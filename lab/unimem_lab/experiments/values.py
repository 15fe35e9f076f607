"""Values of an experiment's file: sizes, lengths of simulated time, and where in a file something stands."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_SIZE: Final = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)\s*([KMGT]?)(?:i?B)?")
_SIZE_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ps|ns|us|µs|ms|s)")
_TIME_UNITS: Final = {"ps": 1, "ns": 10**3, "us": 10**6, "µs": 10**6, "ms": 10**9, "s": 10**12}
_TOLERANCE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def parse_size(value: Any) -> Any:
    """Bytes of `4096`, "0x1000", "64K", "4M", "1GiB"; raises `ValueError` for other text."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{value!r} is no size: write bytes, or 64K, 4M, 1G")
    return int(found[1], 0) << _SIZE_UNITS[found[2]]


def parse_time(value: Any) -> Any:
    """Picoseconds of "10us", "1.5 ms", "300ns"; a bare number is refused, as nobody could say of what."""
    if isinstance(value, str):
        found = _TIME.fullmatch(value.strip())
        if found is not None:
            return round(float(found[1]) * _TIME_UNITS[found[2]])
    raise ValueError(f"{value!r} is no time: write a number with ps, ns, us, ms or s, such as 10us")


def parse_tolerance(value: Any) -> Any:
    """A fraction of `0.02` or "2 %"; raises `ValueError` for other text."""
    if not isinstance(value, str):
        return value
    found = _TOLERANCE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f'{value!r} is no tolerance: write a fraction such as 0.02, or "2 %"')
    return float(found[1]) / 100


def _text_or(kind: str, pattern: str, example: str) -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern, "examples": [example]}
    return WithJsonSchema({"anyOf": [{"type": kind}, text]} if kind else text)


#: Bytes.
Size = Annotated[int, BeforeValidator(parse_size), _text_or("integer", f"^{_SIZE.pattern}$", "64K")]
#: Simulated time, in ps once it is read.
Time = Annotated[
    int,
    BeforeValidator(parse_time),
    PlainSerializer(lambda ps: f"{ps}ps", return_type=str, when_used="json"),
    _text_or("", f"^{_TIME.pattern}$", "10us"),
]
#: A fraction.
Tolerance = Annotated[
    float, BeforeValidator(parse_tolerance), _text_or("number", f"^{_TOLERANCE.pattern}$", "2 %")
]


def duration(ps: float) -> str:
    """Simulated time for people."""
    for unit in ("s", "ms", "us", "ns"):
        if abs(ps) >= _TIME_UNITS[unit]:
            return f"{ps / _TIME_UNITS[unit]:.4g} {unit.replace('us', 'µs')}"
    return f"{ps:g} ps"


#: Numbers that are not to be read out of texts or truth values.
Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]

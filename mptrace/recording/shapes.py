# SPDX-License-Identifier: GPL-2.0-or-later
"""The shape of every key of a recording's ``meta.json``, checked once when it is read.  Pure.

`meta.Meta` trusts the shapes of :data:`SHAPES`.  A key may be absent (an older version
did not write it) and there may be others (a newer one writes more).
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

#: The largest number of a 64-bit column.
INT64_MAX = (1 << 63) - 1
_CLIPPED = 40


class MetaError(ValueError):
    """A value of another shape than expected; the message names the key and both."""


Shape = Callable[[str, Any], None]


def parse(content: bytes) -> dict[str, Any]:
    """The object that ``meta.json`` holds, unchecked but for what tells its version.

    :raises MetaError: it is not JSON, or no object.
    """
    try:
        meta = json.loads(content, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise MetaError("it is nested too deep") from None
    except ValueError as error:
        raise MetaError((str(error) or type(error).__name__).splitlines()[0]) from error
    if not isinstance(meta, dict):
        raise MetaError(f"it is {_found(meta)}, not an object")
    check({key: meta[key] for key in ("format_version", "tool_version") if key in meta})
    return meta


def check(meta: Mapping[str, Any]) -> None:
    """Check the keys that are there against :data:`SHAPES`; raises MetaError.

    Of a version that is read: another one may have other shapes.
    """
    for key, shape in SHAPES.items():
        if key in meta:
            shape(key, meta[key])


def _no_number(text: str) -> float:
    raise MetaError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MetaError(f"the number {text[:_CLIPPED]} is too large")
    return value


def _found(value: Any) -> str:
    """A wrong value in few words."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = json.dumps(value)
    return text if len(text) <= _CLIPPED else f"{text[: _CLIPPED - 4]} ..."


def _expect(good: bool, where: str, value: Any, words: str) -> None:
    if not good:
        raise MetaError(f"{where} is {_found(value)}, not {words}")


# ---- shapes -------------------------------------------------------------------------


def _text(where: str, value: Any) -> None:
    _expect(isinstance(value, str), where, value, "text")


def _flag(where: str, value: Any) -> None:
    _expect(isinstance(value, bool), where, value, "true or false")


def _object(where: str, value: Any) -> None:
    _expect(isinstance(value, dict), where, value, "an object")


def _whole(low: int = 0, high: int = INT64_MAX) -> Shape:
    def shape(where: str, value: Any) -> None:
        # true and false are ints to Python only
        good = type(value) is int and low <= value <= high
        _expect(good, where, value, f"a whole number from {low} to {high}")

    return shape


def _nanoseconds(where: str, value: Any) -> None:
    good = type(value) in (int, float) and 0 <= value <= INT64_MAX
    _expect(good, where, value, f"a number from 0 to {INT64_MAX}")


def _or_none(shape: Shape) -> Shape:
    def either(where: str, value: Any) -> None:
        if value is not None:
            shape(where, value)

    return either


def _list_of(shape: Shape) -> Shape:
    def each(where: str, value: Any) -> None:
        _expect(isinstance(value, list), where, value, "a list")
        for number, one in enumerate(value):
            shape(f"{where}[{number}]", one)

    return each


def _mapping(shape: Shape, keys: str = ".*", words: str = "text") -> Shape:
    """An object with any keys of a pattern, and values of one shape."""
    pattern = re.compile(keys, re.DOTALL)

    def each(where: str, value: Any) -> None:
        _object(where, value)
        for key, one in value.items():
            _expect(bool(pattern.fullmatch(key)), f"a key of {where}", key, words)
            shape(f"{where}.{key[:_CLIPPED]}", one)

    return each


def _record(needed: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these keys, of which the first must be there; others are let through."""
    shapes = {**needed, **(optional or {})}

    def each(where: str, value: Any) -> None:
        _object(where, value)
        for key in needed:
            _expect(key in value, where, value, f"an object with '{key}'")
        for key, shape in shapes.items():
            if key in value:
                shape(f"{where}.{key}", value[key])

    return each


def _row(*shapes: Shape) -> Shape:
    """A list of exactly these."""

    def each(where: str, value: Any) -> None:
        good = isinstance(value, list) and len(value) == len(shapes)
        _expect(good, where, value, f"a list of {len(shapes)}")
        for number, shape in enumerate(shapes):
            shape(f"{where}[{number}]", value[number])

    return each


_COUNT = _whole()
_NID = _whole(0, (1 << 31) - 1)
_PID = _whole(0, (1 << 32) - 1)
_ADDRESS = _whole(0, (1 << 64) - 1)
_TIME = _record({}, {"wall_ns": _COUNT, "monotonic_ns": _COUNT})
_DECIMAL = {"keys": r"\d{1,20}", "words": "a number as text"}

_NODE = _record(
    {"nid": _NID},
    {
        "cpus": _or_none(_list_of(_NID)),
        "memory_bytes": _COUNT,
        "free_bytes": _COUNT,
        "distances": _list_of(_COUNT),
    },
)
_PHASE = _record(
    {"phase": _text},
    {
        "unit": _text,
        "attach": _or_none(_text),
        "method": _or_none(_text),
        "state": _text,
        "expected": _or_none(_COUNT),
        "seen": _or_none(_COUNT),
        "reason": _or_none(_text),
    },
)
_HANDLER = _record(
    {}, {"handler": _text, "run_count": _or_none(_COUNT), "run_ns": _or_none(_COUNT)}
)

#: Key of ``meta.json`` -> its shape; what the keys mean: docs/architecture.md.
SHAPES: Mapping[str, Shape] = {
    "format_version": _COUNT,
    "tool_version": _text,
    "command": _list_of(_text),
    "complete": _flag,
    "interrupted": _flag,
    "kernel": _record({}, {"release": _text, "machine": _text, "page_size": _whole(1, 1 << 30)}),
    "nodes": _list_of(_NODE),
    "hypervisor": _text,
    "emulated": _or_none(_flag),
    "counted": _or_none(_record({"cpu": _text, "string_moves": _text}, {})),
    "started": _or_none(_TIME),
    "ended": _or_none(_TIME),
    "settings": _mapping(_text),
    "scope": _or_none(
        _record(
            {},
            {
                "kind": _text,
                "pids": _list_of(_PID),
                "uid": _or_none(_PID),
                "cgroup": _or_none(_text),
                "command": _list_of(_text),
                "as": _text,
                "exit_status": _or_none(_whole(-255, 255)),
            },
        )
    ),
    "filters": _or_none(
        _record(
            {},
            {
                "reasons": _list_of(_text),
                "from": _list_of(_NID),
                "to": _list_of(_NID),
                "min_ns": _COUNT,
                "failed": _flag,
            },
        )
    ),
    "tier": _or_none(_text),
    "detail": _or_none(_text),
    "tier_reason": _or_none(_text),
    "unseen": _list_of(_text),
    "cgroups": _mapping(_text, **_DECIMAL),
    "own": _or_none(_list_of(_PID)),
    "rotation": _or_none(_record({}, {"number": _COUNT, "numbers": _list_of(_COUNT), "of": _text})),
    "session": _or_none(_TIME),
    "stacks": _or_none(_flag),
    "boundary_ns": _or_none(_COUNT),
    "last_part": _flag,
    "end_reason": _or_none(_text),
    "workload": _or_none(_object),
    "coverage": _list_of(_PHASE),
    "unproved_kinds": _list_of(_text),
    "page_flags": _mapping(_whole(0, 63)),
    "symbols": _mapping(
        _text, keys="(0x)?[0-9a-fA-F]{1,16}", words="a kernel address in hexadecimal"
    ),
    "reasons": _mapping(_text, **_DECIMAL),
    "modes": _mapping(_text, **_DECIMAL),
    "mappings": _list_of(_row(_ADDRESS, _ADDRESS, _text)),
    "mappings_gap": _or_none(_text),
    "lost": _mapping(_or_none(_COUNT)),
    "parts": _mapping(_whole(0, 999_999)),
    "cost": _or_none(
        _record(
            {},
            {
                "open_ns": _list_of(_nanoseconds),
                "closed_ns": _list_of(_nanoseconds),
                "clock": _text,
                "pages": _or_none(_COUNT),
                "bpf": _or_none(_list_of(_HANDLER)),
            },
        )
    ),
    "cost_reason": _or_none(_text),
    "recorder": _or_none(
        _record({"cpu_ns": _COUNT, "wall_ns": _COUNT, "cpus": _whole(1, 1 << 20), "folios": _COUNT})
    ),
    "memory_bound_bytes": _or_none(_COUNT),
    # rows are made for entries that are not there, up to so many in each call
    "max_entries": _whole(1, 1 << 24),
}

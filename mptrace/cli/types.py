# SPDX-License-Identifier: GPL-2.0-or-later
"""Option types that several commands share."""

import math
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mptrace.units import parse_ns, parse_size

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    _ParamType = click.ParamType


def is_default(ctx: click.Context, name: str) -> bool:
    """Whether nobody gave an option a value."""
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT


class _Parsed(_ParamType):
    """A type made of a name, a parser that raises ValueError, and what it expects."""

    def __init__(self, name: str, expects: str) -> None:
        self.name = name
        self._expects = expects

    def parse(self, text: str) -> Any:
        raise NotImplementedError

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except (ValueError, ArithmeticError):
            self.fail(f"{value!r} is not {self._expects}", param, ctx)


class _Size(_Parsed):
    def parse(self, text: str) -> int:
        return parse_size(text)


class _Time(_Parsed):
    def parse(self, text: str) -> int:
        return parse_ns(text)


class _Nids(_Parsed):
    def parse(self, text: str) -> tuple[int, ...]:
        nids = tuple(int(part) for part in text.split(","))
        if min(nids) < 0:
            raise ValueError(text)
        return nids


class _Range(_Parsed):
    def parse(self, text: str) -> tuple[int, int]:
        start, _, end = text.partition("-")
        bounds = int(start, 16), int(end, 16)
        if not 0 <= bounds[0] < bounds[1]:
            raise ValueError(text)
        return bounds


class _Entry(_Parsed):
    def parse(self, text: str) -> tuple[int, int]:
        call, _, entry = text.partition(":")
        if not (call.isdecimal() and entry.isdecimal()):
            raise ValueError(text)
        return int(call), int(entry)


class _Address(_Parsed):
    def parse(self, text: str) -> int:
        address = int(text, 16)
        if not 0 <= address < 1 << 64:
            raise ValueError(text)
        return address


class _Fraction(_Parsed):
    def parse(self, text: str) -> float:
        fraction = float(text)
        if not 0 <= fraction <= 1:
            raise ValueError(text)
        return fraction


class _Whole(_Parsed):
    def __init__(self, least: int, most: int | None) -> None:
        super().__init__("N", f"a whole number {_between(least, most)}")
        self._least, self._most = least, most

    def parse(self, text: str) -> int:
        number = int(text)
        if number < self._least or (self._most is not None and number > self._most):
            raise ValueError(text)
        return number


class _Number(_Parsed):
    def __init__(self, least: float, most: float | None) -> None:
        super().__init__("NUMBER", f"a number {_between(least, most)}")
        self._least, self._most = least, math.inf if most is None else most

    def parse(self, text: str) -> float:
        number = float(text)
        # so is NaN refused, which no comparison holds for
        if not (self._least <= number <= self._most and math.isfinite(number)):
            raise ValueError(text)
        return number


def _between(least: float, most: float | None) -> str:
    return f"of {least:,} or more" if most is None else f"from {least:,} to {most:,}"


def whole(least: int, most: int | None = None) -> _Parsed:
    """Whole numbers in a range, which help doesn't show and the message for another does."""
    return _Whole(least, most)


def amount(least: float, most: float | None = None) -> _Parsed:
    """Numbers in a range, likewise; neither NaN nor infinite."""
    return _Number(least, most)


SIZE = _Size("SIZE", "a size such as 64K, 8M or 1G")
TIME = _Time("TIME", "a time such as 500us, 20ms or 1s")
NIDS = _Nids("NID,...", "a list of node numbers such as 1 or 1,2")
RANGE = _Range("START-END", "a range of hexadecimal addresses such as 7f0000000000-7f0000010000")
FRACTION = _Fraction("FRACTION", "a fraction between 0 and 1")
ENTRY = _Entry("CALL:INDEX", "the number of a call and of an entry, such as 0:17")
ADDRESS = _Address("ADDR", "a hexadecimal address such as 0x7f0000011000")

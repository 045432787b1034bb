# SPDX-License-Identifier: GPL-2.0-or-later
"""Option types that several commands share."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mptrace.cli.output import progress
from mptrace.errors import UsageError
from mptrace.units import format_bytes, parse_ns, parse_size

if TYPE_CHECKING:
    from mptrace.recording.reader import Recording
    from mptrace.recording.rotated import Joined

    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    _ParamType = click.ParamType


def is_default(ctx: click.Context, name: str) -> bool:
    """Whether nobody gave an option a value."""
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT


def check_exclusive(given: Sequence[tuple[str, object]], way_out: str = "") -> list[str]:
    """Names of the options that were given (a value that is not false); at the most one may be.

    :raises UsageError: names those that exclude each other.
    """
    names = [name for name, value in given if value]
    if len(names) > 1:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise UsageError(f"{listed} exclude each other", way_out)
    return names


def flat(
    _ctx: click.Context, _param: click.Parameter, value: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Numbers of an option that takes lists and may be repeated, each once, in order."""
    return tuple(dict.fromkeys(number for numbers in value for number in numbers))


def opened(path: Path) -> "Recording | Joined":
    """The recording at ``path``, or those of a session by that name; says what is not read."""
    from mptrace.recording.rotated import open_recording

    data, notes = open_recording(path)
    for note in notes:
        progress(note)
    return data


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
        except (ValueError, ArithmeticError, UsageError):
            self.fail(f"{value!r} is not {self._expects}", param, ctx)


class _Whole(_Parsed):
    """A whole number of ``least`` to ``most``."""

    def __init__(self, least: int, most: int | None = None) -> None:
        bound = f"of {least:,} or more" if most is None else f"from {least:,} to {most:,}"
        super().__init__("NUMBER", f"a whole number {bound}")
        self._least, self._most = least, most

    def parse(self, text: str) -> int:
        number = int(text)
        if number < self._least or (self._most is not None and number > self._most):
            raise ValueError(text)
        return number


class _Number(_Parsed):
    """A finite number of ``least`` to ``most``, of some unit."""

    def __init__(self, name: str, unit: str, least: float, most: float) -> None:
        super().__init__(name, f"a number of {unit} from {least:g} to {most:,.0f}")
        self._least, self._most = least, most

    def parse(self, text: str) -> float:
        number = float(text)
        # NaN is neither too small nor too large
        if not (math.isfinite(number) and self._least <= number <= self._most):
            raise ValueError(text)
        return number


class _Pids(_Parsed):
    def parse(self, text: str) -> tuple[int, ...]:
        pids = tuple(int(part) for part in text.split(","))
        if not 0 < min(pids) <= max(pids) < 1 << 31:
            raise ValueError(text)
        return pids


class _Pid(_Pids):
    def parse(self, text: str) -> Any:
        (pid,) = super().parse(text)
        return pid


class _Size(_Parsed):
    """A size of ``least`` to ``most`` bytes."""

    def __init__(self, least: int = 1, most: int | None = None) -> None:
        bounds = "above 0, such as 64K, 8M or 1G"
        if most is not None:
            bounds = f"from {format_bytes(least)} to {format_bytes(most)}"
        super().__init__("SIZE", f"a size {bounds}")
        self._least, self._most = least, most

    def parse(self, text: str) -> int:
        size = parse_size(text)
        if size < self._least or (self._most is not None and size > self._most):
            raise ValueError(text)
        return size


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


class _Moment(_Parsed):
    def parse(self, text: str) -> Any:
        from mptrace.recording.moments import parse_moment

        return parse_moment(text)


class _Exposed(_Parsed):
    """A file (Path), or an address to listen on: (host, port)."""

    def parse(self, text: str) -> Path | tuple[str, int]:
        if "/" in text or ":" not in text:
            if not text or text.endswith("/"):
                raise ValueError(text)
            return Path(text)
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(text)
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(text)
        return host or "127.0.0.1", int(port)


class _Fraction(_Parsed):
    def parse(self, text: str) -> float:
        fraction = float(text)
        if not 0 <= fraction <= 1:
            raise ValueError(text)
        return fraction


#: What `mptrace run` and `record` leave where no name is given, and the others read.
DEFAULT_RECORDING = "mptrace.data"
#: A recording to read: whether it may be read, it says itself.
RECORDING = click.Path(path_type=Path, readable=False)

COUNT = _Whole(1)
NUMBER = _Whole(0)
SECONDS = _Number("SECONDS", "seconds", 0.1, 1e9)
PID = _Pid("PID", "the number of a process, such as 4711")
PIDS = _Pids("PID,...", "a list of process numbers such as 4711 or 4711,4712")
SIZE = _Size()
#: A ring in the kernel: a page at the least; what bcc can ask for at the most.
RING = _Size(4096, 1 << 30)
#: Folios tracked at once: about 300 bytes each.
FOLIOS = _Whole(1, 1 << 24)
TIME = _Time("TIME", "a time such as 500us, 20ms or 1s")
MOMENT = _Moment(
    "TIME", "a time such as 06:17:05, 2026-11-29T06:17:05 or 3.5 (seconds since the start)"
)
NIDS = _Nids("NID,...", "a list of node numbers such as 1 or 1,2")
RANGE = _Range("START-END", "a range of hexadecimal addresses such as 7f0000000000-7f0000010000")
FRACTION = _Fraction("FRACTION", "a fraction between 0 and 1")
ENTRY = _Entry("CALL:INDEX", "the number of a call and of an entry, such as 0:17")
EXPOSED = _Exposed(
    "FILE|[HOST]:PORT", "a FILE ('./' before a name with ':'), :PORT, HOST:PORT or [IPV6]:PORT"
)
ADDRESS = _Address("ADDR", "a hexadecimal address such as 0x7f0000011000")


def whole(least: int, most: int | None = None) -> _Whole:
    """Type of a whole number of ``least`` to ``most``."""
    return _Whole(least, most)


def within(name: str, unit: str, least: float, most: float) -> _Number:
    """Type of a finite number of some unit; ``name`` is shown in the help."""
    return _Number(name, unit, least, most)

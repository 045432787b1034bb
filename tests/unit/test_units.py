# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers to text and back."""

import pytest

from mptrace import units
from mptrace.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("64k", 65536), ("1.5G", 3 << 29), ("2MiB", 2 << 20), ("7 b", 7)],
)
def test_a_size_is_in_powers_of_1024(text: str, expected: int) -> None:
    """Suffixes are binary, in any case, with or without the unit."""
    assert units.parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "k", "-1", "1e3", "5 pages", "0x10"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    """The message quotes what was written."""
    with pytest.raises(UsageError, match="is not a size"):
        units.parse_size(text)


@pytest.mark.parametrize("text", ["0x1000-0x3000", "1000-3000", "0X1000-3000"])
def test_a_range_is_hexadecimal(text: str) -> None:
    """With or without 0x, as /proc/PID/maps prints it."""
    assert units.parse_range(text) == (0x1000, 0x3000)


@pytest.mark.parametrize(
    "text", ["", "0x1000", "0x2000-0x1000", "0x1-0x1", "g-h", f"0-{1 << 65:x}"]
)
def test_an_empty_or_malformed_range_is_a_usage_error(text: str) -> None:
    """An end at or below the start is refused as well."""
    with pytest.raises(UsageError):
        units.parse_range(text)


@pytest.mark.parametrize(
    ("ns", "expected"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1234, "1.23 us"),
        (45_678, "45.7 us"),
        (2_000_000, "2 ms"),
        (3_456_000_000, "3.46 s"),
        (123_456_000_000_000, "123456 s"),
        (9_994, "9.99 us"),
        (9_996, "10.0 us"),
        (99_940, "99.9 us"),
        (99_960, "100 us"),
        (999_499, "999 us"),
        (999_600, "1.00 ms"),
        (999_950_000, "1.00 s"),
        (-99_960, "-100 us"),
    ],
)
def test_times_have_three_digits(ns: int, expected: str) -> None:
    """The unit is the largest that leaves a number of at least one, also after rounding."""
    assert units.format_ns(ns) == expected


def test_bytes_and_counts() -> None:
    """Bytes in binary units, counts with their thousands apart."""
    assert units.format_bytes(512) == "512 B"
    assert units.format_bytes(509 * 4096) == "1.99 MiB"
    assert units.format_bytes(5 << 40) == "5 TiB"
    assert units.format_count(200_003) == "200,003"

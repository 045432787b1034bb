# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of ELF files, of files that lie, and of those that are none."""

import random
from pathlib import Path

import pytest
from elf_files import FUNCTION, OBJECT, elf_of

from mptrace.host import elf

TOUCH = elf_of(
    [
        (b"main", 0x401100, 0x40, FUNCTION),
        (b"touch", 0x401000, 0x80, FUNCTION),
        (b"counter", 0x401090, 8, OBJECT),
        (b"no_size", 0x4010A0, 0, FUNCTION),
    ]
)


def read(path: Path, content: bytes) -> elf.Functions | None:
    """What is found in a file of that content."""
    path.write_bytes(content)
    with path.open("rb") as file:
        return elf.functions(file.fileno())


@pytest.mark.parametrize(
    ("offset", "found"),
    [
        (0x1000, (b"touch", 0)),
        (0x107F, (b"touch", 0x7F)),
        (0x1080, None),  # between two functions
        (0x1090, None),  # data
        (0x10A0, None),  # nobody says how long that function is
        (0x1100, (b"main", 0)),
        (0x113F, (b"main", 0x3F)),
        (0x1140, None),
        (0x0FFF, None),  # not loaded
        (0x3000, None),
    ],
)
def test_a_place_in_the_file_has_its_function(
    tmp_path: Path, offset: int, found: tuple[bytes, int] | None
) -> None:
    """By the segment that loads it and the function that has the byte, and by no other."""
    functions = read(tmp_path / "touch", TOUCH)
    assert functions is not None
    assert functions.at(offset) == found


def test_dynamic_symbols_do_where_there_are_no_others(tmp_path: Path) -> None:
    """As in a stripped library."""
    functions = read(tmp_path / "x", elf_of([(b"read", 0x401000, 16, FUNCTION)], kind=11))
    assert functions is not None
    assert functions.at(0x1004) == (b"read", 4)


def test_a_file_without_symbols_has_no_names(tmp_path: Path) -> None:
    """It is a good file all the same."""
    functions = read(tmp_path / "x", elf_of([], kind=7))
    assert functions is not None
    assert functions.at(0x1000) is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, b"\x7fELF\x01\x01" * 20])
def test_another_kind_of_file_has_no_functions(tmp_path: Path, content: bytes) -> None:
    """Scripts, 32-bit files, empty ones."""
    assert read(tmp_path / "x", content) is None


def test_a_file_that_was_cut_off_has_no_functions(tmp_path: Path) -> None:
    """Wherever: its tables end behind its end."""
    for size in (len(TOUCH) - 1, len(TOUCH) - 192, 0x3000, 64, 63):
        assert read(tmp_path / "x", TOUCH[:size]) is None


def test_a_file_that_lies_does_no_harm(tmp_path: Path) -> None:
    """Of 997 files with some bytes replaced each has names, none, or is no file at all."""
    random_ = random.Random(23)
    places = [*range(120), *range(0x3000, len(TOUCH))]
    asked = answered = 0
    for _ in range(997):
        content = bytearray(TOUCH)
        for at in random_.sample(places, 5):
            content[at] = random_.choice((0, 1, 0x7F, 0xFF))
        functions = read(tmp_path / "x", bytes(content))
        asked += 1
        if functions is not None:
            for offset in (0, 0x1000, 0x1100, 1 << 40):
                found = functions.at(offset)
                assert found is None or (found[0] and found[1] >= 0)
            answered += 1
    assert asked == 997
    assert 0 < answered < asked


def test_a_table_that_claims_too_much_is_not_read(tmp_path: Path) -> None:
    """A sparse file can be of any size."""
    content = bytearray(TOUCH)
    at = len(TOUCH) - 128 + 32
    content[at : at + 8] = ((1 << 28) + 24).to_bytes(8, "little")
    path = tmp_path / "x"
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.truncate(1 << 30)
        assert elf.functions(file.fileno()) is None

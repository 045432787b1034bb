# SPDX-License-Identifier: GPL-2.0-or-later
"""Variables of the kernel, read from a kcore of a file."""

import struct
from pathlib import Path

import pytest

from mptrace.host.names import Names

VARIABLE, SEGMENT = 0xFFFFFFFF82A00010, 0xFFFFFFFF82A00000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A /proc with one variable in the second segment of its kcore."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kallsyms").write_text(
        f"ffffffff81000000 T _text\n{VARIABLE:016x} D vmemmap_base\n"
        f"{SEGMENT + 0x1000:016x} D beyond\n"
    )
    header = bytearray(64)
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 2)
    note = struct.pack("<IIQQQQQQ", 4, 0, 0, 0, 0, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 256, SEGMENT, 0, 32, 32, 4096)
    data = bytes(header) + note + load
    word = struct.pack("<Q", 0xFFFFEA0000000000)
    (tmp_path / "proc/kcore").write_bytes(data.ljust(256, b"\0") + bytes(16) + word + bytes(8))
    return tmp_path


def test_a_variable_is_read_from_kcore(root: Path) -> None:
    """Through the segment that has its address."""
    assert Names(root).word("vmemmap_base") == 0xFFFFEA0000000000


@pytest.mark.parametrize("name", ["beyond", "_text", "missing"])
def test_what_is_no_readable_variable_has_no_value(root: Path, name: str) -> None:
    """An address in no segment, a function, a name that is not there."""
    assert Names(root).word(name) is None


def test_without_kcore_there_is_no_value(root: Path) -> None:
    """As under lockdown."""
    (root / "proc/kcore").unlink()
    assert Names(root).word("vmemmap_base") is None

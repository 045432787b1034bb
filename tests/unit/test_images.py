# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process has mapped where, by a /proc made of files; files that are not what they seem."""

import os
from pathlib import Path

import pytest
from elf_files import FUNCTION, elf_of

from mptrace.host import images
from mptrace.host.images import Files, Gone, Image, UserFunction, image_of

PID, BEGIN = 23, 0x7FFC0000
MAPS = """\
00401000-00403000 r-xp 00001000 08:01 11 /opt/my server;\\012 (deleted)
00500000-00501000 rw-p 00000000 00:00 0 [heap]
00600000-00601000 r-xp 00000000 00:05 12 /dev/odd
"""
STAT = "23 (a) b) S " + " ".join(["1"] * 24) + f" {BEGIN} 0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A process that maps a program of two functions, and a FIFO."""
    links = tmp_path / "proc/23/map_files"
    links.mkdir(parents=True)
    (tmp_path / "proc/23/maps").write_text(MAPS)
    (tmp_path / "proc/23/stat").write_text(STAT)
    program = tmp_path / "program"
    symbols = [(b"touch", 0x401000, 0x80, FUNCTION), (b"main", 0x401080, 0x40, FUNCTION)]
    program.write_bytes(elf_of(symbols))
    (links / "401000-403000").symlink_to(program)
    os.mkfifo(tmp_path / "fifo")
    (links / "600000-601000").symlink_to(tmp_path / "fifo")
    return tmp_path


def image(root: Path, *addresses: int, files: Files | None = None) -> Image:
    return image_of(PID, PID, BEGIN, addresses, files or Files(), root)


def test_an_address_has_its_function(root: Path) -> None:
    """Where a call returns to, the byte before it counts: there the call was."""
    found = image(root, 0x401080)
    path = b"/opt/my server;\\012 (deleted)"
    assert found.at(0x401080, is_next=False) == UserFunction(path, b"main", 0)
    assert found.at(0x401080, is_next=True) == UserFunction(path, b"touch", 0x80)


def test_without_a_symbol_it_has_file_and_offset(root: Path) -> None:
    """Of memory without a file the offset in its mapping; where nothing is mapped, nothing."""
    found = image(root, 0x401200, 0x500023)
    assert found.at(0x401200, is_next=False) == UserFunction(
        b"/opt/my server;\\012 (deleted)", b"", 0x1200
    )
    assert found.at(0x500023, is_next=True) == UserFunction(b"[heap]", b"", 0x23)
    assert found.at(0x403000, is_next=False) is None
    assert found.at(0, is_next=False) is None


def test_only_regular_files_are_opened(root: Path) -> None:
    """To open another kind may wait, or do something."""
    found = image(root, 0x600010)
    assert found.has([0x600010])
    assert found.at(0x600010, is_next=False) == UserFunction(b"/dev/odd", b"", 0x10)


def test_it_knows_what_it_was_not_asked_for(root: Path) -> None:
    """A file at another address, or a new mapping: the process has to be looked at again."""
    found = image(root, 0x500000)
    assert found.has([0x500000])
    assert not found.has([0x401000])
    assert not found.has([0x700000])


def test_another_program_and_one_that_ended_are_told(root: Path) -> None:
    """By where the stack of the program begins, and by what /proc no longer has."""
    with pytest.raises(Gone, match="exec"):
        image_of(PID, PID, BEGIN + 16, [], Files(), root)
    (root / "proc/23/stat").write_text(STAT.replace(f"{BEGIN}", "0"))
    with pytest.raises(Gone, match="ended"):
        image(root)
    with pytest.raises(Gone, match="ended"):
        image_of(24, 25, BEGIN, [], Files(), root)
    (root / "proc/23/maps").write_text("")
    with pytest.raises(Gone, match="ended"):
        image(root)


def test_a_process_may_go_on_without_its_first_thread(root: Path) -> None:
    """Then the thread is asked whose stack it was."""
    (root / "proc/22").mkdir()
    (root / "proc/22/maps").write_text("")
    assert image_of(22, PID, BEGIN, [0x401000], Files(), root).has([0x401000])


def test_a_file_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever maps it; another file in its place is another."""
    read = []
    monkeypatch.setattr(images.elf, "functions", read.append)
    files = Files()
    for _ in range(3):
        image(root, 0x401000, files=files).at(0x401000, is_next=False)
    assert len(read) == 1
    (root / "program").write_bytes(elf_of([]) + b"more")
    image(root, 0x401000, files=files).at(0x401000, is_next=False)
    assert len(read) == 2


def test_few_files_are_open_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not read yet; beyond the bound there are no names."""
    monkeypatch.setattr(images, "_MOST_OPEN", 0)
    found = image(root, 0x401000)
    assert found.at(0x401000, is_next=False) == UserFunction(
        b"/opt/my server;\\012 (deleted)", b"", 0x1000
    )
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(images, "_MOST_OPEN", 1)
    files = Files()
    image(root, 0x401000, files=files)
    assert len(set(os.listdir("/proc/self/fd")) - before) == 1
    files.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_functions_of_few_files_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that was dropped an image says that it has to look again."""
    monkeypatch.setattr(images, "_MOST_KNOWN", 1)
    files = Files()
    found = image(root, 0x401000, files=files)
    found.at(0x401000, is_next=False)
    assert found.has([0x401000])
    other = root / "other"
    other.write_bytes(elf_of([]))
    number = files.hold(other)
    assert number is not None
    assert files.functions(number) is not None
    assert not found.has([0x401000])
    assert found.at(0x401000, is_next=False) == UserFunction(
        b"/opt/my server;\\012 (deleted)", b"", 0x1000
    )

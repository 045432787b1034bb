# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a process's pages are: counted, rendered, and compared with numa_maps."""

import ctypes
import errno
import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mptrace import driver
from mptrace.cli.where import command
from mptrace.driving import address_space
from mptrace.driving.address_space import Mapping, Pagemap
from mptrace.driving.places import Place, Where
from mptrace.driving.where import where
from mptrace.errors import TargetError, UsageError
from mptrace.reporting.text.where import render_where

PAGE = driver.PAGE_SIZE
PAGES = 23

SMAPS = """\
559f00000000-559f00002000 r-xp 00001000 fe:00 1234                       /usr/bin/a program
Size:                  8 kB
Rss:                   4 kB
Swap:                  8 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Rss:                   0 kB
Private_Hugetlb:    2048 kB
VmFlags: rd mr de ht
7fff00000000-7fff00004000 r--p 00000000 00:00 0                          [vvar]
Rss:                   0 kB
VmFlags: rd mr pf io de dd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Rss:                   0 kB
"""


@pytest.fixture(name="sparse")
def _sparse() -> Iterator[int]:
    """1 TiB of reserved addresses of ours with 23 touched pages in its middle."""
    size = 1 << 40
    reserve = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    base = driver.map_memory(size, reserve)
    driver.advise(base, size, mmap.MADV_NOHUGEPAGE)
    middle = base + (size >> 1)
    touched = np.ctypeslib.as_array((ctypes.c_uint8 * (PAGES * PAGE)).from_address(middle))
    touched[::PAGE] = 1
    yield base
    driver.unmap(base, size)


def _mapping(base: int) -> Mapping:
    return next(found for found in address_space.mappings(os.getpid()) if found.start == base)


def test_smaps_is_read_with_names_that_have_blanks(tmp_path: Path) -> None:
    """Resident are Rss, Swap and hugetlb; [vsyscall] belongs to nobody."""
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/smaps").write_text(SMAPS)
    assert address_space.mappings(5, root=tmp_path) == [
        Mapping(0x559F00000000, 0x559F00002000, "r-xp", "/usr/bin/a program", 12 << 10),
        Mapping(0x7F0000000000, 0x7F0000400000, "rw-p", "", 2 << 20),
        Mapping(0x7FFF00000000, 0x7FFF00004000, "r--p", "[vvar]", 0, raw_frames=True),
    ]


def test_a_process_without_mappings_is_a_target_error(tmp_path: Path) -> None:
    """Kernel threads have an empty file."""
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/smaps").write_text("")
    with pytest.raises(TargetError, match="no memory of its own"):
        address_space.mappings(5, root=tmp_path)


def test_ranges_cut_mappings_to_whole_pages() -> None:
    """What lies outside of every mapping is dropped."""
    found = [Mapping(0x1000, 0x5000, "rw-p", "", 0), Mapping(0x9000, 0xA000, "rw-p", "", 0)]
    parts = address_space.clip(found, ((0x1FFF, 0x2001), (0x4000, 0x9000)))
    assert [(part.start, part.end) for part in parts] == [(0x1000, 0x3000), (0x4000, 0x5000)]


def test_addresses_come_in_batches() -> None:
    """Batches cut through ranges, and hold each page once."""
    ranges = np.array([[0x1000, 0x4000], [0x6000, 0x7000], [0x9000, 0xB000]])
    batches = [batch.tolist() for batch in address_space.addresses_in(ranges, 4)]
    assert batches == [[0x1000, 0x2000, 0x3000, 0x6000], [0x9000, 0xA000]]
    assert list(address_space.addresses_in(np.empty((0, 2), np.int64), 4)) == []


@pytest.mark.parametrize("scan", [True, False])
def test_a_terabyte_of_reserved_addresses_is_skipped(sparse: int, scan: bool) -> None:
    """Both ways find the 23 pages in its middle, and only them."""
    with Pagemap(os.getpid(), scan=scan) as pagemap:
        parts = list(pagemap.present(_mapping(sparse)))
    ranges = np.concatenate([ranges for _, ranges in parts])
    addresses = np.concatenate(list(address_space.addresses_in(ranges, 1000)))
    middle = sparse + (1 << 39)
    assert addresses.tolist() == [middle + i * PAGE for i in range(PAGES)]
    assert parts[-1][0] == sparse + (1 << 40)


def test_a_large_mapping_with_nothing_resident_is_not_read() -> None:
    """Without PAGEMAP_SCAN its size in smaps decides."""
    empty = Mapping(1 << 40, 1 << 46, "---p", "", 0)
    with Pagemap(os.getpid(), scan=False) as pagemap:
        assert [(end, ranges.size) for end, ranges in pagemap.present(empty)] == [(1 << 46, 0)]


def test_every_page_of_raw_frames_is_asked_about() -> None:
    """Pagemap shows none of them; up to 4 GiB, what lies beyond is not looked at."""
    device = Mapping(1 << 40, (1 << 40) + (1 << 33), "rw-s", "/dev/x", 0, raw_frames=True)
    with Pagemap(os.getpid()) as pagemap:
        ((end, ranges),) = pagemap.present(device)
    assert end == (1 << 40) + (1 << 32)
    assert ranges.tolist() == [[1 << 40, end]]


def test_what_is_too_large_to_read_is_counted_as_unread(
    sparse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never silently as absent."""
    monkeypatch.setattr(Pagemap, "_can_scan", lambda _: False)
    monkeypatch.setattr(address_space, "MAX_READ_PAGES", 1 << 21)
    (place,) = where(os.getpid(), ((sparse, sparse + (1 << 40)),)).mappings
    assert (place.absent, place.unread) == (1 << 21, (1 << 28) - (1 << 21))
    assert not place.nodes


def test_counts_are_those_of_numa_maps(sparse: int) -> None:
    """Every mapping of this process whose pages are all of one kind there."""
    told: dict[int, dict[int, int]] = {}
    for line in Path("/proc/self/numa_maps").read_text().splitlines():
        start = int(line.split()[0], 16)
        told[start] = {int(n): int(c) for n, c in re.findall(r" N(\d+)=(\d+)", line)}
    answer = where(os.getpid(), ((sparse, sparse + (1 << 40)),))
    assert answer.mappings[0].nodes == told[sparse]
    assert sum(told[sparse].values()) == PAGES


def test_the_states_are_what_the_kernel_says_of_every_page(sparse: int) -> None:
    """Absent pages are asked for by one of them: a query of each gives the same counts."""
    middle = sparse + (1 << 39)
    driver.advise(middle, 5 * PAGE, mmap.MADV_DONTNEED)
    window = (middle - 5 * PAGE, middle + (PAGES + 5) * PAGE)
    (place,) = where(os.getpid(), (window,)).mappings
    status = driver.query(0, np.arange(*window, PAGE).astype(np.uint64))
    expected: dict[str, int] = {}
    for value in status[status < 0].tolist():
        name = errno.errorcode[-value]
        expected[name] = expected.get(name, 0) + 1
    assert place.states == expected
    assert place.absent == 15
    assert sum(place.nodes.values()) == PAGES - 5


def _answer(nids: tuple[int, ...]) -> Where:
    counts = {nid: 509 + nid for nid in nids}
    long_name = "/usr/lib/x86_64-linux-gnu/" + "very-" * 20 + "long.so.6"
    return Where(
        5,
        "a program",
        nids,
        4096,
        (
            Place(0x559F00000000, 0x559F00002000, "r-xp", long_name, 2, counts, {"ENOENT": 23}, 23),
            Place(0x7F0000000000, 0x7F0000400000, "---p", "", 1024, {}, {"EFAULT": 1024}, 1024),
            Place(0x7FFF00000000, 0x7FFF00004000, "rw-p", "[stack]", 4, {nids[-1]: 4}),
        ),
    )


@pytest.mark.parametrize("nids", [(0,), (0, 1), (0, 1, 2, 3), tuple(range(5))])
def test_the_table_fits_80_columns(nids: tuple[int, ...]) -> None:
    """Names are cut, counts are not."""
    text = render_where(_answer(nids))
    assert max(map(len, text.splitlines())) <= 80
    assert "long.so.6" in text
    assert "not shown: 1" in text


def test_the_table_of_two_nodes() -> None:
    """Golden text; after a change of the layout print render_where(_answer((0, 1)))."""
    assert render_where(_answer((0, 1))) == GOLDEN


GOLDEN = """\
process 5 (a program), pages of 4096 bytes
     address    N0    N1    EFAULT    ENOENT  mapping
559f00000000   509   510         -        23  r-xp ...y-very-very-very-long.so.6
7fff00000000     -     4         -         -  rw-p [stack]
               509   514      1024        23  total
mappings without a page on a node, not shown: 1
EFAULT: zero page, or never touched (anonymous memory before 6.12)
ENOENT: no page present: never touched, swapped out, or being migrated"""


def test_json_has_every_mapping_and_the_total() -> None:
    """Of a process that isn't us."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout
        child.stdout.readline()
        result = CliRunner().invoke(command, ["-p", str(child.pid), "--json"])
        child.kill()
    answer = json.loads(result.stdout)
    assert answer["pid"] == child.pid
    assert {place["name"] for place in answer["mappings"]} >= {"[stack]", "[heap]"}
    total = sum(sum(place["nodes"].values()) for place in answer["mappings"])
    assert sum(answer["total"]["nodes"].values()) == total > 0
    for place in answer["mappings"]:
        counted = sum(place["nodes"].values()) + sum(place["states"].values())
        assert counted + place["unread"] == place["pages"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["-p", str(1 << 30)], TargetError, "does not exist"),
        (["-p", "2"], TargetError, "no memory of its own"),
        (["-p", str(os.getpid()), "x"], UsageError, "'x' is not an address range"),
    ],
)
def test_errors_are_of_the_family(
    arguments: list[str], error: type[Exception], message: str
) -> None:
    """A missing process, a kernel thread, a malformed range."""
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, error)
    assert re.search(message, str(result.exception))


def test_a_name_that_is_no_text() -> None:
    """A process may call itself anything; the report shows what can be read of it."""
    name = Path(f"/proc/self/task/{os.getpid()}/comm")
    before = name.read_bytes()
    name.write_bytes(b"a\xffb")
    try:
        assert where(os.getpid()).comm == "a\ufffdb"
    finally:
        name.write_bytes(before.rstrip(b"\n"))

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session by tracepoints says that it can't see, and who threads are."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import SERIES, bytes_of, comm, formats_of, task

from mptrace.host.facts import HostFacts, Node, NodeRanges
from mptrace.host.page_nodes import read_node_ranges
from mptrace.host.processes import Processes
from mptrace.recording.layouts import MIGRATION, PROCESS
from mptrace.reporting.numbers.sums import span
from mptrace.tracing.tracepoints.perf_records import split
from mptrace.tracing.tracepoints.threads import Identity, Threads, children
from mptrace.tracing.tracepoints.tier import Kernel, first_meta, unseen


def kernel(series: str = "6.12") -> Kernel:
    """That kernel, with all tracepoints."""
    formats = formats_of(series)
    end = formats["migrate:mm_migrate_pages"]
    return Kernel("x", "x86_64", 4096, end.symbols("reason"), end.symbols("mode"), formats)


@pytest.mark.parametrize("series", SERIES)
def test_meta_names_reasons_as_btf_does(series: str) -> None:
    """As a session with BPF names them: facts of the same kernel are the judge."""
    from recorded_facts import facts_of

    facts = facts_of(series)
    host = HostFacts((Node(0, (0, 1), 1 << 30, 1 << 29, (10,)),), "KVM", False)
    meta = first_meta(kernel(series), host, {"wall_ns": 1, "monotonic_ns": 2}, "all")
    assert meta["reasons"] == {str(n): name for n, name in facts.migrate_reasons.items()}
    assert set(meta["modes"].items()) <= {(str(n), m) for n, m in facts.migrate_modes.items()}
    assert (meta["tier"], meta["kernel"]["page_size"]) == ("tracepoints", 4096)
    states = {row["phase"]: row["state"] for row in meta["coverage"]}
    assert states["migration"] == states["dark"] == "unproved"
    assert states["lookup"] == states["isolate"] == states["move"] == "missing"
    assert kernel(series).call_reason == 3


def test_what_a_kernel_lacks_is_said_with_the_reason() -> None:
    """Tracepoints that are not there: what can't be seen without them, once."""
    whole = kernel()
    assert not [text for text in unseen(whole) if "ENOENT" in text]
    gaps = {"migrate:set_migration_pte": "ENOENT", "migrate:remove_migration_pte": "ENOENT"}
    some = {name: f for name, f in whole.formats.items() if name not in gaps}
    poor = replace(whole, gaps=gaps, formats=some)
    (sentence,) = [text for text in unseen(poor) if "ENOENT" in text]
    assert sentence.startswith("which pages a migration moved")
    assert "migrate:set_migration_pte: ENOENT; migrate:remove_migration_pte: ENOENT" in sentence
    assert not poor.decodes_pages


@pytest.mark.parametrize("scope", ["all", "pids"])
def test_that_mptraces_own_pages_are_counted_is_said(scope: str) -> None:
    """No tracepoint tells an owner: they are in the sums where others move them."""
    (sentence,) = [text for text in unseen(kernel(), scope) if "mptrace's own pages" in text]
    assert "they are in the sums if others move them" in sentence


def test_another_architecture_reads_no_page_tables() -> None:
    """Migrations are there, pages are not, and that is said."""
    arm = replace(kernel(), machine="aarch64")
    assert not arm.decodes_pages
    assert any("aarch64" in text for text in unseen(arm))
    assert not any("aarch64" in text for text in unseen(kernel()))


def test_what_only_the_session_knows_is_said() -> None:
    """A scope that can't see owners, entries outside migrations, CPUs that came later."""
    plain = unseen(kernel())
    told = unseen(kernel(), "pids", outside=512, cpus=(4, 5))
    extra = [text for text in told if text not in plain]
    assert len(extra) == 3
    assert "by others" in extra[0]
    assert extra[1].startswith("512 page table entries")
    assert "4, 5" in extra[2]


def test_nodes_of_frames_are_read_from_proc_and_sys(tmp_path: Path) -> None:
    """Spans of zones with pages, and memory blocks with their nodes."""
    zones = "Node 0, zone   DMA\n  pages free 3\n        spanned  {}\n  start_pfn:           {}\n"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/zoneinfo").write_text(
        zones.format(4095, 1) + zones.format(0, 0) + zones.format(10, 5000).replace("e 0", "e 1")
    )
    blocks = tmp_path / "sys/devices/system/memory"
    for block, nodes in (("memory0", ("node0",)), ("memory9", ("node0", "node1"))):
        for node in nodes:
            (blocks / block / node).mkdir(parents=True)
    (blocks / "block_size_bytes").write_text("8000000\n")
    assert read_node_ranges(tmp_path) == NodeRanges(
        ((1, 4096, 0), (5000, 5010, 1)), 32768, {0: frozenset({0}), 9: frozenset({0, 1})}
    )
    assert read_node_ranges(tmp_path / "nothing") == NodeRanges((), 0, {})


def proc(root: Path, tid: int, name: str, flags: int = 0) -> None:
    """A process of one thread in a /proc of its own."""
    place = root / f"proc/{tid}/task/{tid}"
    place.mkdir(parents=True)
    (place / "stat").write_text(f"{tid} ({name}) S 1 1 1 0 -1 {flags} 0 0")
    (root / f"proc/{tid}/comm").write_text(name + "\n")
    (root / f"proc/{tid}/cgroup").write_text("0::/\n")


def tasks(*records: bytes) -> np.ndarray:
    """TASK rows of records."""
    found: np.ndarray = split(bytes_of(*records), 0)[2]
    return found


def test_who_a_thread_is(tmp_path: Path) -> None:
    """By /proc while it is there; a name with brackets; the kernel's threads by their flag."""
    proc(tmp_path, 31, "kcompactd0", 0x208040)
    proc(tmp_path, 32, "a (b) c")
    threads = Threads(Processes(tmp_path), tmp_path)
    assert threads.identity(31, 31) == Identity("kcompactd0", True)
    assert threads.identity(32, 32) == Identity("a (b) c", False)
    assert threads.identity(33, 33) == Identity("", False)


def test_a_thread_that_is_gone_has_the_name_that_the_kernel_told(tmp_path: Path) -> None:
    """Forked, named, ended before anybody asked: still known, until its events are through."""
    threads = Threads(Processes(tmp_path), tmp_path)
    told = tasks(comm(1, 30, "sh"), task(7, 2, 31, 30), task(7, 3, 32, 30), comm(4, 32, "migspeed"))
    threads.note(told)
    assert threads.identity(31, 31).comm == "sh"
    assert threads.identity(32, 32).comm == "migspeed"
    (row,) = threads.meet(np.array([32], np.uint32))
    assert (row["tgid"], row["comm"]) == (32, b"migspeed")
    threads.forget(tasks(task(4, 9, 32, 30)))
    assert threads.identity(32, 32).comm == ""


def test_what_was_known_of_a_process_stays_when_it_has_ended(tmp_path: Path) -> None:
    """Its user and cgroup, by which its last events are still told to be somebody's."""
    proc(tmp_path, 31, "target")
    (tmp_path / "proc/31/status").write_text("Uid:\t1000\t1000\t1000\t1000\n")
    processes = Processes(tmp_path)
    threads = Threads(processes, tmp_path)
    threads.meet(np.array([31], np.uint32))
    known = threads.uids[31], threads.cgroup_ids[31]
    assert known[0] == 1000
    shutil.rmtree(tmp_path / "proc/31")
    processes.forget()
    threads.meet(np.array([31], np.uint32))
    assert (threads.uids[31], threads.cgroup_ids[31]) == known


def test_a_process_is_given_once_and_as_it_was_when_it_was_met(tmp_path: Path) -> None:
    """To a recording that has a row of it, however much later; one that is gone keeps its name."""
    proc(tmp_path, 31, "target")
    proc(tmp_path, 32, "stranger")
    processes = Processes(tmp_path)
    threads = Threads(processes, tmp_path)
    threads.meet(np.array([31, 32], np.uint32))
    (tmp_path / "proc/31/comm").unlink()
    processes.forget()
    threads.meet(np.array([31], np.uint32))
    rows = threads.rows_of(np.array([0, 31, 31, 99], np.uint32))
    assert rows.dtype == PROCESS
    assert [(row["tgid"], row["comm"]) for row in rows] == [(31, b"target")]
    assert threads.rows_of(np.array([31], np.uint32)).size == 0
    assert threads.rows_of(np.array([32], np.uint32))["comm"].tolist() == [b"stranger"]


def test_descendants_are_followed() -> None:
    """Children and theirs, of those asked for alone."""
    born = tasks(task(7, 1, 31, 30), task(7, 2, 41, 40), task(7, 3, 32, 31))
    assert children(born, {30}) == {31, 32}
    assert children(born, {99}) == set()


def test_cgroups_are_those_above_too(tmp_path: Path) -> None:
    """A process of a cgroup is one of each cgroup above it, and of no other."""
    mount = tmp_path / "sys/fs/cgroup"
    ids = {}
    for place in ("", "a", "a/b", "c"):
        (mount / place).mkdir(parents=True, exist_ok=True)
        (mount / place / "cgroup.procs").write_text("")
        ids[place] = (mount / place).stat().st_ino
    (mount / "cgroup.controllers").write_text("memory\n")
    proc(tmp_path, 31, "worker")
    (tmp_path / "proc/31/cgroup").write_text("0::/a/b\n")
    threads = Threads(Processes(tmp_path), tmp_path)
    threads.meet(np.array([31, 31], np.uint32))
    assert threads.cgroups_of(31) == {ids[""], ids["a"], ids["a/b"]}
    assert threads.cgroups_of(32) == frozenset()


def test_what_has_no_beginning_takes_no_time() -> None:
    """A kernel that does not say when a migration begins: its time is no time since boot."""
    rows = np.zeros(3, MIGRATION)
    rows["enter_ns"], rows["exit_ns"] = [0, 10, 10], [10**15, 0, 17]
    assert span(rows, "enter_ns", "exit_ns") == 7

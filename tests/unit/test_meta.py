# SPDX-License-Identifier: GPL-2.0-or-later
"""What meta.json may say, key by key; and what is said of one that says something else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import others
import pytest
import recorded
from samples import formats_of

from mptrace.driving.workloads import Workload
from mptrace.errors import RecordingError
from mptrace.host.facts import HostFacts, Node
from mptrace.recording.layouts import MAX_ENTRIES
from mptrace.recording.meta import Cost, Coverage, Instant, Meta, PartOf, RecordedNode
from mptrace.recording.reader import Recording
from mptrace.recording.shapes import SHAPES, MetaError, check, parse
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions.request import Wanted, WantedFilters, meta_of
from mptrace.tracing.plan.scope import Filters, Scope
from mptrace.tracing.tracepoints.tier import Kernel, first_meta

#: Everything that a session writes: with a driver, for everybody, for a command, by tracepoints.
WHOLE: dict[str, Any] = {
    **others.META,
    **recorded.META,
    "format_version": 3,
    "complete": True,
    "settings": {"thp": "madvise"},
    "counted": {"cpu": "QEMU TCG CPU", "string_moves": "erms"},
    "modes": others.META["modes"],
    "cgroups": {"77": "/system.slice"},
    "own": [4711, 4712],
    "stacks": True,
    "rotation": {"number": 3, "of": "night.data"},
    "session": {"wall_ns": 1, "monotonic_ns": 2},
    "boundary_ns": 3,
    "mappings_gap": "",
    "last_part": True,
    "end_reason": "the disk is full",
    "tier": "tracepoints",
    "detail": "outcomes",
    "tier_reason": "no BTF",
    "unseen": ["who waited"],
    "symbols": {"0xffffffff81000000": "ext4_aops"},
    "parts": {"calls": 1},
    "recorder": {"cpu_ns": 7, "wall_ns": 70, "cpus": 4, "folios": 1},
    "workload": Workload().to_dict(),
    "scope": {
        "kind": "command",
        "pids": [4711],
        "uid": 0,
        "cgroup": "/a",
        "command": ["make"],
        "as": "me",
        "exit_status": 0,
    },
    "filters": {"reasons": ["compaction"], "from": [0], "to": [1], "min_ns": 5, "failed": False},
}
#: A value of each type that JSON has, and numbers that no column holds.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1 << 63,
    -(1 << 80),
    10**400,
    0.5,
    "",
    "x",
    [],
    [1],
    ["a"],
    [["a"]],
    [None],
    {},
    {"a": 1},
    {"1": "a"},
    {"a": {"b": []}},
)


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """A copy of a JSON value with ``other`` at a place in it."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value; of a list the first and the last element."""
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, list):
        for number in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[number], (*path, number))


def test_all_that_sessions_write_is_expected() -> None:
    """Each key of every kind of session has a shape, and what is written has that shape."""
    assert set(WHOLE) == set(SHAPES)
    formats = formats_of("6.12")
    end = formats["migrate:mm_migrate_pages"]
    kernel = Kernel("x", "x86_64", 4096, end.symbols("reason"), end.symbols("mode"), formats)
    host = HostFacts((Node(0, (0, 1), 1 << 30, 1 << 29, (10,)),), "KVM", False, {"thp": "never"})
    tracepoints = first_meta(kernel, host, {"wall_ns": 1, "monotonic_ns": 2}, "all")
    asked = meta_of(Wanted(pids=(7,)), WantedFilters(min_ns=3), Scope("pids", (7,), Filters()))
    for meta in (WHOLE, recorded.META, others.META, tracepoints, asked):
        meta = json.loads(json.dumps(meta))
        assert set(meta) <= set(SHAPES)
        check(meta)


def test_the_documented_keys_are_those_with_a_shape() -> None:
    """docs/architecture.md and SHAPES name the same keys."""
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    rows = text.split("Keys of `meta.json`:")[1].split("\n\n")[1].splitlines()[2:]
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])} == set(SHAPES)


def test_a_key_may_be_absent_and_others_may_be_there() -> None:
    """Older versions write less, newer ones more, also below a key."""
    check({})
    check({"new": [{"a": 1}], "kernel": {"new": 1}, "scope": {"kind": "all", "new": []}})


def test_what_stands_for_a_key_that_is_absent() -> None:
    """Everything is unknown, the page size is most machines', and BPF read what it does now."""
    meta = Meta.of({})
    assert (meta.kernel.page_size, meta.kernel.machine) == (4096, "")
    assert meta.kernel.syscall_machine == "x86_64"
    assert (meta.format_version, meta.max_entries) == (0, MAX_ENTRIES)
    assert (meta.complete, meta.interrupted, meta.last_part) == (False, False, False)
    for key in ("started", "ended", "tier", "scope", "own", "rotation", "session", "cost"):
        assert getattr(meta, key) is None
    for key in ("nodes", "coverage", "lost", "parts", "reasons", "symbols", "cgroups", "mappings"):
        assert not getattr(meta, key)
    assert (meta.boundary_ns, meta.cost_reason) == (0, "not measured")
    nothing = {"own": None, "boundary_ns": None, "cost": {}, "cost_reason": None, "rotation": None}
    assert Meta.of(nothing) == Meta(**{**vars(meta), "raw": nothing})
    (node,) = Meta.of({"nodes": [{"nid": 3, "cpus": None}]}).nodes
    assert (node.cpus, node.has_memory) == ((), True)


def test_the_typed_value_of_everything_that_a_session_writes() -> None:
    """Numbers are numbers, times are instants, rows have their types."""
    meta = Meta.of(json.loads(json.dumps(WHOLE)))
    assert meta.kernel.machine == "x86_64"
    assert meta.nodes[0] == RecordedNode(0, (0, 1), 1 << 30)
    assert not RecordedNode(5, (), 0).has_memory
    assert meta.started == Instant(1_700_000_000 * 10**9, 5)
    assert (meta.session, meta.boundary_ns, meta.last_part) == (Instant(1, 2), 3, True)
    assert meta.rotation == PartOf((3,), "night.data")
    assert (meta.tier, meta.own) == ("tracepoints", (4711, 4712))
    assert meta.scope is not None
    assert (meta.scope.kind, meta.scope.pids) == ("command", (4711,))
    assert meta.phases["remap"] == Coverage(
        "remap", "PTE", "remove_migration_pte", "fentry", "unproved", 46, 44, "two short"
    )
    assert [c.phase for c in meta.coverage if not c.is_seen] == ["tlb_flush_batch", "remap"]
    assert (meta.reasons[3], meta.cgroups) == ("syscall", {77: "/system.slice"})
    assert meta.symbols == {0xFFFFFFFF81000000: "ext4_aops"}
    assert isinstance(meta.cost, Cost)
    assert list(meta.cost.open_ns) == WHOLE["cost"]["open_ns"]
    assert Meta.of({"lost": {"ring": None, "held": 2}}).lost == {"ring": 0, "held": 2}


def test_a_coverage_is_read_as_it_was_written() -> None:
    """A row of calibration, by way of JSON."""
    row = Coverage("unmap", "folio", "try_to_migrate", "fentry", "proved", 46, 46)
    assert Coverage.of(json.loads(json.dumps(row.to_dict()))) == row


def test_keys_of_a_newer_version_survive() -> None:
    """``raw`` is the object as it stands, below its keys too."""
    raw = {"new": [1], "kernel": {"page_size": 65536, "new": 1}}
    meta = Meta.of(raw)
    assert meta.raw == raw
    assert meta.kernel.page_size == 65536


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nodes", "x", 'nodes is "x", not a list'),
        ("nodes", [{}], "nodes[0] is an empty object, not an object with 'nid'"),
        ("nodes", [{"nid": -7}], "nodes[0].nid is -7, not a whole number from 0 to"),
        ("nodes", [{"nid": True}], "nodes[0].nid is true, not a whole number from 0 to"),
        ("settings", [1], "settings is a list of 1, not an object"),
        ("mappings", [["a"]], "mappings[0] is a list of 1, not a list of 3"),
        ("mappings", [[0, 1.5, ""]], "mappings[0][1] is 1.5, not a whole number from 0"),
        ("started", {"wall_ns": 10**400}, "started.wall_ns is a number of 1329 bits, not a"),
        ("started", [], "started is an empty list, not an object"),
        ("command", ["run", None], "command[1] is null, not text"),
        ("complete", 1, "complete is 1, not true or false"),
        ("page_flags", {"PG_a": 64}, "page_flags.PG_a is 64, not a whole number from 0 to"),
        ("symbols", {"main": "x"}, 'a key of symbols is "main", not a kernel address'),
        ("lost", {"ring": -1}, "lost.ring is -1, not a whole number from 0 to"),
        ("kernel", {"page_size": 0}, "kernel.page_size is 0, not a whole number from 1 to"),
        ("tier", "x" * 99, ""),
        ("tier", ["x"] * 99, "tier is a list of 99, not text"),
        ("hypervisor", None, "hypervisor is null, not text"),
    ],
)
def test_the_message_names_the_key_and_both(key: str, value: Any, message: str) -> None:
    """Where it is, what is there, and what was expected."""
    if not message:
        check({key: value})
        return
    with pytest.raises(MetaError) as caught:
        check({key: value})
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b'{"format_ver', "Unterminated string"),
        (b"\xff\xfe{", "codec can't decode"),
        (b"[]", "it is an empty list, not an object"),
        (b"3", "it is 3, not an object"),
        (b"[" * 100_000, "it is nested too deep"),
        (b'{"cost": NaN}', "NaN is not a number in JSON"),
        (b'{"new": -Infinity}', "-Infinity is not a number in JSON"),
        (b'{"new": 1e999}', "the number 1e999 is too large"),
        (b'{"new": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"format_version": []}', "format_version is an empty list"),
        (b'{"format_version": 3.0}', "format_version is 3.0"),
        (b'{"format_version": true}', "format_version is true"),
    ],
)
def test_what_is_no_meta_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    """Not JSON, or no object: one line that names the file."""
    with pytest.raises(MetaError, match=re.escape(message)):
        parse(content)
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(RecordingError, match=re.escape(message)) as caught:
        Recording.open(tmp_path)
    assert caught.value.message.startswith(f"can't read '{tmp_path}/meta.json': ")
    assert "\n" not in caught.value.message
    with pytest.raises(RecordingError, match="not a recording"):
        RecordingWriter(tmp_path, force=True, meta={})


def test_a_version_that_is_not_read_may_have_other_shapes(tmp_path: Path) -> None:
    """The version is judged first: the message is about it."""
    (tmp_path / "meta.json").write_text('{"format_version": 4, "nodes": {}, "tool_version": "9"}')
    with pytest.raises(RecordingError, match="format version 4") as caught:
        Recording.open(tmp_path)
    assert caught.value.hint.endswith("that wrote it (9)")


def test_no_list_of_missing_parts_is_endless(tmp_path: Path) -> None:
    """A part numbered very high, or a count of parts: some are named, the others counted."""
    (tmp_path / "meta.json").write_text('{"format_version": 3, "parts": {"calls": 999999}}')
    (tmp_path / "folios-000000999999999999.parquet").write_text("")
    missing = Recording.open(tmp_path).missing_parts
    assert missing[:2] == ("calls-000000.parquet", "calls-000001.parquet")
    assert missing[99:102] == (
        "calls-000099.parquet",
        "999899 more of calls",
        "folios-000000.parquet",
    )
    assert missing[-1] == "999999999899 more of folios"

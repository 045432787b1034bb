# SPDX-License-Identifier: GPL-2.0-or-later
"""What --from, --to, --pid, --path, --node, --failed and --top leave of real recordings.

A reader that knows pyarrow alone (plain_reader) says which rows these are.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from plain_reader import Plain

from mptrace.cli import main
from mptrace.outcomes.chosen import choose
from mptrace.outcomes.correlate import correlate
from mptrace.outcomes.dump import dumped_table
from mptrace.outcomes.fates import fates
from mptrace.outcomes.left_out import chosen_calls
from mptrace.outcomes.own import own_of
from mptrace.outcomes.paths import PATHS
from mptrace.outcomes.selection import Selection, paths_named
from mptrace.recording.layouts import SYSCALL_UNKNOWN
from mptrace.recording.moments import parse_moment, resolve
from mptrace.recording.reader import Recording
from mptrace.recording.when import Clock

HERE = Path(__file__).parent
RECORDINGS = {name: HERE / "recordings" / name for name in ("run", "record", "stalls", "lost")} | {
    "conform": HERE.parent / "fixtures" / "conform-6.12" / "recording"
}
COMMANDS = ("report", "explain", "dump")
OPEN = 1 << 63


def invoke(*arguments: str) -> Result:
    """A command line."""
    return CliRunner().invoke(main, list(arguments))


def dumped(name: str, table: str, *options: str) -> list[dict[str, Any]]:
    """Rows of a table."""
    path = str(RECORDINGS[name])
    done = invoke("dump", "--table", table, "--format", "jsonl", *options, path)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def json_of(name: str, *options: str) -> dict[str, Any]:
    """The report as JSON."""
    done = invoke("report", "--json", *options, str(RECORDINGS[name]))
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def keys_of(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """These columns of rows."""
    return [tuple(row[name] for name in names) for row in rows]


def under_way(plain: Plain, first: int, last: int) -> list[dict[str, Any]]:
    """Migrations that were, or whose call was, from ``first`` until before ``last``."""
    calls = {row["call_id"]: row for row in plain.rows("calls")}
    found = []
    for row in plain.rows("migrations"):
        unit = calls.get(row["call_id"], row) if row["call_id"] else row
        if unit["enter_ns"] < last and (unit["exit_ns"] or OPEN) >= first:
            found.append(row)
    return found


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("part", [(0.0, 0.3), (0.3, 0.7), (0.7, 1.01)])
def test_a_time_keeps_what_was_under_way(name: str, part: tuple[float, float]) -> None:
    """In dump and in the report, by seconds, date and, as text, the same numbers."""
    plain = Plain(RECORDINGS[name])
    rows = plain.rows("migrations")
    start = plain.meta["started"]["monotonic_ns"]
    low, high = min(r["enter_ns"] for r in rows), max(r["exit_ns"] for r in rows)
    first, last = (low + int((high - low) * share) for share in part)
    expected = keys_of(under_way(plain, first, last), "enter_ns")
    seconds = [f"{(at - start) // 10**9}.{(at - start) % 10**9:09d}" for at in (first, last)]
    options = ("--from", seconds[0], "--to", seconds[1])
    dates = ("--from", plain.utc(first), "--to", plain.utc(last))
    for given in (options, dates):
        assert keys_of(dumped(name, "migrations", *given), "enter_ns") == expected
    numbers = json_of(name, *options)
    counted = numbers["selection"]["rows"]["migrations"]
    # conform has no mptrace's own migrations, nor the others
    assert counted == {"chosen": len(expected), "of": len(rows)}
    ids = {row["migration_id"] for row in under_way(plain, first, last)}
    assert sum(row["migrations"] for row in numbers["paths"]) == len(ids)
    text = invoke("report", *options, str(RECORDINGS[name])).stdout
    words = f"{len(expected)} of {len(rows)} migration"
    assert words in " ".join(text.split())
    assert numbers["selection"]["from"]["utc"] == plain.utc(first)
    assert "complete" not in text


def test_adjacent_ends_are_half_open() -> None:
    """What begins at the end is not in it, what ends at the start is."""
    plain = Plain(RECORDINGS["record"])
    first, second, _ = plain.rows("migrations")
    utc = plain.utc
    only = keys_of([first], "enter_ns")
    assert keys_of(dumped("record", "migrations", "--to", utc(second["enter_ns"])), "enter_ns") == (
        only
    )
    after = dumped("record", "migrations", "--from", utc(first["exit_ns"]))
    assert len(after) == 3
    after = dumped("record", "migrations", "--from", utc(first["exit_ns"] + 1))
    assert len(after) == 2


Rows = Callable[[dict[str, Any]], bool]
#: Recording, table, options, and which of its plain rows they keep.
CASES: list[tuple[str, str, tuple[str, ...], Rows]] = [
    ("stalls", "waits", ("--pid", "185"), lambda row: row["tgid"] == 185),
    ("stalls", "waits", ("--pid", "4"), lambda _row: False),
    ("stalls", "waits", ("--path", "migrate_pages"), lambda _row: True),
    ("stalls", "waits", ("--path", "compaction"), lambda _row: False),
    ("stalls", "migrations", ("--path", "syscall"), lambda _row: True),
    ("stalls", "folios", ("--pid", "187"), lambda _row: True),
    ("stalls", "folios", ("--node", "1"), lambda row: 1 in (row["src_nid"], row["dst_nid"])),
    ("stalls", "folios", ("--node", "5"), lambda _row: False),
    ("record", "folios", ("--node", "0"), lambda row: 0 in (row["src_nid"], row["dst_nid"])),
    ("record", "folios", ("--pid", "178"), lambda row: row["owner_tgid"] == 178),
    ("record", "folios", ("--failed",), lambda row: row["move_rc"] != 0),
    (
        "record",
        "folios",
        ("--failed", "--node", "1"),
        lambda row: row["move_rc"] != 0 and 1 in (row["src_nid"], row["dst_nid"]),
    ),
    ("record", "migrations", ("--path", "compaction_sysctl"), lambda _row: True),
    ("record", "migrations", ("--failed",), lambda row: row["failed"] > 0),
    ("run", "calls", ("--path", "move_pages"), lambda _row: True),
    ("run", "calls", ("--path", "mbind"), lambda _row: False),
    ("run", "calls", ("--pid", "192"), lambda _row: True),
    ("conform", "calls", ("--failed",), lambda _row: True),
]


@pytest.mark.parametrize(("name", "table", "options", "keeps"), CASES)
def test_a_filter_keeps_these_rows(
    name: str, table: str, options: tuple[str, ...], keeps: Rows
) -> None:
    """By the plain rows; row numbers and verdicts are those of the whole recording."""
    plain = Plain(RECORDINGS[name]).rows(table)
    expected = [number for number, row in enumerate(plain) if keeps(row)]
    every = dumped(name, table)
    found = dumped(name, table, *options)
    if (name, table) == ("conform", "calls"):
        assert 0 < len(found) < len(every)
    else:
        assert found == [every[number] for number in expected]
    assert all(row in every for row in found)


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize(
    "options",
    [("--node", "0"), ("--node", "1"), ("--path", "move_pages"), ("--failed",), ("--pid", "192")],
)
def test_report_explain_and_dump_agree(name: str, options: tuple[str, ...]) -> None:
    """About entries and folios that stayed, migrations, moved pages, and waits."""
    numbers = json_of(name, *options)
    every = {table: dumped(name, table, *options) for table in ("migrations", "folios", "waits")}
    others = {table: [row for row in rows if not row["own"]] for table, rows in every.items()}
    assert sum(row["migrations"] for row in numbers["paths"]) == len(others["migrations"])
    assert numbers["stalls"]["count"] == len(others["waits"])
    moved = [row for row in others["folios"] if row["outcome"] == "moved"]
    assert sum(row["folios"]["moved"] for row in numbers["paths"]) == len(moved)
    entries = [row for row in dumped(name, "entries", *options) if not row["own"]]
    outcomes = numbers["outcomes"]
    assert outcomes["failed"] == sum(row["outcome"] == "failed" for row in entries)
    assert numbers["selection"]["rows"]["entries"]["chosen"] == len(entries)
    lines = invoke("explain", "--json", *options, str(RECORDINGS[name])).stdout.splitlines()
    explained = [row for row in map(json.loads, filter(_is_json, lines)) if "entry" in row]
    stayed = [row for row in entries if row["outcome"] in ("failed", "not_attempted")]
    assert keys_of(explained, "call", "entry") == keys_of(stayed, "call", "entry")


def _is_json(line: str) -> bool:
    return line.startswith("{")


def test_what_a_filter_leaves_changes_no_verdict() -> None:
    """Outcome, cause, witnesses of each entry are those without a filter."""
    every = {(row["call"], row["entry"]): row for row in dumped("conform", "entries")}
    some = dumped("conform", "entries", "--from", "10", "--to", "60")
    assert 0 < len(some) < len(every)
    assert all(every[row["call"], row["entry"]] == row for row in some)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--from", "25:00"), "is not a time such as 06:17:05"),
        (("--from", "soon"), "is not a time such as"),
        (("--to", "-3"), "is not a time such as"),
        (("--from", "5", "--to", "3"), "--to '3' is not later than --from '5'"),
        (("--path", "nothing"), "there is no path 'nothing'"),
        (("--node", "x"), "is not a list of node numbers"),
        (("--pid", "0"), "is not a list of process numbers"),
        (("--top", "0"), "is not a whole number"),
    ],
)
def test_bad_values_leave_with_2(command: str, options: tuple[str, ...], words: str) -> None:
    """With what would be right; the same in each command."""
    done = invoke(command, *options, str(RECORDINGS["stalls"]))
    assert done.exit_code == 2
    assert words in done.output
    assert done.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("options", [("--from", "1:00", "--to", "2:00"), ("--pid", "7")])
def test_nothing_fits(command: str, options: tuple[str, ...]) -> None:
    """That is said, and what there is: times, processes, paths, nodes."""
    done = invoke(command, *options, str(RECORDINGS["stalls"]))
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    assert "0 of 1 migration, 0 of 385 folios, 0 of 13 waits" in text
    assert "nothing fits; the recording has times 2026-11-30 09:25:32.029-09:25:32.082" in text
    assert "processes toucher/187, migratepages/189; paths migrate_pages; nodes 0, 1" in text
    assert "complete" not in text


def test_times_need_a_clock() -> None:
    """Of a recording that does not say when it began, that is the error."""
    done = invoke("report", "--from", "3", str(HERE.parent / "fixtures" / "recording-v2"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "does not say when it began" in done.output


def test_so_many_rows() -> None:
    """Of each list; the rest is counted; JSON says how many it lacks."""
    assert dumped("run", "entries", "--top", "3") == dumped("run", "entries")[:3]
    text = invoke("report", "--top", "1", str(RECORDINGS["run"])).stdout
    assert "call 1 " in text
    assert "and 1 more call: mptrace dump" in text
    numbers = json_of("run", "--top", "1")
    assert numbers["selection"]["cut"]["summary.calls"] == 1
    assert len(numbers["summary"]["calls"]) == 1
    done = invoke("explain", "--all", "--top", "2", str(RECORDINGS["run"]))
    assert done.stdout.count("cause ") == 2
    assert "4 more pages not shown (--top)" in done.stderr


def at(text: str, start: str, seconds: int) -> str | None:
    """What a time means in a session of so many seconds."""
    wall = parse_moment(start).ns
    clock = Clock(
        {"wall_ns": wall, "monotonic_ns": 10**12},
        {"wall_ns": wall + seconds * 10**9, "monotonic_ns": 10**12 + seconds * 10**9},
    )
    return clock.utc(resolve(parse_moment(text), clock, "--from"))


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("23:59:58", "2026-11-29T23:59:58.000000000Z"),
        ("00:00:02.5", "2026-11-30T00:00:02.500000000Z"),
        ("23:00", "2026-11-29T23:00:00.000000000Z"),
        ("00:30", "2026-11-30T00:30:00.000000000Z"),
        ("10", "2026-11-30T00:00:00.000000000Z"),
        ("2026-11-30T01:00:01+01:00", "2026-11-30T00:00:01.000000000Z"),
        ("2026-11-29 23:59:59.123456789", "2026-11-29T23:59:59.123456789Z"),
    ],
)
def test_a_time_of_a_session_over_midnight(text: str, means: str) -> None:
    """The day on which it is in the session, or nearest to it."""
    assert at(text, "2026-11-29T23:59:50Z", 20) == means


def test_parts_of_a_session_by_their_common_name(tmp_path: Path) -> None:
    """The same rows, as of one recording."""
    for number, name in ((1, "stalls"), (2, "record")):
        part = tmp_path / f"session.{number:06d}"
        shutil.copytree(RECORDINGS[name], part)
        meta = json.loads((part / "meta.json").read_text())
        meta["rotation"] = {"number": number, "of": "session"}
        meta["started"] = json.loads((RECORDINGS["stalls"] / "meta.json").read_text())["started"]
        # an earlier recording of it was not kept
        begin = {name: ns - 20 * 10**9 for name, ns in meta["started"].items()}
        meta["session"] = begin
        (part / "meta.json").write_text(json.dumps(meta))
    path = str(tmp_path / "session")
    done = invoke("dump", "--table", "migrations", "--format", "csv", "--path", "compaction", path)
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 1 + 3
    assert "3 of 4 migrations" in done.stderr
    start = Plain(RECORDINGS["stalls"]).meta["started"]["monotonic_ns"]
    (row,) = Plain(RECORDINGS["stalls"]).rows("migrations")
    until = (row["exit_ns"] - start) / 1e9 + 1 + 20
    numbers = json.loads(invoke("report", "--json", "--to", f"{until:.3f}", path).stdout)
    assert numbers["selection"]["rows"]["migrations"] == {"chosen": 1, "of": 4}


def test_strict_asks_whether_all_is_known() -> None:
    """Rows of which nobody can say whether they belong are not clean."""
    done = invoke("report", "--strict", "--pid", "178", str(RECORDINGS["record"]))
    assert done.exit_code == 0
    # compaction moved pages whose owner was not seen
    done = invoke("report", "--strict", "--pid", "99999", str(RECORDINGS["record"]))
    assert done.exit_code == 3


@pytest.mark.parametrize("options", [("--pid", "99999"), ("--node", "7")])
def test_lost_folios_may_be_anybodys(options: tuple[str, str]) -> None:
    """A migration of whose pages most have no record is not said to be somebody else's."""
    (row,) = Plain(RECORDINGS["lost"]).rows("migrations")
    assert row["lost"] > 0
    told = json_of("lost", *options)["selection"]
    assert told["rows"]["migrations"] == {"chosen": 0, "of": 1}
    assert told["unsure"]["migrations"] == 1
    # who waited is known, not from where to where the page was going
    assert told["rows"]["waits"] == {"chosen": 0, "of": 2}
    assert told["unsure"]["waits"] == (2 if options[0] == "--node" else 0)


def test_entries_that_were_not_read_may_be_any(tmp_path: Path) -> None:
    """Beyond the bound of what is read of a call they may name any node, and have failed."""
    shutil.copytree(RECORDINGS["run"], tmp_path / "r")
    meta = json.loads((tmp_path / "r/meta.json").read_text())
    bound = 20
    meta["max_entries"] = bound
    (tmp_path / "r/meta.json").write_text(json.dumps(meta))
    calls = [row for row in Plain(RECORDINGS["run"]).rows("calls") if row["nodes_ptr"]]
    beyond = sum(max(int(row["nr_pages"]) - bound, 0) for row in calls)
    assert beyond
    for options in (("--node", "7"), ("--failed",)):
        done = invoke("report", "--json", *options, str(tmp_path / "r"))
        assert json.loads(done.stdout)["selection"]["unsure"]["entries"] >= beyond, options


def test_a_path_that_is_not_told_apart_may_be_the_one() -> None:
    """Compaction by nobody knows whom is not said to be no direct compaction."""
    tables = Recording.open(RECORDINGS["record"]).tables()
    meta = Recording.open(RECORDINGS["record"]).meta
    codes, maybe, _ = paths_named(("compaction_direct",), meta)
    assert [PATHS[code].key for code in codes] == ["compaction_direct"]
    assert [PATHS[code].key for code in maybe] == ["compaction"]
    unknown = {**tables, "migrations": tables["migrations"].copy()}
    unknown["migrations"]["syscall"] = SYSCALL_UNKNOWN
    # what writes to the sysctl asks for another mode
    unknown["migrations"]["mode"] = 0
    lone = unknown["migrations"]["call_id"] == 0
    some = Selection(names=("compaction_direct",), paths=codes, maybe=maybe)
    rows = dumped_table("migrations", unknown, meta, selection=some)
    assert rows.count + rows.unknown == int(lone.sum())


def test_a_failure_that_is_unknown_is_said_to_be_left_out() -> None:
    """Also by `dump --failed` alone, which keeps what is known to have failed."""
    path = Path(__file__).parents[1] / "fixtures/recording-v2"
    done = invoke("dump", "--table", "folios", "--failed", "--format", "csv", str(path))
    numbers = json.loads(invoke("report", "--failed", "--json", str(path)).stdout)
    unknown = numbers["selection"]["unsure"]["folios"]
    assert unknown
    assert f"left out as unknown: {unknown} folios" in done.stderr


def test_a_day_that_is_not_the_sessions_is_said() -> None:
    """A time of another year looks like one of the session otherwise."""
    done = invoke("report", "--from", "2020-01-01T10:51:00", "--to", "2020-01-01T11:00",
                  str(RECORDINGS["record"]))  # fmt: skip
    assert "only from 2020-01-01 10:51:00 to 2020-01-01 11:00:00 UTC" in done.stdout


def test_what_is_told_of_entries_stays_with_them() -> None:
    """Whether an entry's own lookup queued a folio, also where entries before it are left out."""
    data = Recording.open(RECORDINGS["conform"])
    tables, meta = data.tables(), data.meta
    every, own = correlate(tables, meta), own_of(tables, meta)
    started = Plain(RECORDINGS["conform"]).meta["started"]["monotonic_ns"]
    some = Selection(from_ns=started + 30 * 10**9)
    chosen = choose(tables, meta, some, every, fates(tables, meta), own)
    left = chosen_calls(every, tables, meta, own, chosen, whole=True)
    assert 0 < left.rows.size < every.rows.size
    queued = dict(zip(keys_in(every.rows), every.queued.tolist(), strict=True))
    assert [queued[key] for key in keys_in(left.rows)] == left.queued.tolist()
    assert len(set(left.queued.tolist())) == 2


def keys_in(rows: Any) -> list[tuple[int, int]]:
    """Call and index of each entry."""
    return list(zip(rows["call"].tolist(), rows["entry"].tolist(), strict=True))


def test_an_address_and_a_time() -> None:
    """The history of a page in that time; where it has none then, that is said."""
    path = str(RECORDINGS["stalls"])
    plain = Plain(RECORDINGS["stalls"])
    row = plain.rows("folios")[0]
    address, start = hex(row["address"]), plain.utc(row["start_ns"])
    done = invoke("explain", "--address", address, "--from", start, path)
    # the program's first page
    assert (
        f"history of {address} of toucher/187 in /srv/recordings/toucher+0x0: 1 att" in done.stdout
    )
    done = invoke("explain", "--address", "0x1000", "--from", start, path)
    assert (done.exit_code, "nothing is about a page at 0x1000" in done.stdout) == (0, True)
    done = invoke("explain", "--entry", "0:1", "--pid", "7", path)
    assert (done.exit_code, "--entry names one entry" in done.output) == (2, True)


def test_pages_that_stayed_of_a_part() -> None:
    """Of a part without any nothing is said about the rest."""
    text = invoke("explain", "--from", "22:43:39", str(RECORDINGS["run"])).stdout
    assert "of these no page stayed: 61 entries, none failed\n" in text
    assert "none left out" not in text

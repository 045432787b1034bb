# SPDX-License-Identifier: GPL-2.0-or-later
"""The first screen of real recordings: what it says, in how many lines, and that it is true.

tests/unit/recordings/make.py made the recordings.  Where the screen changes on purpose:
PYTHONPATH=. python tests/unit/test_first_screen.py
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import recorded
from click.testing import CliRunner
from others import META
from plain_reader import Plain
from test_report_others import busy

from mptrace.cli import main
from mptrace.recording.meta import Meta
from mptrace.recording.reader import Recording
from mptrace.recording.when import Clock
from mptrace.report import PARTS, answer, render
from mptrace.reporting.numbers.profile import profile
from mptrace.reporting.text.summary import LINES
from mptrace.units import format_count, format_ns

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
#: Made for the screen's sake, or real ones of everybody.
MADE = ("idle", "run", "stalls", "lost", "record")
RECORDINGS = {name: HERE / "recordings" / name for name in MADE} | {
    "conform-6.1": FIXTURES / "conform-6.1" / "recording",
    "conform-6.12": FIXTURES / "conform-6.12" / "recording",
    "recording-v2": FIXTURES / "recording-v2",
}
WIDTHS = (80, 120)
UPDATE = "PYTHONPATH=. python tests/unit/test_first_screen.py"
#: A count, a time of so many units, a time of the day, an address.
NUMBER = re.compile(
    r"(?<![\w./:+-])"
    r"(0x[0-9a-f]+|\d\d:\d\d:\d\d(?:\.\d+)?|\d[\d,.]* (?:ns|us|ms|s)\b|\d[\d,]*\b(?![\w.:/%+]))"
)


@cache
def told(name: str, *options: str, width: int = 80) -> str:
    """What `mptrace report` prints of a recording."""
    runner = CliRunner(env={"COLUMNS": str(width)})
    done = runner.invoke(main, ["report", *options, str(RECORDINGS[name])])
    assert done.exit_code == 0, done.exception or done.output
    return done.stdout


def summary(name: str) -> dict[str, Any]:
    """The numbers of the first screen, as `--json` has them."""
    found: dict[str, Any] = json.loads(told(name, "--json"))["summary"]
    return found


def plain(text: str) -> str:
    """Text in one line."""
    return " ".join(text.split())


def expected_of(name: str, width: int) -> Path:
    """Where the expected screen lies."""
    return HERE / "recordings" / f"{name}.expected" / f"screen-{width}.txt"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", RECORDINGS)
def test_the_first_screen(name: str, width: int) -> None:
    """As it was kept, in 25 lines at most, none of them wider than the terminal."""
    text = told(name, width=width)
    assert text == expected_of(name, width).read_text(), f"if it is meant: {UPDATE}"
    lines = text.splitlines()
    assert len(lines) <= LINES == 25
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("name", MADE)
def test_what_was_watched_and_is_it_whole(name: str) -> None:
    """Whom, how long, from when to when, on which kernel; then complete, or what is lost."""
    text = plain(told(name).split("\n\n")[0])
    watched = summary(name)["watched"]
    for moment in ("from", "to"):
        assert watched[moment]["utc"][11:19] in text
    assert watched["from"]["utc"][:10] in text
    assert f"UTC; {watched['kernel']}, 2 nodes" in text
    assert ("complete: nothing lost" in text) == (name != "lost")
    assert ("WARNING: lost folio_ring_full" in text) == (name == "lost")
    assert "phases proved (--coverage)" in text


def test_an_idle_session_says_so_in_one_line() -> None:
    """Below the head there is that line alone."""
    head, line, rest = told("idle").rpartition("no page was migrated, no thread was seen to wait")
    assert (line, rest) != ("", "")
    assert rest == "\n"
    assert head.splitlines()[-1].startswith("complete: ")


def test_somebody_in_trouble_is_answered() -> None:
    """Who moved whose pages, by what, when, how long; who stood still, when, for whom, at what."""
    text = plain(told("stalls"))
    (row,), (thread,) = summary("stalls")["who"], summary("stalls")["waited"]
    who = f"{row['initiator']['comm']}/{row['initiator']['tgid']}"
    assert who.startswith("migratepages/")
    (owner,) = row["owners"]["named"][:1]
    assert f"{who} {row['moved_pages']} 0 {format_ns(row['time_ns'])}" in text
    assert f"toucher/{owner['tgid']} migrate_pages(2), 0->1, {row['first']['utc'][11:23]}" in text
    assert re.search(r"; \d+ % [\w ]+, \d+ % [\w ]+ who stood still", text)
    assert f"worker/{thread['tid']} of toucher/{thread['tgid']}" in text
    assert thread["longest_start"]["utc"][11:23] in text
    assert f"for {who}: migrate_pages(2); longest at {thread['address']} in anonymous" in text
    assert "-> move in portions" in text


def test_why_pages_stayed_and_what_to_do() -> None:
    """Cause, count, first address, what lies there, the remedy; and where to read on."""
    (group,) = summary("run")["stayed"]
    text = plain(told("run"))
    assert (
        f"extra_references {group['pages']} {group['address']} anonymous of python/{group['tgid']} "
        f"on node {group['nid']} first {group['first']['utc'][11:23]}: somebody holds a reference"
    ) in text
    assert "-> let the holder go; then try again" in text
    assert "mptrace explain" in text
    assert f"{summary('run')['totals']['moved_pages']} pages moved, {group['pages']} stayed" in text


def test_losses_forbid_what_they_must() -> None:
    """Counts are the least that there were, shares of the time unknown, the kernel's count told."""
    text = plain(told("lost"))
    (row,) = summary("lost")["who"]
    assert f">= {row['moved_pages']} pages moved" in text
    assert "least numbers" in text
    assert "where the time went is unknown" in text
    assert f"the kernel itself counted {row['kernel_counted']['moved_pages']} moved" in text
    assert row["kernel_counted"]["moved_pages"] > row["moved_pages"] > 0
    assert "-> record again with a larger --buffer" in text


# ---- the numbers ---------------------------------------------------------------


def renderings(value: Any) -> set[str]:
    """All that text may make of the numbers and times of a JSON value."""
    if isinstance(value, dict):
        return set().union(*map(renderings, value.values()))
    if isinstance(value, list):
        return set().union(*map(renderings, value), {str(len(value))})
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, int):
        return {format_count(value), str(value), format_ns(value)}
    if isinstance(value, str):
        # a time, an address, the words of a cause
        found = {value[11:19], value[11:23]} if value.endswith("Z") else {value}
        return found | set(NUMBER.findall(value))
    return set()


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_number_of_the_screen_is_in_the_json(name: str) -> None:
    """Counts, times and addresses; shares and what was cut are computed from them."""
    numbers = json.loads(told(name, "--json"))
    keys = {"summary", "phases", "calls", "agreement", "command", "workload", "misled", "groups"}
    known = renderings({key: numbers[key] for key in keys})
    known |= {each for word in numbers["command"] for each in NUMBER.findall(word)}
    head, *rest = re.split(r"\n(?=\S)", told(name, width=200))
    for line in [head, *rest]:
        if line.startswith("-> "):
            continue
        shown = re.sub(r"\n?  and [\d,]+ more .*", "", line)
        shown = re.sub(r"inode \d+|\d+ more|\d+ %|\d+->\d+|\(2\)|call \d+", "", shown)
        shown = re.sub(r"\d{4}-\d\d-\d\d ", "", shown)
        shown = re.sub(r"(\d\d:\d\d:\d\d(?:\.\d+)?)-(?=\d\d:)", r"\1 ", shown)
        shown = re.sub(r"monotonic [\d.]+ s", "", shown)
        assert set(NUMBER.findall(shown)) <= known, line


@pytest.mark.parametrize("name", ["idle", "stalls", "lost", "record"])
def test_a_reader_that_knows_nothing_of_mptrace_agrees(name: str) -> None:
    """Every number of who, what, when and how long, from the Parquet files alone."""
    found, reader = summary(name), Plain(RECORDINGS[name])
    assert found["watched"] == reader.watched()
    assert found["lost"] == {cause: n for cause, n in reader.meta["lost"].items() if n}
    proved = [phase for phase in reader.meta["coverage"] if phase["state"] == "proved"]
    assert found["phases"] == {"all": len(reader.meta["coverage"]), "proved": len(proved)}
    who, waited = reader.who(), reader.waited()
    assert len(found["who"]) == len(who)
    for row, mine in zip(found["who"], who, strict=True):
        assert (row["initiator"]["tgid"], row["initiator"]["comm"]) == (mine["tgid"], mine["comm"])
        named = {owner["tgid"]: owner["pages"] for owner in row["owners"]["named"]}
        assert named.items() <= mine["owners"].items()
        assert len(named) + row["owners"]["more"] == len(mine["owners"])
        for key in set(mine) - {"tgid", "comm", "owners"}:
            assert row[key] == mine[key], key
    assert len(found["waited"]) == len(waited)
    for row, mine in zip(found["waited"], waited, strict=True):
        holder = row["initiator"]
        assert (holder["tgid"], holder["comm"]) == mine.pop("for")
        assert {key: row[key] for key in mine} == mine
    totals = found["totals"]
    assert totals["moved_pages"] == sum(mine["moved_pages"] for mine in who)
    assert totals["stayed_pages"] == sum(mine["stayed_pages"] for mine in who)
    assert (totals["waits"], totals["waiting_threads"], totals["waited_ns"]) == (
        sum(mine["waits"] for mine in waited),
        len(waited),
        sum(mine["waited_ns"] for mine in waited),
    )
    stayed = reader.addresses_that_stayed()
    assert sum(group["pages"] for group in found["stayed"]) == len(stayed)
    assert {group["address"] for group in found["stayed"]} <= set(stayed)


def test_the_same_of_a_run() -> None:
    """Its calls, by the driver's own look at where the pages were before and after."""
    found, reader = summary("run"), Plain(RECORDINGS["run"])
    calls = reader.calls()
    assert found["watched"] == reader.watched()
    assert len(found["calls"]) == len(calls) == 2
    for row, mine in zip(found["calls"], calls, strict=True):
        for key in set(mine) - {"already_there"}:
            assert row[key] == mine[key], key
    totals = found["totals"]
    assert totals["moved_pages"] == sum(mine["moved_pages"] for mine in calls)
    assert totals["already_there"] == sum(mine["already_there"] for mine in calls)
    assert totals["stayed_pages"] == sum(mine["stayed_entries"] for mine in calls)
    stayed = reader.addresses_that_stayed()
    assert [group["pages"] for group in found["stayed"]] == [len(stayed)]
    assert found["stayed"][0]["address"] == min(stayed)


@pytest.mark.parametrize(
    ("page", "name"),
    [("docs/report.md", "stalls"), ("docs/report.md", "run"), ("README.md", "stalls")],
)
def test_samples_are_what_is_printed(page: str, name: str) -> None:
    """Byte for byte, but for the indentation."""
    sample = "".join(f"    {line}".rstrip() + "\n" for line in told(name).splitlines())
    assert sample in (HERE.parents[1] / page).read_text()


# ---- what is behind it ---------------------------------------------------------


@pytest.mark.parametrize("name", RECORDINGS)
def test_all_of_the_report_is_behind_it(name: str) -> None:
    """`--all`: the first screen, then every section; each option adds its part of these."""
    first, every = told(name), told(name, "--all")
    numbers = json.loads(told(name, "--json"))
    assert every == f"{first}\n{render(numbers)}\n"
    whole = every.split("\n\n")
    for part in PARTS:
        text = told(name, f"--{part}")
        assert text.startswith(first)
        assert set(text.split("\n\n")) <= {*whole, first.split("\n\n")[-1]} | {
            f"{section}\n" for section in whole
        }
    added = {part: told(name, f"--{part}").removeprefix(first) for part in PARTS}
    sections = [section.strip("\n") for section in render(numbers).split("\n\n")]
    assert all(any(section in text for text in added.values()) for section in sections)


def test_parts_can_be_asked_for_together() -> None:
    """In the order of the whole report, each section once."""
    both = told("record", "--failures", "--stalls", "--calls").removeprefix(told("record"))
    assert both.count("compaction by sysctl by sh/180") == 1
    assert both.index("compaction by sysctl by") < both.index("stalls     no thread")


# ---- cases that no recording here has ------------------------------------------


def test_a_day_that_ends_meanwhile_is_said() -> None:
    """Both days, in the head and in a row's times."""
    numbers = profile(busy(), Meta.of(META))
    start = {"wall_ns": (20_000 * 86_400 - 1) * 10**9, "monotonic_ns": 10**9}
    end = {"wall_ns": (20_000 * 86_400 + 20) * 10**9, "monotonic_ns": 22 * 10**9}
    found = profile(busy(), Meta.of({**META, "started": start, "ended": end}))
    text = plain(answer(found))
    assert "2024-10-03 23:59:59 to 2024-10-04 00:00:20 UTC" in text
    assert numbers["summary"]["watched"]["clock_step_ns"] == 0


def test_a_clock_that_was_set_is_said() -> None:
    """By how much, as the wall clock and the monotonic one tell."""
    start = {"wall_ns": 1_700_000_000 * 10**9, "monotonic_ns": 5 * 10**9}
    end = {"wall_ns": 1_700_003_600 * 10**9, "monotonic_ns": 15 * 10**9}
    clock = Clock(start, end)
    assert (clock.duration_ns(), clock.step_ns()) == (10 * 10**9, 3590 * 10**9)
    text = plain(answer(profile(busy(), Meta.of({**META, "started": start, "ended": end}))))
    assert "the clock was set by +3590 s meanwhile" in text


@pytest.mark.parametrize(
    "started",
    [None, {}, {"wall_ns": 0, "monotonic_ns": 5}, {"wall_ns": 1 << 62, "monotonic_ns": 1}],
)
def test_without_a_wall_clock_no_time_is_made_up(started: Any) -> None:
    """The monotonic time is told, and no time of the day."""
    clock = Clock(started, None)
    moment = clock.at(10**9)
    assert moment is not None
    assert (moment["monotonic_ns"], moment["utc"]) == (10**9, None) or started == {
        "wall_ns": 1 << 62,
        "monotonic_ns": 1,
    }
    assert clock.at(0) is None
    assert clock.duration_ns() is None


def test_a_list_that_is_cut_says_where_the_rest_is() -> None:
    """With more rows than there is room for, the longest lists are cut, 25 lines are kept."""
    text = told("conform-6.12")
    assert re.search(r"and \d+ more rows of [\d,]+ moved pages: --calls", text)
    assert re.search(r"and \d+ more causes of \d+ pages: --failures", text)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("move", "what became of pages is unknown"),
        ("owner", "whose pages they are is unknown"),
        ("dark", "how long pages were dark is unknown"),
    ],
)
def test_what_was_not_seen_is_a_warning(phase: str, words: str) -> None:
    """Of a phase that is missing the screen says what can't be told without it."""
    coverage = [
        {"phase": phase, "unit": "", "attach": "", "method": "", "state": "missing",
         "expected": None, "seen": None, "reason": "not in this kernel"}
    ]  # fmt: skip
    text = plain(answer(profile(busy(), Meta.of({**META, "coverage": coverage}))))
    assert f"WARNING: not seen: {words} (--coverage)" in text
    assert "complete" not in text


def test_where_some_folios_have_no_record_the_kernels_count_stands_beside() -> None:
    """And shares of time are those of the folios that have one."""
    data = Recording.open(RECORDINGS["stalls"])
    tables = {**data.tables(), "folios": data.table("folios")[:100]}
    found = profile(tables, data.meta)
    (row,) = found["summary"]["who"]
    assert (row["lost"], row["has_all_folios"], row["moved_pages"]) == (0, False, 100)
    text = plain(answer(found))
    assert "0->1" in text
    counted = data.table("migrations")["succeeded"].sum()
    assert f"the kernel itself counted {counted} moved, 0 stayed" in text
    assert re.search(r"\d+ % [\w ]+, \d+ % [\w ]+ of the recorded folios' time", text)


def test_an_incomplete_recording_is_a_warning(tmp_path: Path) -> None:
    """The second line says so."""
    path = recorded.write(tmp_path / "r", interrupted=True)
    done = CliRunner().invoke(main, ["report", str(path)])
    assert "WARNING: interrupted: what was seen until then" in done.stdout


def update() -> None:
    """Keep what is printed now as what is expected."""
    for name in RECORDINGS:
        for width in WIDTHS:
            file = expected_of(name, width)
            file.parent.mkdir(exist_ok=True)
            file.write_text(told(name, width=width))


if __name__ == "__main__":
    update()

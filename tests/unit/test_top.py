# SPDX-License-Identifier: GPL-2.0-or-later
"""The screen of `mptrace top` and its keys, from counts made by hand."""

import pytest
from stat_rows import MIGRATION, REASONS, busy, entry, interval, table

from mptrace.reporting.text.top import HELP, SORT_KEYS, Look, next_sort, top_lines
from mptrace.tracing.counting.counts import LOST_CAUSES, OTHERS, SORTS, Counts, combined

LOST = {**dict.fromkeys(LOST_CAUSES, 0), "row_map_full": 17}
#: Groups of no number, as they are called by cgroup.
NAMELESS = ("(others)", "(unknown)")
CGROUPS = {7: "/system.slice/db.service", 8: "/user.slice"}


def screen(
    look: Look | None = None, size: tuple[int, int] = (24, 80), rows: Counts | None = None
) -> list[str]:
    """Two seconds of `busy`, after others in which it did the same; more since the start."""
    now = busy() if rows is None else rows
    since = interval(combined(now, now), lost=LOST, start_ns=0, cgroups=CGROUPS)
    shown = interval(now, cgroups=CGROUPS)
    return top_lines(shown, since, REASONS, look or Look(), size, "01:02:03")


def processes(lines: list[str]) -> list[str]:
    """The commands of the lower table, in its order."""
    return [line.split()[1] for line in lines[lines.index("") + 2 :]]


def after(keys: list[str], look: Look | None = None) -> Look:
    """What keys make of a look."""
    look = look or Look()
    for key in keys:
        look = look.after(key)
    return look


def test_sums_since_the_start_stand_beside_the_interval() -> None:
    """Pages a second on the left, all pages on the right; in both tables, in 80 columns."""
    lines = screen()
    assert max(map(len, lines)) <= 80
    syscall = next(line for line in lines if line.startswith("syscall")).split()
    # 6617 in 2 s; twice as many since the start
    assert (syscall[1], syscall[5]) == ("3308", "13234")
    mover = next(line for line in lines if " mover " in line).split()
    assert (mover[2], mover[4], mover[6], mover[8]) == ("3308", "183ms", "13234", "366ms")
    assert "over 2.0 s" in lines[1]
    assert "since the start, 7.0 s" in lines[1]


def test_groups_without_a_number_are_not_mixed_up() -> None:
    """By cgroup: what found no row, and cgroups that are unknown, each with its own interval."""

    def rows(others: int, unknown: int) -> Counts:
        return table(
            entry(MIGRATION, 3, OTHERS, "", count=1, succeeded=others),
            entry(MIGRATION, 3, 178, "mover", count=1, succeeded=unknown),
        )

    since = interval(rows(3000, 11), start_ns=0)
    lines = top_lines(
        interval(rows(1000, 2)), since, REASONS, Look(by="cgroup"), (24, 80), "01:02:03"
    )
    told = {name: [x.split() for x in lines if x.startswith(name)][-1] for name in NAMELESS}
    assert [told[name][1] for name in NAMELESS] == ["500", "1"]
    assert [told[name][5] for name in NAMELESS] == ["3000", "11"]


def test_a_process_that_rests_keeps_its_sums() -> None:
    """Dashes for the interval."""
    since = interval(busy(), start_ns=0)
    lines = top_lines(interval(busy()[:0]), since, REASONS, Look(), (24, 80), "01:02:03")
    mover = next(line for line in lines if " mover " in line).split()
    assert mover[2:6] == ["-"] * 4
    assert mover[6] == "6617"


@pytest.mark.parametrize(
    ("sort", "first"), [("pages", "mover"), ("failed", "[kcompactd0]"), ("stalls", "postgres")]
)
def test_the_first_by_the_sort_comes_first(sort: str, first: str) -> None:
    """By the interval as by the sums; line 0 says which."""
    for by_start in (False, True):
        lines = screen(Look(sort=sort, by_start=by_start))
        assert processes(lines)[0] == first
        assert (
            f"sorted by {sort} {'since the start' if by_start else 'in the interval'}" in lines[0]
        )


def test_never_more_than_fits() -> None:
    """Lines or columns, whatever the size; what is hidden is said."""
    for height, width in ((24, 80), (10, 40), (1, 5), (60, 200)):
        for look in (Look(), Look(by="cgroup"), Look(help=True), Look(typed="x" * 40)):
            lines = screen(look, (height, width))
            assert len(lines) <= height
            assert max(map(len, lines)) <= width
    assert "more line" in screen(size=(9, 80))[-1]


def test_a_wide_terminal_has_the_reasons_of_processes() -> None:
    """Beyond 80 columns."""
    line = next(line for line in screen(size=(24, 120)) if "postgres" in line)
    assert line.endswith("numa_misplaced +1")


def test_how_many_are_not_shown_is_said() -> None:
    """Processes beyond the screen are counted in its last line."""
    rows = table(
        *(
            entry(MIGRATION, 3, 100 + n, f"p{n}", count=1, succeeded=n, time_ns=1, slot=0)
            for n in range(1, 48)
        )
    )
    lines = screen(rows=rows)
    assert len(lines) == 24
    shown = len(processes(lines)) - 1
    assert lines[-1].strip() == f"and {47 - shown} more processes: mptrace stat --by process"


def test_keys_sort() -> None:
    """s goes through all sorts, others go to one directly, i between interval and start."""
    names = ["pages"]
    while (following := next_sort(names[-1])) != "pages":
        names.append(following)
    assert names == list(SORTS)
    assert after(["s"]).sort == names[1]
    assert {key: after([key]).sort for key in SORT_KEYS} == SORT_KEYS
    assert set(SORT_KEYS.values()) == set(SORTS)
    assert after(["i"]).by_start
    assert not after(["i", "i"]).by_start


@pytest.mark.parametrize("key", ["h", "?"])
def test_help_is_a_key_away(key: str) -> None:
    """It names every key; any key goes back, and does nothing else."""
    look = after([key])
    text = "\n".join(screen(look))
    assert text == "\n".join(HELP)
    assert all(f"  {letter}" in text for letter in (*SORT_KEYS, "s", "i", "c", "/", "h", "q"))
    assert after(["q"], look) == Look()
    assert after(["resize"], look) == look
    assert max(map(len, HELP)) <= 80


def test_a_filter_works_while_it_is_typed() -> None:
    """Part of a command, in either case; Backspace, Enter and Esc do what they do everywhere."""
    look = after(["/", "P", "o", "s", "q"])
    assert look.typed == "Posq"
    assert not look.quit
    look = after(["backspace"], look)
    assert processes(screen(look)) == ["postgres"]
    kept = after(["enter"], look)
    assert (kept.filter, kept.typed) == ("Pos", None)
    assert processes(screen(kept)) == ["postgres"]
    assert "filter: Pos" in screen(kept)[1]
    # reasons are those of what is shown, too
    assert not [line for line in screen(kept) if line.startswith("compaction   ") and "211" in line]
    assert after(["escape"], kept) == Look()
    assert after(["/", "escape"], kept) == Look()
    assert "no migrations of these" in screen(Look(filter="nobody"))[-1]


def test_a_filter_finds_numbers_and_cgroups() -> None:
    """The whole number of a process; part of a cgroup's path."""
    rows = table(
        entry(MIGRATION, 3, 42, "a", cgroup=7, count=1, succeeded=2, time_ns=1, slot=0),
        entry(MIGRATION, 3, 421, "b", cgroup=8, count=1, succeeded=3, time_ns=1, slot=0),
    )
    assert processes(screen(Look(filter="42"), rows=rows)) == ["a"]
    assert processes(screen(Look(filter="user.slice"), rows=rows)) == ["b"]
    lines = screen(after(["c"], Look(filter="db.serv")), rows=rows)
    assert [line.split()[0] for line in lines[lines.index("") + 2 :]] == ["~ystem.slice/db.service"]


def test_a_filter_cannot_write_to_the_terminal() -> None:
    """Only letters are typed, and so many."""
    assert after(["/", "\x01", "left", *("x" * 99)]).typed == "x" * 40


def test_q_quits() -> None:
    """Nothing else does."""
    assert after(["q"]).quit
    assert not after(["x", "escape", "enter", "backspace"]).quit

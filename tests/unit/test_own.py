# SPDX-License-Identifier: GPL-2.0-or-later
"""mptrace's own pages, migrations and waits: in the recording, marked, and in no sum."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from others import HELD, META, OTHER, VICTIM, Others
from simulated_kernel import PAGE, Kernel

from mptrace.cli import main
from mptrace.explain.folios import FolioExplainer
from mptrace.outcomes.own import own_of
from mptrace.recording.layouts import FOLIO_CHOSEN, NOT_COUNTED
from mptrace.recording.meta import Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile

#: The recorder, and another mptrace that was asked for.
OWN, ANOTHER = 6001, 6002
WHO = {**META, "own": [OWN]}
TOLD = Meta.of(WHO)
MINE: dict[str, Any] = {"owner_tgid": OWN}


def busy() -> Others:
    """Compaction of 97 pages and 3 of mptrace's, one of 5 that are all its, its own, its waits."""
    others = Others()
    others.process(VICTIM, b"postgres")
    others.process(OWN, b"mptrace")
    kcompactd = {"tgid": 31, "comm": b"kcompactd0", "kthread": True, "mode": "sync_light"}
    mixed = others.migrate("compaction", folios=[{}] * 97 + [MINE] * 2 + [MINE | HELD], **kcompactd)
    others.migrate("compaction", folios=[MINE] * 5, **kcompactd)
    # its allocation compacts: two pages of another process, and one of its own
    direct = others.migrate("compaction", tgid=OWN, comm=b"mptrace", folios=[{}, MINE, HELD])
    for tgid, holder, ns in ((OWN, mixed, 700), (VICTIM, mixed, 90), (VICTIM, direct, 40)):
        others.add(
            "waits",
            start_ns=5000,
            end_ns=5000 + ns,
            holder_id=holder["migration_id"],
            tid=tgid,
            tgid=tgid,
            comm=b"mptrace" if tgid == OWN else b"worker-1",
        )
    return others


def by_initiator(numbers: dict[str, Any]) -> dict[str, Any]:
    """The report's rows of who migrated, by name."""
    return {row["initiator"]["comm"]: row for row in numbers["paths"]}


def write(path: Path, others: Others, **meta: Any) -> Path:
    """As a recording."""
    with RecordingWriter(path, meta={**WHO, **meta}) as writer:
        for name, rows in others.tables().items():
            writer.append(name, rows)
        writer.finish()
    return path


def dumped(path: Path, table: str, *options: str) -> list[dict[str, Any]]:
    """Rows of `mptrace dump`."""
    arguments = ["dump", str(path), "--table", table, "--format", "jsonl", *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_compaction_counts_without_the_pages_of_mptrace() -> None:
    """97 of 100 pages; the kernel's count, which has them all, differs in nothing."""
    row = by_initiator(profile(busy().tables(), TOLD))["kcompactd0"]
    assert row["initiator"]["comm"] == "kcompactd0"
    assert (row["migrations"], row["own_pages"]) == (1, 3)
    assert row["pages"] == {"moved": 97, "failed": 0, "unknown": 0}
    assert row["folios"] == {"seen": 97, "moved": 97, "failed": 0, "unknown": 0}
    assert row["kernel_counted"] == {"migrations": 1, "moved_pages": 99, "failed_pages": 1}
    assert row["difference"] == {"moved_pages": 0, "failed_pages": 0}
    assert [owner["tgid"] for owner in row["owners"]] == [VICTIM]
    assert row["matrix"] == [{"from": 0, "to": 1, "pages": 97}]
    assert row["failures"] == []
    assert row["blackout"]["folios"] == 97


def test_what_it_does_to_others_is_not_hidden() -> None:
    """Its direct compaction: others' two pages under its name, its own one in no sum."""
    row = by_initiator(profile(busy().tables(), TOLD))["mptrace"]
    assert (row["initiator"]["tgid"], row["migrations"], row["own_pages"]) == (OWN, 1, 1)
    assert row["pages"] == {"moved": 1, "failed": 1, "unknown": 0}
    assert [(owner["tgid"], owner["folios"]) for owner in row["owners"]] == [(VICTIM, 2)]
    assert [group["pages"] for group in row["failures"]] == [1]
    assert "mptrace/6001" in " ".join(render(profile(busy().tables(), TOLD)).split())


def test_an_owner_that_was_asked_for_is_not_dropped() -> None:
    """Its pages that mptrace moved are in its row, and in that of no other."""
    others = Others()
    folios = [{"owner_tgid": OTHER, "flags": FOLIO_CHOSEN}] * 3
    others.migrate("compaction", tgid=OWN, comm=b"mptrace", folios=folios)
    numbers = profile(others.tables(), Meta.of({**WHO, "scope": {"kind": "pids", "pids": [OTHER]}}))
    assert not any(count for name, count in numbers["own"].items() if name != "tgids")
    (row,) = numbers["paths"]
    assert [(o["tgid"], o["moved_pages"], o["asked"]) for o in row["owners"]] == [(OTHER, 3, True)]
    assert "itself" not in render(numbers)


@pytest.mark.parametrize(
    ("folios", "is_own"), [([MINE] * 3, True), ([{}, MINE], False), ([], False)]
)
def test_a_migration_of_its_own_had_its_pages_alone(folios: list[Any], is_own: bool) -> None:
    """Who began it says nothing; of one without a folio's record nobody knows whose they were."""
    others = Others()
    others.migrate("compaction", tgid=OWN, comm=b"mptrace", folios=folios)
    assert own_of(others.tables(), TOLD).migrations.tolist() == [is_own]


def test_tracepoints_tell_no_owner() -> None:
    """There what mptrace began is its own, but for a call about another process's pages."""
    others = Others()
    nobodys = [{"owner_tgid": 0, "n_maps": 0}] * 2
    others.migrate("compaction", tgid=OWN, comm=b"mptrace", folios=nobodys)
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=nobodys)
    others.migrate("syscall", tgid=OWN, comm=b"mptrace", folios=nobodys, call_id=77)
    others.add("calls", call_id=77, tgid=OWN, pid=VICTIM, target_tgid=VICTIM)
    own = own_of(others.tables(), Meta.of({**WHO, "tier": "tracepoints"}))
    assert own.calls.tolist() == [False]
    assert own.migrations.tolist() == [True, False, False]
    assert own.folios.tolist() == [True, True, False, False, False, False]


def test_what_was_left_out_is_said_in_one_line() -> None:
    """How many, and where they are; JSON has the same numbers."""
    numbers = profile(busy().tables(), TOLD)
    assert numbers["own"] == {
        "tgids": [OWN],
        "calls": 0,
        "migrations": 1,
        "folios": 9,
        "pages": 9,
        "waits": 1,
    }
    text = render(numbers)
    assert (
        "own        1 migration, 9 pages and 1 wait of mptrace itself are left out of all\n"
        "           sums: column own of mptrace dump --format csv\n"
    ) in text
    assert "the kernel counted" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_real_difference_says_that_own_pages_are_in_it() -> None:
    """The kernel counted two pages more than there are records."""
    others = busy()
    others.rows["migrations"][0]["succeeded"] += 2
    numbers = profile(others.tables(), TOLD)
    difference = by_initiator(numbers)["kcompactd0"]["difference"]
    assert difference == {"moved_pages": -2, "failed_pages": 0}
    assert "have -2 and +0, with 3 pages of mptrace" in " ".join(render(numbers).split())


def test_its_waits_are_no_stalls() -> None:
    """Others' waits for what it migrated are; the numbers of waits are those of the table."""
    stalls = profile(busy().tables(), TOLD)["stalls"]
    assert (stalls["count"], stalls["threads"], stalls["total_ns"]) == (2, 1, 130)
    assert [row["tgid"] for row in stalls["by_victim"]] == [VICTIM]
    assert [wait["wait"] for wait in stalls["longest"]] == [1, 2]
    names = {row["initiator"]["comm"]: row for row in stalls["by_initiator"]}
    assert names["kcompactd0"]["blackout"]["folios"] == 97
    assert names["mptrace"]["count"] == 1


def test_a_victims_blackout_is_without_its_folios() -> None:
    """A page of a call about mptrace's pages that the victim maps, too, is in neither's."""
    others = busy()
    others.add("calls", call_id=77, tgid=31, pid=OWN, target_tgid=OWN)
    others.migrate("syscall", tgid=31, comm=b"mover", folios=[{"call_id": 77}], call_id=77)
    (victim,) = profile(others.tables(), TOLD)["stalls"]["by_victim"]
    # 97 that kcompactd moved, and two that mptrace did
    assert (victim["tgid"], victim["blackout"]["folios"]) == (VICTIM, 97 + 2)


def test_a_page_that_others_map_is_everybodys() -> None:
    """Two mappings in one attempt; three attempts at one mapping are its own."""
    others = Others()
    both = [MINE | {"n_maps": 2}, MINE | {"n_maps": 3, "n_unmap": 3, "n_move": 3}]
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=both)
    assert own_of(others.tables(), TOLD).folios.tolist() == [False, True]
    assert own_of(others.tables(), TOLD).migrations.tolist() == [False]


@pytest.mark.parametrize("doubt", [{"succeeded": 6}, {"lost": 1}])
def test_a_migration_may_have_had_more_than_its_own_pages(doubt: dict[str, int]) -> None:
    """The kernel counted more, or records were lost: it stays, without its own pages."""
    others = Others()
    folios = [MINE] * 5
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=folios, **doubt)
    (row,) = profile(others.tables(), TOLD)["paths"]
    assert (row["migrations"], row["pages"]["moved"], row["own_pages"]) == (1, 0, 5)


UNCOUNTED = {"succeeded": NOT_COUNTED, "failed": NOT_COUNTED}


@pytest.mark.parametrize(
    ("folios", "told", "failed"),
    [
        ([{}, {}, MINE | HELD], {}, 0),
        ([{}, {}, MINE | HELD], UNCOUNTED, 0),
        ([{}, {}, MINE | HELD], UNCOUNTED | {"rc": 2}, 1),
        ([{}, {}, MINE | HELD], UNCOUNTED | {"rc": -12}, 1),
        # one more than there are records
        ([{}, {}, MINE | HELD], {"failed": 2}, 1),
        ([{}, HELD, MINE | HELD], {}, 1),
        ([{}, {}, MINE], {"rc": -12}, 1),
        ([{}, {}, MINE | HELD | {"nr_pages": 512}], {}, 0),
        ([{}, {}, MINE | HELD | {"nr_pages": 512}], UNCOUNTED | {"rc": 1}, 0),
    ],
)
def test_its_page_that_stayed_is_no_failure_of_others(
    tmp_path: Path, folios: list[Any], told: dict[str, int], failed: int
) -> None:
    """A migration has failed where it left something behind but for pages of mptrace."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=folios, **told)
    numbers = profile(others.tables(), TOLD)
    (row,) = numbers["paths"]
    assert row["failed_migrations"] == numbers["migrations"]["without_call"][0]["failed"] == failed
    assert ("1 of 1 failed" in " ".join(render(numbers).split())) == bool(failed)
    path = write(tmp_path / "r", others)
    assert len(dumped(path, "migrations", "--failed")) == failed


@pytest.mark.parametrize("meta", [META, {**META, "own": None}])
def test_a_recording_that_does_not_say_who_it_was(meta: dict[str, Any]) -> None:
    """As before: everything counts, and no line claims otherwise."""
    numbers = profile(busy().tables(), Meta.of(meta))
    assert numbers["own"] is None
    assert sum(row["pages"]["moved"] for row in numbers["paths"]) == 99 + 5 + 2
    assert numbers["stalls"]["count"] == 3
    assert "own  " not in render(numbers)


def test_another_mptrace_that_was_asked_for_is_not_its_own() -> None:
    """It goes by the process, not by the name."""
    others = Others()
    others.migrate(
        "numa_misplaced", tgid=ANOTHER, comm=b"mptrace", folios=[{"owner_tgid": ANOTHER}]
    )
    numbers = profile(
        others.tables(), Meta.of({**WHO, "scope": {"kind": "pids", "pids": [ANOTHER]}})
    )
    assert numbers["own"] == {
        "tgids": [OWN],
        **dict.fromkeys(("calls", "migrations", "folios", "pages", "waits"), 0),
    }
    assert numbers["paths"][0]["pages"]["moved"] == 1
    assert "itself" not in render(numbers)


def test_calls_about_its_pages_are_its_own() -> None:
    """Whoever makes them; the entries, times and callers are those of the other calls."""
    kernel = Kernel("6.12", 2)
    for page in range(1, 31):
        kernel.folio(page, 0, trait="pinned" if page in (7, 29) else "")
    kernel.move_pages([page * PAGE for page in range(1, 24)], [1] * 23, tid=501)
    kernel.move_pages([page * PAGE for page in range(24, 31)], [1] * 7, tid=502)
    tables = kernel.tables()
    both = profile(tables, Meta.of(META))
    tables["calls"]["target_tgid"] = [OWN, VICTIM]
    numbers = profile(tables, TOLD)
    assert (both["calls"]["count"], numbers["calls"]["count"]) == (2, 1)
    assert (both["entries"]["asked"], numbers["entries"]["asked"]) == (30, 7)
    assert numbers["calls"]["without_end"] == 0
    assert numbers["outcomes"]["failed"] == 1
    assert [row["tgid"] for row in numbers["callers"]] == [502]
    assert numbers["folios"]["moved"] == numbers["rates"]["pages"] == 6
    assert [group["count"] for group in numbers["failures"]] == [1]
    assert numbers["failures"][0]["example"]["call"] == 1
    assert numbers["migrations"]["count"] == 1
    assert numbers["own"]["calls"] == 1
    assert numbers["own"]["pages"] == 23


@pytest.mark.parametrize(
    ("target", "pid", "is_own"),
    [(VICTIM, VICTIM, False), (OWN, OWN, True), (0, 0, True), (0, VICTIM, False)],
)
def test_calls_that_it_makes(target: int, pid: int, is_own: bool) -> None:
    """Those about others' pages count, those about its own do not; pid 0 is the caller."""
    kernel = Kernel("6.12", 2)
    for page in range(1, 6):
        kernel.folio(page, 0)
    kernel.move_pages([page * PAGE for page in range(1, 6)], [1] * 5, tid=501)
    tables = kernel.tables()
    tables["calls"]["target_tgid"], tables["calls"]["pid"] = target, pid
    tables["calls"]["tgid"] = tables["migrations"]["tgid"] = OWN
    numbers = profile(tables, TOLD)
    assert numbers["calls"]["count"] == numbers["migrations"]["count"] == (0 if is_own else 1)
    assert numbers["entries"]["asked"] == numbers["folios"]["moved"] == (0 if is_own else 5)
    assert sum(row["pages"]["moved"] for row in numbers["paths"]) == (0 if is_own else 5)


def test_dump_keeps_and_marks_them(tmp_path: Path) -> None:
    """Every table; --failed filters as before."""
    path = write(tmp_path / "r", busy())
    assert [row["own"] for row in dumped(path, "migrations")] == [False, True, False]
    folios = [row["own"] for row in dumped(path, "folios")]
    assert folios == [False] * 97 + [True] * 8 + [False, True, False]
    assert [row["own"] for row in dumped(path, "waits")] == [True, False, False]
    assert {row["comm"]: row["own"] for row in dumped(path, "processes")} == {
        "postgres": False,
        "mptrace": True,
    }
    assert [row["own"] for row in dumped(path, "obstacles", "--failed")] == [True, False]
    # of the first only a page of mptrace stayed
    assert [row["migration"] for row in dumped(path, "migrations", "--failed")] == [2]
    for table in ("entries", "calls", "mappers"):
        assert dumped(path, table) == []
    assert all(list(row)[-1] == "own" for row in dumped(path, "migrations"))


def test_explain_leaves_them_out_and_says_how_many(tmp_path: Path) -> None:
    """What stayed of others' is explained; an own page is, when its address is asked for."""
    others = busy()
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[HELD])
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[MINE | HELD])
    path = str(write(tmp_path / "r", others))
    text = CliRunner().invoke(main, ["explain", path]).stdout
    assert text.count("cause") == 2
    assert "kcompactd0" in text
    last = " ".join(text.split("\n\n")[-1].split())
    assert last.startswith("2 pages or folios of mptrace itself stayed, too, and are not shown")
    lines = CliRunner().invoke(main, ["explain", "--json", path]).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [row["owner_tgid"] for row in told] == [VICTIM, VICTIM]
    assert [row["initiator"]["comm"] for row in told] == ["mptrace", "kcompactd0"]
    rows = [row for row in dumped(Path(path), "folios") if row["own"] and row["move_rc"]]
    one = CliRunner().invoke(main, ["explain", "--address", rows[0]["address"], path]).stdout
    assert f"of mptrace ({OWN})" in one


def test_a_table_marks_them(tmp_path: Path) -> None:
    """A column `own` where a row is; where none is the table is as ever."""
    path = str(write(tmp_path / "r", busy()))
    for table in ("migrations", "folios", "waits", "processes"):
        marked = table_of(path, table)
        assert marked[0].endswith(" own")
        assert [line.endswith(" yes") for line in marked[1:]] == [
            row["own"] for row in dumped(Path(path), table)
        ]
        assert all(line.endswith((" yes", " -")) for line in marked[1:])
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[{}])
    path = str(write(tmp_path / "others", others))
    assert not any(" own" in line for line in table_of(path, "folios"))


def table_of(path: str, table: str) -> list[str]:
    """Lines of `mptrace dump`, as wide as it likes."""
    arguments = ["dump", path, "--table", table]
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return result.stdout.splitlines()


@pytest.mark.parametrize("option", ["--json", "--all", "--failed"])
@pytest.mark.parametrize("others_stayed", [True, False])
def test_what_explain_does_not_show_is_said_in_every_form(
    tmp_path: Path, option: str, others_stayed: bool
) -> None:
    """Own pages, and those without a record: beside JSON on stderr, with rows and without."""
    others = Others()
    folios = [MINE | HELD, HELD if others_stayed else {}]
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=folios, failed=9)
    path = str(write(tmp_path / "r", others))
    result = CliRunner().invoke(main, ["explain", option, path])
    assert result.exit_code == 0
    said, beside = result.stdout, result.stderr
    if option == "--json":
        assert len(said.splitlines()) == others_stayed
        said, beside = beside, said
    assert "1 page or folio of mptrace itself stayed, too" in " ".join(said.split())
    assert f"{8 - others_stayed} more" in " ".join(said.split())
    assert "itself" not in beside


def test_explain_of_nothing_but_its_own(tmp_path: Path) -> None:
    """Nothing is claimed of others; how many of its own stayed is said."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[MINE | HELD])
    path = str(write(tmp_path / "r", others))
    text = " ".join(CliRunner().invoke(main, ["explain", path]).stdout.split())
    assert "1 page or folio of mptrace itself stayed, too, and is not shown" in text


def test_what_the_kernel_counted_of_its_own_migrations_is_not_told_of_others() -> None:
    """Tracepoints show no record of a page refused early: 7 of its own, and 3 of kcompactd's."""
    others = Others()
    others.migrate("compaction", tgid=OWN, comm=b"mptrace", folios=[], failed=7)
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[], failed=3)
    meta = {**WHO, "tier": "tracepoints"}
    assert FolioExplainer(others.tables(), Meta.of(meta)).unrecorded_pages == 3


def test_the_report_dump_and_explain_agree(tmp_path: Path) -> None:
    """Pages that moved and stayed: sums of the report, and of dump's rows that are not own."""
    others = busy()
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[{}, HELD])
    path = write(tmp_path / "r", others)
    result = CliRunner().invoke(main, ["report", "--json", str(path)])
    rows = json.loads(result.stdout)["paths"]
    kept = [row for row in dumped(path, "folios") if not row["own"]]
    for outcome in ("moved", "failed"):
        pages = sum(row["nr_pages"] for row in kept if row["outcome"] == outcome)
        assert sum(row["pages"][outcome] for row in rows) == pages
    explained = CliRunner().invoke(main, ["explain", "--all", "--json", str(path)]).stdout
    assert len(explained.splitlines()) == sum(row["pages"]["failed"] for row in rows) == 2


def test_batches_of_a_budget_are_others() -> None:
    """Migrations and blackouts of its own decide nothing; a batch is as large as it was."""
    curves = {curve["measure"]: curve for curve in profile(busy().tables(), TOLD)["cost_curve"]}
    assert [(g["pages"], g["samples"]) for g in curves["migration_duration"]["groups"]] == [
        (100, 1)
    ]
    assert [g["samples"] for g in curves["blackout_per_page"]["groups"]] == [97]


def test_folios_whose_migration_is_lost() -> None:
    """An own page is none of those of which nobody knows who moved them."""
    others = busy()
    others.rows["migrations"] = []
    strays = profile(others.tables(), TOLD)["folios_without_migration"]
    assert strays == {"folios": 97 + 2, "pages": 97 + 2}


def test_a_call_of_others_keeps_its_pages() -> None:
    """A page that a call asked for is its target's, though mptrace maps it, too."""
    kernel = Kernel("6.12", 2)
    for page in range(1, 6):
        kernel.folio(page, 0)
    kernel.move_pages([page * PAGE for page in range(1, 6)], [1] * 5, tid=501)
    tables = kernel.tables()
    tables["folios"]["owner_tgid"] = OWN
    tables["folios"]["n_maps"] = 1
    own = own_of(tables, TOLD)
    assert not np.concatenate([own.calls, own.migrations, own.folios]).any()

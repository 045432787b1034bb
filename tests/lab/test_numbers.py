# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of real migrations: every command has the same numbers, and they are right.

Three recordings for each kernel, made in one guest by numbers/conduct.py.  The oracles are
/proc/vmstat, move_pages(2) in query mode and its return values, as that program had them, and
the Parquet files, read without mptrace.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from views import CHECKS, Views

from mptrace.lab.guest import Guest

HERE = Path(__file__).parent
RECORDINGS = ("failures", "idle", "own")
#: By kernel; None where it failed.
_made: dict[str, "Made | None"] = {}


@dataclass(frozen=True)
class Made:
    """What conduct.py left."""

    path: Path
    about: dict[str, Any]

    def parquet(self, name: str, table: str) -> list[dict[str, Any]]:
        """The rows of a table of a recording, read without mptrace."""
        files = sorted((self.path / name).glob(f"{table}-*.parquet"))
        return ds.dataset(files).to_table().to_pylist() if files else []


@pytest.fixture
def made(
    guest: Guest,
    kernel: str,
    guest_dir: str,
    holder: str,
    fetch: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """This kernel's recordings."""
    if kernel not in _made:
        _made[kernel] = None
        path = tmp_path_factory.mktemp("numbers")
        conduct = [sys.executable, str(HERE / "numbers/conduct.py"), holder]
        done = guest.run(conduct, cwd=guest_dir, timeout=900)
        assert done.returncode == 0, done.errors
        for name in RECORDINGS:
            fetch(f"{guest_dir}/{name}").rename(path / name)
        _made[kernel] = Made(path, json.loads(done.text))
    found = _made[kernel]
    assert found is not None, "the recordings failed, as the first of these tests says"
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", RECORDINGS)
def test_the_views_agree(made: Made, name: str, check: Callable[[Views], None]) -> None:
    """See the check."""
    check(Views(made.path / name))


def test_pages_that_could_not_be_moved(made: Made) -> None:
    """By address, by each path, in every view; as many as the kernel counted and a query found."""
    about, views = made.about, Views(made.path / "failures")
    told, held = about["failures"], about["held"]
    kept = [about["address"] + page * 4096 for page in range(1, 5 * held, 5)]
    assert told["calls"][0]["where"] == [held, about["pages"] - held]
    # the first call meets a page that is there already, one that is held, and one that is there
    # again, which ends the group of the held one: the rest is not attempted, and counted
    rest = about["pages"] - 3
    assert [call["ret"] for call in told["calls"]] == [1 + rest, 0, held]
    assert [call["failed"] for call in told["calls"]] == [1, 0, held]

    paths = {row["path"]: row for row in views.report["paths"]}
    by_others = paths["migrate_pages"]["pages"]
    assert [by_others["moved"], by_others["failed"]] == told["migrated"]
    assert by_others["failed"] == held
    by_calls = paths["move_pages"]["pages"]
    for name in ("moved", "failed"):
        assert by_calls[name] == sum(call[name] for call in told["calls"])
    assert not any(row["pages"]["unknown"] for row in views.report["paths"])

    folios = views.dump("folios", "--failed")
    addresses = sorted(int(row["address"], 16) for row in folios)
    assert addresses == sorted([*kept, kept[0], *kept])
    assert {row["owner_tgid"] for row in folios} == {about["pid"]}
    assert {row["cause"] for row in folios} == {"extra_references"}
    entries = views.dump("entries", "--failed")
    stayed = [int(row["address"], 16) for row in entries if row["outcome"] == "failed"]
    assert sorted(stayed) == sorted([kept[0], *kept])
    explained = views.rows("explain")
    stayed = [int(row["address"], 16) for row in explained if row["outcome"] == "failed"]
    assert sorted(stayed) == addresses
    assert views.report["outcomes"] == {
        "moved": 2 * (about["pages"] - held),
        "already_there": 2 + held,
        "failed": 1 + held,
        "not_attempted": rest,
        "unknown": 0,
    }
    asked = views.report["agreement"]
    assert (asked["not_asked"], asked["unknown"]) == (3 * about["pages"], 0)
    # the same from the files; a folio without a migration was looked up alone, being there already
    rows = [row for row in made.parquet("failures", "folios") if row["migration_id"]]
    assert sum(row["nr_pages"] for row in rows) == sum(told["migrated"]) + sum(
        call["moved"] + call["failed"] for call in told["calls"]
    )
    text = " ".join(views.run("report", "--all").split())
    assert f"of {3 * about['pages']} entries nobody asked where the pages are" in text


def test_an_idle_session(made: Made) -> None:
    """Nothing happened, and nothing is told."""
    views = Views(made.path / "idle")
    for table in ("calls", "entries", "migrations", "folios", "obstacles"):
        assert made.parquet("idle", table) == []
        assert views.dump(table) == []
    assert views.report["paths"] == []
    assert not any(views.report["outcomes"].values())
    meta = json.loads((made.path / "idle" / "meta.json").read_text())
    ended, started = (meta[key]["monotonic_ns"] for key in ("ended", "started"))
    assert ended - started >= 13e9


def test_mptraces_own_pages_are_in_no_sum(made: Made) -> None:
    """Its heap was moved by another program, as the status array said; the rest is the holder's."""
    about, views = made.about["own"], Views(made.path / "own")
    own = views.report["own"]
    assert own["tgids"] == [about["recorder"]]
    (migration,) = [row for row in made.parquet("own", "migrations") if row["call_id"]]
    # the heap may have a huge page, which is moved whole
    assert 0 < about["there"] <= own["pages"] == migration["succeeded"]
    assert own["calls"] == 1
    assert [row["own"] for row in views.dump("calls")] == [True]
    assert not any(views.report["outcomes"].values())
    (path,) = views.report["paths"]
    assert [path["pages"]["moved"], path["pages"]["failed"]] == about["migrated"]
    assert {owner["tgid"] for owner in path["owners"]} <= {made.about["pid"], 0}
    moved = [row for row in made.parquet("own", "folios") if row["owner_tgid"] == about["recorder"]]
    assert sum(row["nr_pages"] for row in moved) == own["pages"]
    marked = [row for row in views.dump("folios") if row["own"] and row["outcome"] == "moved"]
    assert sum(row["nr_pages"] for row in marked) == own["pages"]
    assert "of mptrace itself" in " ".join(views.run("report").split())

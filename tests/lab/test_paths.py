# SPDX-License-Identifier: GPL-2.0-or-later
"""Every path that migrates, provoked in a guest, and judged by counts that aren't mptrace's.

One `mptrace record -a` per kernel around all paths (tests/lab/paths): the programs that
move pages know nothing of it.  The oracles are the kernel's tracepoint, read by a tracefs
instance, /proc/vmstat, and what the programs and /proc/PID/numa_maps say of their pages.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from paths.judge import CALLED, COUNTERS, Judged, by_initiator, sums

from mptrace.lab.guest import Guest

HERE = Path(__file__).parent
#: Two nodes with CPUs and one of a lower tier, where that is known: 2G of it is contiguous.
NODES = "1G/cpus=0,1G/cpus=1,2560M/slow"
pytestmark = pytest.mark.nodes(NODES)

#: What a kernel lacks, and why.
MISSING = {
    "6.1": {
        "demotion": "all nodes are of one memory tier",
        "demotion-kswapd": "all nodes are of one memory tier",
        "promotion": "all nodes are of one memory tier",
        "damon": "no DAMON",
    },
    "6.12": {},
}
_sessions: dict[str, Judged] = {}


@pytest.fixture
def session(guest: Guest, guest_dir: str, kernel: str, fetch: Callable[[str], Path]) -> Judged:
    """All paths provoked on this kernel under one `mptrace record -a`; done once for each."""
    if kernel not in _sessions:
        tools = Path(sys.executable).parent
        env = {
            "PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
        }
        argv = [sys.executable, "-m", "paths.conduct", "--record", "recording"]
        done = guest.run(argv, cwd=guest_dir, env=env, timeout=1800)
        assert done.returncode == 0, done.errors
        told = json.loads(done.text)
        recording = fetch(f"{guest_dir}/recording")
        if keep := os.environ.get("MPTRACE_PATHS_DIR"):  # scripts/paths makes a page of it
            (Path(keep) / f"{kernel}.json").write_text(done.text)
            recording.rename(Path(keep) / kernel)
            recording = Path(keep) / kernel
        _sessions[kernel] = Judged(told, recording)
    return _sessions[kernel]


@pytest.fixture(params=CALLED)
def name(request: pytest.FixtureRequest, session: Judged, kernel: str) -> str:
    """A path that this kernel has; where it has it not, the reason is the one expected."""
    name: str = request.param
    path = session.paths[name]
    assert "error" not in path, path["error"]
    assert path.get("missing") == MISSING[kernel].get(name)
    if "missing" in path:
        pytest.skip(f"{kernel}: {path['missing']}")
    return name


def test_the_path_migrated(session: Judged, name: str) -> None:
    """The tracepoint saw it, with as many pages as the program knows of."""
    path, counted = session.paths[name], sums(session.events_of(name))
    assert counted["succeeded"] >= path.get("least", 1)
    assert counted["succeeded"] <= path.get("most", counted["succeeded"])
    if path["pages"] is not None:
        assert counted["succeeded"] == path["pages"]


def test_initiator_and_counts(session: Judged, name: str) -> None:
    """mptrace has the same migrations and base pages of the same initiator, and names the path."""
    rows, path = session.migrations_of(name), session.paths[name]
    assert by_initiator(rows) == by_initiator(session.events_of(name))
    assert {row["kernel_thread"] for row in rows} == {path["pid"] == 0}
    assert all(row["comm"].startswith(path["comm"]) for row in rows)
    assert {row["path"] for row in rows} <= CALLED[name]


def test_vmstat_agrees(session: Judged, name: str) -> None:
    """In the path's time /proc/vmstat counted what mptrace's migrations of that time add up to.

    Those that began before it or ended after it may have been counted or not.
    """
    path = session.paths[name]
    for counter, key in (("pgmigrate_success", "succeeded"), ("pgmigrate_fail", "failed")):
        least, most = session.bounds(path, key)
        assert least <= path["vmstat"].get(counter, 0) <= most


def test_owner_and_nodes(session: Judged, name: str) -> None:
    """The folios went from and to the nodes that the program knows, and it owns them."""
    path = session.paths[name]
    moved = [folio for folio in session.folios_of(name) if folio["outcome"] == "moved"]
    if path["owner"]:
        moved = [folio for folio in moved if folio["owner_tgid"] == path["owner"]]
        assert sum(folio["nr_pages"] for folio in moved) >= (path["pages"] or path.get("least", 1))
    assert moved
    if path["from"] is not None:
        assert path["from"] in {folio["src_nid"] for folio in moved}
    if path["to"] is not None:
        assert path["to"] in {folio["dst_nid"] for folio in moved}
    if path["pages"] is not None and path["from"] is not None:
        assert {folio["src_nid"] for folio in moved} == {path["from"]}


def test_nothing_is_lost_or_mixed_up(session: Judged) -> None:
    """Over the whole session each initiator's migrations are the tracepoint's, one for one."""
    assert session.told["lost"] == 0
    assert not any(session.meta["lost"].values())
    assert by_initiator(session.migrations) == by_initiator(session.events)
    for counter, key in (("pgmigrate_success", "succeeded"), ("pgmigrate_fail", "failed")):
        least, most = session.bounds(session.told, key)
        assert least <= session.told["vmstat"].get(counter, 0) <= most


@pytest.mark.parametrize("reason", COUNTERS)
def test_counters_of_a_reason(session: Judged, reason: str) -> None:
    """What vmstat counts for a reason alone is what its migrations add up to."""
    least, most = session.bounds(session.told, "succeeded", reason)
    assert least <= sum(session.told["vmstat"].get(name, 0) for name in COUNTERS[reason]) <= most


def test_the_outcomes_of_folios_add_up(session: Judged) -> None:
    """Of each migration the folios that moved or were freed meanwhile are what succeeded."""
    assert not session.different(succeeded=True)
    assert not session.different(succeeded=False)


# ---- what NUMA balancing does beside its migrations


def balanced(session: Judged, tgid: int = 0) -> dict[str, int]:
    """Sums of mptrace's rows, of one process or of all, mptrace among them."""
    rows = [row for row in session.balancing if not tgid or row["tgid"] == tgid]
    names = ("scans", "scan_ns", "faults", "faults_timed", "fault_ns")
    return {name: sum(row[name] for row in rows) for name in names}


def test_balancing_is_seen_whole(session: Judged) -> None:
    """The oracle lost nothing; on this kernel its functions can be traced by mptrace, too."""
    oracle = session.told["balancing"]
    assert oracle["lost"] == 0
    assert set(oracle["missed"].values()) == {0}
    phases = {phase["phase"]: phase for phase in session.meta["coverage"]}
    assert all(phases[name]["attach"] for name in ("numa_scan", "hint_fault", "hint_fault_end"))


def test_scans_of_balancing_are_counted(session: Judged) -> None:
    """As often as a kretprobe of tracefs saw task_numa_work() return, in all processes."""
    scans = balanced(session)["scans"]
    assert scans == session.told["balancing"]["all"]["scans"]
    assert scans == session.told["balancing"]["hits"]["scan_end"]
    assert scans > 10


def test_scans_of_balancing_are_timed(session: Judged) -> None:
    """Within the time of the probes around, and around what change_prot_numa() took inside."""
    scan_ns = balanced(session)["scan_ns"]
    seen = session.told["balancing"]["all"]
    assert seen["changing_least_ns"] <= scan_ns <= seen["scan_most_ns"]
    assert seen["changing_least_ns"] > 0


def test_hint_faults_are_those_that_the_kernel_counts(session: Judged) -> None:
    """As many as numa_hint_faults of /proc/vmstat, and as the probe in the function itself.

    After the paths mptrace goes on to trace, and what is left of the scans' work is touched.
    """
    oracle, counted = session.told["balancing"], session.told["vmstat"]["numa_hint_faults"]
    assert oracle["faults_until_end"] <= counted <= oracle["faults_until_after"]
    assert counted <= balanced(session)["faults"] <= session.told["around"]["numa_hint_faults"]


@pytest.mark.parametrize("name", ["numa-balancing", "promotion"])
def test_hint_faults_of_the_process(session: Judged, name: str) -> None:
    """Of the one that is balanced, which ends meanwhile: count and time, exactly and in bounds."""
    path = session.paths[name]
    if "missing" in path:
        pytest.skip(path["missing"])
    mine, seen = balanced(session, path["pid"]), session.told["balancing"]["of"][str(path["pid"])]
    assert mine["faults"] == seen["faults"] >= path["least"]
    assert mine["faults_timed"] == seen["faults_timed"]
    assert seen["migrating_least_ns"] <= mine["fault_ns"] <= seen["fault_most_ns"]
    assert mine["scans"] == seen["scans"]

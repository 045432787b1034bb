# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace run` as a user calls it, in a guest: its report, its recording, its errors."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mptrace.cli import main
from mptrace.lab.guest import Completed, Guest
from mptrace.lab.kernels import SERIES

Mptrace = Callable[..., Completed]
Refusals = Callable[..., list[Completed]]
Fetch = Callable[[str], Path]
PYTHON = sys.executable
CHECKOUT = Path(__file__).parents[2]
#: The kernels under test, as conftest has them.
KERNELS = os.environ.get("MPTRACE_LAB_KERNELS", ",".join(SERIES)).split(",")
#: Root's files, and none of root's powers.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]

#: What must not be there when no mptrace runs: attachments, kprobe events, workers.
LEFTOVERS = r"""
cat /sys/kernel/tracing/enabled_functions /sys/kernel/tracing/kprobe_events \
    /sys/kernel/debug/kprobes/list
for each in /proc/[0-9]*/cmdline; do
    tr '\\0' ' ' <$each 2>/dev/null | grep -a 'mptrace[.]driving[.]worker'
done
grep -v 0 /proc/sys/kernel/bpf_stats_enabled
true
"""


def sh(guest: Guest, script: str, cwd: str, timeout: float = 300) -> Completed:
    """Run a shell script in the guest; `mptrace` is the checkout's."""
    script = f'mptrace() {{ exec {PYTHON} -m mptrace "$@"; }}\n' + script
    return guest.run(["sh", "-c", script], cwd=cwd, timeout=timeout)


def assert_nothing_left(guest: Guest) -> None:
    """No attachment, no kprobe event, no worker and no changed setting is in the guest."""
    assert guest.run(["sh", "-c", LEFTOVERS]).text == ""


def report_of(recording: Path) -> dict[str, Any]:
    """The JSON report of a recording, made on this host."""
    done = CliRunner().invoke(main, ["report", "--json", str(recording)])
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def whole_report_of(recording: Path) -> str:
    """All sections of the report of a recording, made on this host."""
    done = CliRunner().invoke(main, ["report", "--all", str(recording)])
    assert done.exit_code == 0, done.output
    return done.stdout


def dump_of(recording: Path, *options: str) -> list[str]:
    """The lines of `mptrace dump`, made on this host."""
    done = CliRunner().invoke(main, ["dump", str(recording), *options])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def assert_error(done: Completed, status: int, *words: str) -> None:
    """The command failed with this status, a message with these words and no traceback."""
    assert done.returncode == status, done.errors
    assert "Traceback" not in done.errors
    for word in words:
        assert word in done.errors


def only_on(kernel: str, kernels: list[str]) -> bool:
    """Whether this is the last kernel under test, for what does not depend on the kernel."""
    return kernel == kernels[-1]


def test_the_main_job(guest_dir: str, mptrace: Mptrace, fetch: Fetch, tmp_path: Path) -> None:
    """One run: a true report, a recording that gives the same report elsewhere, rows to match."""
    done = mptrace("run", "--pages", "509", "--pin", "0.02", "--repeats", "2")
    assert done.returncode == 0, done.errors
    assert "times are emulated" in done.text
    assert len(done.text.splitlines()) <= 25
    assert max(map(len, done.text.splitlines())) <= 80

    recording = fetch(f"{guest_dir}/mptrace.data")
    modes = {oct(path.stat().st_mode & 0o777) for path in recording.iterdir()}
    assert modes == {"0o600"}
    # without privileges, bcc or a NUMA kernel: on this host
    (tmp_path / "bcc.py").write_text("raise ImportError('not here')")
    again = subprocess.run(
        [*UNPRIVILEGED, PYTHON, "-m", "mptrace", "report", str(recording)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert again.stdout == done.text, again.stderr
    whole = whole_report_of(recording)
    assert "emulated (TCG): times are ratios" in whole
    assert max(map(len, whole.splitlines())) <= 80

    numbers = report_of(recording)
    pinned = 10  # of 509 pages, by two rounds there
    assert numbers["outcomes"] == {
        "moved": 2 * 2 * (509 - pinned),
        "already_there": 2 * pinned,
        "failed": 2 * pinned,
        "not_attempted": 0,
        "unknown": 0,
    }
    agreement = numbers["agreement"]
    assert (agreement["checked"], agreement["disagree"], agreement["unknown"]) == (4 * 509, 0, 0)
    rows = [json.loads(line) for line in dump_of(recording, "--format", "jsonl")]
    assert len(rows) == 4 * 509
    assert {"call", "entry", "address", "target_nid", "status", "outcome", "entry_reason"} <= set(
        rows[0]
    )
    assert len(dump_of(recording, "--failed", "--format", "csv")) == 1 + 2 * pinned


@pytest.mark.one_kernel
def test_a_program_is_compiled_once(guest: Guest, guest_dir: str, fetch: Fetch) -> None:
    """A second session takes what the first one kept, and sees what that saw."""
    script = """
    export MPTRACE_PROGRAMS=$PWD/programs
    run="mptrace run --pages 67 --repeats 1 --no-cost -o"
    (eval "$run first") >&2 && touch -d @1000 programs/*
    stat -c '%a %i' programs programs/*.bpf programs/*.symbols
    (eval "$run second") >&2
    stat -c '%i %Y' programs/*.bpf programs/*.symbols
    """
    done = sh(guest, script, guest_dir)
    lines = [line.split() for line in done.text.splitlines()]
    # one program; symbols for the plan, and one more for the finder of mappers
    assert [mode for mode, _ in lines[:4]] == ["700", "600", "600", "600"], done.errors
    for (_, kept), (used, at) in zip(lines[1:4], lines[4:], strict=True):
        assert used == kept, "written again"
        assert int(at) > 1000, "not looked at"
    first, second = (report_of(fetch(f"{guest_dir}/{name}")) for name in ("first", "second"))
    assert first["outcomes"] == second["outcomes"]
    assert second["outcomes"]["moved"] == 2 * 67
    assert not sum(second["lost"].values())
    methods = [[each["method"] for each in report["coverage"]] for report in (first, second)]
    assert methods[0] == methods[1]


def test_losses_are_counted_and_make_unknown_entries(
    guest_dir: str, mptrace: Mptrace, fetch: Fetch
) -> None:
    """A ring too small for the run: counted losses, unknown entries, --strict's own status."""
    arguments = ["--pages", "5003", "--buffer", "4K", "--repeats", "1", "--no-cost", "--strict"]
    done = mptrace("run", *arguments)
    assert done.returncode == 3, done.errors
    numbers = report_of(fetch(f"{guest_dir}/mptrace.data"))
    assert sum(numbers["lost"].values()) > 0
    assert numbers["outcomes"]["unknown"] > 0
    assert numbers["agreement"]["disagree"] == 0


#: Start a session that would run for long, and wait until rows of it are on disk.
LONG_SESSION = """
mptrace run --pages 509 --repeats 100000 --no-cost >out 2>err &
while ! ls mptrace.data/folios-*.parquet >/dev/null 2>&1; do
    kill -0 $! || exit 9
    sleep 0.2
done
"""


def test_killed_in_the_middle(guest: Guest, guest_dir: str, fetch: Fetch) -> None:
    """Kill -9 leaves a readable recording and nothing behind in the kernel."""
    kill = """
    kill -9 $!
    wait $!; status=$?
    while grep -aqs 'mptrace[.]driving[.]worker' /proc/[0-9]*/cmdline; do sleep 0.1; done
    exit $status
    """
    assert sh(guest, LONG_SESSION + kill, guest_dir).returncode == 137
    assert_nothing_left(guest)
    numbers = report_of(fetch(f"{guest_dir}/mptrace.data"))
    assert numbers["complete"] is False
    assert numbers["agreement"]["disagree"] == 0


def test_interrupted(guest: Guest, guest_dir: str, kernel: str, fetch: Fetch) -> None:
    """Ctrl-C or SIGTERM ends a session in order, with a report of what was seen and status 130."""
    number = "TERM" if only_on(kernel, KERNELS) else "INT"
    stop = f"kill -{number} $!; wait $!; status=$?; cat out; cat err >&2; exit $status"
    done = sh(guest, LONG_SESSION + stop, guest_dir)
    assert done.returncode == 130, done.errors
    assert "checked by location" in " ".join(done.text.split())
    assert "Traceback" not in done.errors
    assert_nothing_left(guest)
    numbers = report_of(fetch(f"{guest_dir}/mptrace.data"))
    assert numbers["complete"] is True
    assert numbers["agreement"]["disagree"] == 0
    assert numbers["agreement"]["checked"] > 0


def test_two_at_once(guest: Guest, guest_dir: str, fetch: Fetch) -> None:
    """Two sessions at the same time see their own calls only, and say which they missed.

    When a session ends, the kernel skips what others attached to the end of a call that is
    under way just then: that call is counted as missed, and is in no other number.  Entries
    of the second session alternate between the nodes, of which one has the pages: of 509
    each of the 254 that move is a group of its own, three rounds there.
    """
    done = sh(
        guest,
        """
        mptrace run --pages 509 --no-cost -o one --strict >one.out 2>&1 & first=$!
        mptrace run --pages 509 --source 0 --target 0,1 --no-cost -o two --strict \\
            >two.out 2>&1 & second=$!
        wait $first; echo $? >statuses; wait $second; echo $? >>statuses
        cat two.out
        """,
        guest_dir,
    )
    assert done.returncode == 0, done.text
    statuses = guest.get(f"{guest_dir}/statuses").split()
    recordings = [fetch(f"{guest_dir}/{name}") for name in ("one", "two")]
    reports = [report_of(recording) for recording in recordings]
    for report, status in zip(reports, statuses, strict=True):
        agreement, missed = report["agreement"], report["lost"]["return_missed"]
        assert agreement["checked"] == agreement["agree"] == (6 - missed) * 509
        assert sum(report["lost"].values()) == missed
        # --strict
        assert int(status) == (3 if missed else 0), done.text
    assert reports[0]["groups"] == []
    (row,) = reports[1]["groups"]
    if reports[1]["lost"]["return_missed"]:
        return
    assert (row["calls"], row["groups"], row["pages"]) == (3, 3 * 254, 3 * 254)
    assert (row["sorted_groups"], row["unknown_calls"]) == (3, 0)
    assert row["ns_per_page"] > 0
    assert "entries alternate between nodes" in " ".join(done.text.split())
    text = " ".join(whole_report_of(recordings[1]).split())
    assert (
        "entries alternate between nodes in 3 calls: 762 groups of 1 page; sorted by node it "
        "would be 3."
    ) in text


def test_another_process(guest: Guest, guest_dir: str, holder: str, fetch: Fetch) -> None:
    """--pid shows what it would move; with --yes it moves it, and back where it was."""
    done = sh(
        guest,
        f"""
        mkfifo wait
        {holder} 1009 0 <wait >pid & victim=$!
        exec 3>wait
        while ! [ -s pid ]; do sleep 0.1; done
        # not what else the line has: how many of them are active, say
        places() {{ grep anon=1009 /proc/$victim/numa_maps | grep -o 'N[0-9]*=[0-9]*'; }}
        places >before
        (mptrace run --pid $victim --target 1) >shown 2>shown.err; echo $? >shown.status
        places >between
        (mptrace run --pid $victim --target 1 --yes) >moved 2>moved.err; echo $? >moved.status
        cat moved.err >&2
        places >after
        exec 3>&-
        """,
        guest_dir,
    )
    assert done.returncode == 0, done.errors

    def text(name: str) -> str:
        return guest.get(f"{guest_dir}/{name}").decode()

    assert text("shown.status") == "2\n"
    assert "nothing was moved" in text("shown.err")
    assert text("moved.status") == "0\n", text("moved.err")
    numbers = report_of(fetch(f"{guest_dir}/mptrace.data"))
    assert numbers["outcomes"]["moved"] >= 2 * 1009
    assert numbers["agreement"]["disagree"] == 0
    # the victim's memory, as the kernel's own file has it: on node 0 all along
    assert text("before") == text("between") == text("after") == "N0=1009\n"


def test_the_target_exits_in_the_middle(guest: Guest, guest_dir: str, holder: str) -> None:
    """A target that ends during the session is a clear error; what was seen is kept."""
    done = sh(
        guest,
        f"""
        mkfifo wait
        {holder} 50021 0 <wait >pid & victim=$!
        exec 3>wait
        while ! [ -s pid ]; do sleep 0.1; done
        mptrace run --pid $victim --target 1 --pages-per-call 101 --yes >out 2>err & tracer=$!
        while ! ls -d mptrace.data >/dev/null 2>&1; do kill -0 $tracer || break; sleep 0.1; done
        kill -9 $victim
        wait $tracer; status=$?
        cat err >&2
        exit $status
        """,
        guest_dir,
    )
    assert_error(done, 1, "mptrace.data")


@pytest.mark.one_kernel
def test_errors_have_a_way_out(guest: Guest, guest_dir: str, refusals: Refusals) -> None:
    """Each wrong request gets its message, its hint and its status, and leaves nothing."""
    sh(guest, "mkdir taken; echo precious >taken/file; ln -s taken link", guest_dir)
    wrong = {
        ("--target", "7"): (2, "node 7", "nodes with memory: 0, 1"),
        ("--pid", "999999", "--yes"): (1, "999999"),
        ("-o", "/nowhere/at/all"): (1, "/nowhere/at/all"),
        ("--kind", "hugetlb"): (1, "huge"),
        ("-o", "taken"): (1, "'taken' exists", "--force"),
        ("-o", "link", "--force"): (1, "not a recording"),
    }
    done = refusals(*(["run", *arguments] for arguments in wrong))
    for each, (status, *words) in zip(done, wrong.values(), strict=True):
        assert_error(each, status, *words)
    assert guest.get(f"{guest_dir}/taken/file") == b"precious\n"
    sh(guest, "ln -s taken mptrace.data", guest_dir)
    assert_error(refusals(["run"])[0], 1, "'mptrace.data' is not a recording", "-o")
    sh(guest, "rm mptrace.data", guest_dir)
    powerless = guest.run([*UNPRIVILEGED, PYTHON, "-m", "mptrace", "run"], cwd="/tmp")
    assert_error(powerless, 1, "root", "sudo")
    assert sh(guest, "ls", guest_dir).text.split() == ["link", "taken"]


@pytest.mark.one_kernel
def test_a_host_that_lacks_something(guest: Guest, guest_dir: str) -> None:
    """No BTF, no bcc, the wrong bcc: each is named, with what to install or to run."""
    no_btf = f"mount --bind /dev/null /sys/kernel/btf/vmlinux && exec {PYTHON} -m mptrace run"
    done = guest.run(["unshare", "-m", "sh", "-c", no_btf], cwd=guest_dir, timeout=120)
    assert_error(done, 1, "BTF")
    sh(guest, "mkdir none other; echo 'raise ImportError(\"no bcc\")' >none/bcc.py", guest_dir)
    sh(guest, "echo >other/bcc.py", guest_dir)
    for shadow, words in (("none", "python3-bpfcc"), ("other", "PyPI")):
        env = {"PATH": os.environ["PATH"], "HOME": "/root", "PYTHONPATH": f"{guest_dir}/{shadow}"}
        done = guest.run([PYTHON, "-m", "mptrace", "run"], cwd=guest_dir, env=env, timeout=120)
        assert_error(done, 1, words)
    assert sh(guest, "ls", guest_dir).text.split() == ["none", "other"]


@pytest.mark.one_kernel
def test_an_installed_wheel_traces(guest: Guest, guest_dir: str, tmp_path: Path) -> None:
    """A wheel built from the project brings the BPF source and its headers, and works."""
    for name in ("mptrace", "pyproject.toml", "README.md"):
        source = CHECKOUT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    build = [PYTHON, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("mptrace-*.whl"))
    guest.put(f"{guest_dir}/{wheel.name}", wheel.read_bytes())
    done = sh(
        guest,
        f"""
        {PYTHON} -m zipfile -e *.whl site
        export PYTHONPATH=$PWD/site
        {PYTHON} -c 'import mptrace; print(mptrace.__file__)'
        (mptrace run --repeats 1 --no-cost --strict) || exit
        mptrace report --all
        """,
        guest_dir,
    )
    assert done.returncode == 0, done.errors
    assert done.text.startswith(f"{guest_dir}/site/mptrace/")
    assert "1,018 entries checked: 1,018 agree" in done.text


@pytest.mark.nodes("1")
@pytest.mark.one_kernel
def test_a_host_with_one_node(guest: Guest, guest_dir: str, mptrace: Mptrace) -> None:
    """With one memory node there is nothing to move between: said, with the guest as way out."""
    assert_error(mptrace("run"), 1, "node 0", "mptrace lab")
    assert_error(mptrace("doctor"), 1)
    assert sh(guest, "ls", guest_dir).text == ""

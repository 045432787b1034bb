# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab itself: what a command in a guest may rely on, and what the host gets of it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mptrace.lab.guest import Guest, LabTimeout
from mptrace.lab.kernels import find_kernel

MPTRACE = (sys.executable, "-m", "mptrace")


def test_the_kernel_is_the_one_asked_for(guest: Guest, kernel: str) -> None:
    """The guest runs the release that the cache recorded, which is of the series asked for."""
    release = guest.run(["uname", "-r"]).text.strip()
    assert release == find_kernel(kernel).release
    assert release.startswith(f"{kernel}.")


def test_output_and_status_are_the_commands(guest: Guest) -> None:
    """Standard output and error stay apart and the exit status is the command's."""
    done = guest.run(["sh", "-c", "echo out; echo err >&2; exit 23"])
    assert (done.returncode, done.stdout, done.stderr) == (23, b"out\n", b"err\n")


def test_output_comes_as_it_is_written(guest: Guest) -> None:
    """The first line arrives before the command goes on: it waits for an answer to it."""
    guest.run(["mkfifo", "/tmp/answer"])
    seen = []
    read_end, write_end = os.pipe()

    def answer(data: bytes) -> None:
        seen.append(data)
        if data == b"question\n":
            os.write(write_end, b"answer\n")

    with os.fdopen(read_end, "rb"):
        done = guest.run(
            ["sh", "-c", "echo question; read reply; echo got $reply"],
            stdin=read_end,
            stdout=answer,
            timeout=60,
        )
        os.close(write_end)
    assert (done.returncode, b"".join(seen)) == (0, b"question\ngot answer\n")


@pytest.mark.parametrize(("argv", "status"), [(["no-such-command"], 127), (["/etc/passwd"], 126)])
def test_a_command_that_cannot_start(guest: Guest, argv: list[str], status: int) -> None:
    """A command that isn't there ends with 127, one that isn't executable with 126, and says so."""
    done = guest.run(argv)
    assert done.returncode == status
    assert argv[0] in done.errors


def test_a_killed_command_has_the_shells_status(guest: Guest) -> None:
    """Death by signal N is 128 + N."""
    assert guest.run(["sh", "-c", "kill -SEGV $$"]).returncode == 128 + signal.SIGSEGV


def test_a_timeout_kills_the_session_and_keeps_the_guest(guest: Guest) -> None:
    """After a timeout neither the command nor its children run, and the guest takes commands."""
    with pytest.raises(LabTimeout) as caught:
        guest.run(["sh", "-c", "echo started; sleep 4321 | cat"], timeout=1)
    assert caught.value.completed.stdout == b"started\n"
    assert caught.value.completed.returncode == 128 + signal.SIGKILL
    assert "sleep 4321" not in guest.run(["busybox", "ps"]).text


def test_a_descendant_does_not_hold_the_command(guest: Guest) -> None:
    """What a command leaves running in the background doesn't delay its end."""
    done = guest.run(["sh", "-c", "sleep 1234 & echo $!"], timeout=60)
    assert "sleep 1234" in guest.run(["busybox", "ps"]).text
    assert guest.run(["busybox", "kill", done.text.strip()]).returncode == 0


def test_a_megabyte_goes_there_and_back(guest: Guest) -> None:
    """Input, output and files of more than one frame arrive unchanged."""
    data = bytes(range(256)) * 5003
    assert guest.run(["cat"], stdin=data).stdout == data
    guest.put("/var/tmp/deep/er/data", data, mode=0o600)
    assert guest.get("/var/tmp/deep/er/data") == data
    assert guest.run(["stat", "-c", "%a", "/var/tmp/deep/er/data"]).text == "600\n"


def test_the_nodes_are_those_asked_for(guest: Guest) -> None:
    """Two nodes with a CPU each, by numactl's account, and NUMA balancing is off."""
    report = guest.run(["numactl", "-H"]).text
    assert "available: 2 nodes (0-1)" in report
    assert "node 0 cpus: 0\n" in report
    assert "node 1 cpus: 1\n" in report
    assert guest.get("/proc/sys/kernel/numa_balancing").strip() == b"0"


@pytest.mark.nodes("768M/cpus=0-1,256M,512M")
def test_nodes_of_different_sizes_without_cpus(guest: Guest) -> None:
    """Nodes differ in size; only the first has CPUs."""
    report = guest.run(["numactl", "-H"]).text
    sizes = [int(line.split()[3]) for line in report.splitlines() if " size: " in line]
    assert len(sizes) == 3
    # A kernel keeps some of each node's memory, more of the first's.
    for size, asked in zip(sizes, (768, 256, 512), strict=True):
        assert asked * 0.85 < size <= asked
    assert "node 0 cpus: 0 1\n" in report
    assert "node 2 cpus:\n" in report


@pytest.mark.nodes("1G/cpus=0-1,512M/slow")
def test_a_slow_node_is_of_a_lower_tier(guest: Guest, kernel: str) -> None:
    """The distances say so on each kernel, the memory tiers where the kernel reads the HMAT."""
    report = guest.run(["numactl", "-H"]).text
    assert "node 1 cpus:\n" in report
    assert "  0:  10  40 \n" in report
    tiers = guest.run(["sh", "-c", "cat /sys/devices/virtual/memory_tiering/*/nodelist"])
    assert sorted(tiers.text.split()) == (["0-1"] if kernel == "6.1" else ["0", "1"])


BUSY = """
import os
cpus = sorted(os.sched_getaffinity(0))
for cpu in cpus:
    if not os.fork():
        os.sched_setaffinity(0, {cpu})
        for _ in range(3_000_000):
            pass
        os._exit(0)
for _ in cpus:
    assert os.wait()[1] == 0
print(len(cpus))
"""


def _busy_ticks() -> Counter[int]:
    """Ticks of user time of each thread of QEMU, which is a child of this process."""
    ticks: Counter[int] = Counter()
    for stat in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, rest = stat.read_text().rsplit(")", 1)
            words = rest.split()
            if "qemu-system" in name and int(words[1]) == os.getpid():
                ticks[int(stat.parent.name)] = int(words[11])
    return ticks


@pytest.mark.multi
@pytest.mark.nodes("512M/cpus=0-1,512M/cpus=2-3")
def test_cpus_run_at_once(guest: Guest) -> None:
    """Each CPU has a thread of the host to itself, and all do the same work; else one does all."""
    before = _busy_ticks()
    done = guest.run([sys.executable, "-c", BUSY], timeout=300)
    assert done.text == "4\n", done.errors
    spent = (_busy_ticks() - before).values()
    assert len([ticks for ticks in spent if ticks > sum(spent) / 10]) == 4, spent


def test_kernel_arguments_are_appended(tmp_path: Path) -> None:
    """--append, once for each, ends up on the kernel's command line."""
    arguments = ("--append", "movablecore=256M", "--append", "mptrace.test=1")
    done = _lab(*arguments, "--", "cat", "/proc/cmdline", cwd=tmp_path)
    assert done.stdout.split()[-2:] == ["movablecore=256M", "mptrace.test=1"], done.stderr


def test_instructions_are_counted_in_place_of_time(tmp_path: Path) -> None:
    """--count: a loop of 2,000,000 instructions takes 2 ms; mptrace in the guest knows it."""
    program = tmp_path / "counted"
    source = Path(__file__).with_name("counted.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    facts = "from mptrace.host.read import read_host_facts as r; print(r().counted, len(r().nodes))"
    script = f"./counted && {sys.executable} -c '{facts}'"
    done = _lab("--count", "--nodes", "2", "--", "sh", "-c", script, cwd=tmp_path)
    assert ", 1 CPU, instructions counted" in done.stderr
    nanoseconds, known = done.stdout.splitlines()
    assert 2_000_000 <= int(nanoseconds) <= 1.005 * 2_000_000
    assert known.startswith("{'cpu': 'QEMU TCG CPU")
    assert known.endswith(" 2")


def test_what_a_tracer_needs_is_mounted(guest: Guest) -> None:
    """tracefs, debugfs, bpf, cgroup2 and shared memory are there; so is the kernel's BTF."""
    mounts = guest.get("/proc/mounts").decode()
    for place, kind in (
        ("/sys/kernel/tracing", "tracefs"),
        ("/sys/kernel/debug", "debugfs"),
        ("/sys/fs/bpf", "bpf"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/dev/shm", "tmpfs"),
    ):
        assert f" {place} {kind} " in mounts
    assert guest.run(["test", "-s", "/sys/kernel/btf/vmlinux"]).returncode == 0


def test_modules_load_and_a_real_file_system_mounts(guest: Guest, guest_dir: str) -> None:
    """modprobe, by us and by the kernel, finds the modules: ext4 on a loop device."""
    script = (
        "set -e; modprobe loop; truncate -s 32M disk; mkfs.ext4 -q disk; mkdir m;"
        "mount -o loop disk m; echo yes > m/file; cat m/file; umount m"
    )
    done = guest.run(["sh", "-c", script], cwd=guest_dir)
    assert (done.returncode, done.stdout) == (0, b"yes\n"), done.errors


def test_the_host_is_untouched(guest: Guest, tmp_path: Path) -> None:
    """The guest sees the host's files; what it writes to them the host doesn't see."""
    (tmp_path / "file").write_text("host\n")
    done = guest.run(["sh", "-c", "cat file; echo guest > file; cat file"], cwd=tmp_path)
    assert done.stdout == b"host\nguest\n", done.errors
    assert (tmp_path / "file").read_text() == "host\n"


def test_a_directory_is_fetched(guest: Guest, guest_dir: str, fetch: Callable[[str], Path]) -> None:
    """The fixture that tests use to look at a recording copies a whole directory."""
    guest.put(f"{guest_dir}/data/part", b"content")
    assert (fetch(f"{guest_dir}/data") / "part").read_bytes() == b"content"


def _lab(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*MPTRACE, "lab", *arguments],
        **{
            "cwd": cwd,
            "capture_output": True,
            "text": True,
            "timeout": 300,
            "check": False,
            **options,
        },
    )


def test_the_command_line_brings_changes_back(tmp_path: Path) -> None:
    """New, changed and removed paths below the current directory come back; caches don't."""
    for name in ("same", "changed", "gone"):
        (tmp_path / name).write_text("before\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "part-1").write_text("of the old one\n")
    (tmp_path / "same").chmod(0o640)
    untouched = (tmp_path / "same").stat()
    script = (
        "echo before > same; echo after > changed; rm gone; rm -r old; mkdir old;"
        "echo new > old/part-0; ln -s changed link; mkdir -p __pycache__ /etc/mptrace-test;"
        "echo x > __pycache__/x; umask 077; echo s > secret; echo $MPTRACE_IN_LAB; exit 5"
    )
    done = _lab("--", "sh", "-c", script, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (5, "1\n"), done.stderr
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"same", "changed", "old", "old/part-0", "link", "secret"}
    assert (tmp_path / "changed").read_text() == "after\n"
    assert (tmp_path / "link").readlink() == Path("changed")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    now = (tmp_path / "same").stat()
    assert (now.st_ino, now.st_mtime_ns) == (untouched.st_ino, untouched.st_mtime_ns)
    assert not Path("/etc/mptrace-test").exists()
    assert "lab: booting 6.1." in done.stderr


def test_standard_input_may_be_closed(tmp_path: Path) -> None:
    """`mptrace lab <&-` works; the command reads an empty input."""
    quoted = " ".join(MPTRACE)
    script = f"exec {quoted} lab --no-bring -- sh -c 'cat; echo done' <&-"
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_full_disk_below_its_output_ends_the_command(tmp_path: Path) -> None:
    """The command is killed, what it changed comes back all the same, and the reason is said."""
    script = "echo kept > kept; echo said >&2; exec yes"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MPTRACE, "lab", "--", "sh", "-c", script],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "mptrace: can't write to standard output: No space left on device"
    assert "said\n" in done.stderr
    assert (tmp_path / "kept").read_text() == "kept\n"


def test_a_panic_is_explained(tmp_path: Path) -> None:
    """A guest whose kernel panics is a failure that quotes the kernel's last words."""
    done = _lab("--", "sh", "-c", "echo c > /proc/sysrq-trigger", cwd=tmp_path)
    assert done.returncode == 1
    assert "mptrace: the guest died" in done.stderr
    assert "sysrq" in done.stderr
    assert "--verbose" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM exit with 130; no process and no file of the guest stays.

    Also from a script's background, where SIGINT is ignored.
    """
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with subprocess.Popen(
        ["env", "--ignore-signal=INT", *MPTRACE, "lab", "--", "sh", "-c", "echo up; sleep 1000"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.send_signal(number)
        assert process.wait(60) == 130
    assert not Path(f"/proc/{children[0]}").exists()
    assert list(temporary.iterdir()) == []

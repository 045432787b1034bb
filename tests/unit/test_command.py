# SPDX-License-Identifier: GPL-2.0-or-later
"""The command under `mptrace record`: held, released, its exit status, what it inherits."""

import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mptrace.errors import CommandError, UsageError
from mptrace.sessions.command import Command, find_user, invoking_user

Start = Callable[..., Command]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command; those not released are ended."""
    started = []

    def begin(*argv: str) -> Command:
        command = Command(argv, None)
        command.start()
        started.append(command)
        return command

    yield begin
    for command in started:
        command.close()


def run(start: Start, script: str) -> int:
    """The exit status of a shell script."""
    command = start("sh", "-c", script)
    command.release()
    return command.wait()


@pytest.mark.parametrize("status", [0, 1, 23, 255])
def test_its_exit_status_is_passed_on(start: Start, status: int) -> None:
    """As it gives it."""
    assert run(start, f"exit {status}") == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_ended_by_a_signal(start: Start, number: signal.Signals) -> None:
    """128 and the signal's number, as a shell says; none of these is ignored in it."""
    assert run(start, f"kill -{int(number)} $$") == 128 + number


def test_it_waits_for_the_word(start: Start, tmp_path: Path) -> None:
    """Nothing of it runs before `release`: it is still a fork of this process."""
    command = start("sh", "-c", f"touch {tmp_path}/ran")
    held = Path(f"/proc/{command.pid}/cmdline").read_bytes()
    assert held == Path("/proc/self/cmdline").read_bytes()
    assert command.poll() is None
    assert not (tmp_path / "ran").exists()
    command.release()
    assert command.wait() == 0
    assert (tmp_path / "ran").exists()
    assert command.poll() == 0


def test_it_is_the_process_that_was_started(start: Start, tmp_path: Path) -> None:
    """Its pid is known before it runs, so that it can be chosen."""
    command = start("sh", "-c", f"echo $$ >{tmp_path}/pid")
    command.release()
    command.wait()
    assert int((tmp_path / "pid").read_text()) == command.pid


_DESCRIPTORS = """
import os, sys
found = []
for fd in range(4096):
    try:
        os.fstat(fd)
        found.append(str(fd))
    except OSError:
        pass
open(sys.argv[1], "w").write(" ".join(found))
"""


def test_it_inherits_no_descriptor_of_ours(start: Start, tmp_path: Path) -> None:
    """Open files and pipes of this process stay here; the command itself says what it has."""
    with (tmp_path / "secret").open("w") as secret:
        command = start(sys.executable, "-c", _DESCRIPTORS, f"{tmp_path}/theirs")
        ours = {int(name) for name in os.listdir("/proc/self/fd")}
        # what whoever runs these tests passes on is passed on
        meant = {fd for fd in ours if _is_inheritable(fd)}
        assert secret.fileno() in ours - meant
        command.release()
        assert command.wait() == 0
    assert {int(name) for name in (tmp_path / "theirs").read_text().split()} == meant


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # it listed the directory
        return False


def test_not_found() -> None:
    """127 before anything is traced."""
    with pytest.raises(CommandError, match="'no-such-command': not found") as caught:
        Command(["no-such-command"], None).start()
    assert caught.value.exit_code == 127


def test_not_executable(tmp_path: Path) -> None:
    """126, as a shell says."""
    (tmp_path / "file").write_text("text")
    with pytest.raises(CommandError, match="permission denied") as caught:
        Command([str(tmp_path / "file")], None).start()
    assert caught.value.exit_code == 126


def test_refused_by_the_kernel(start: Start, tmp_path: Path) -> None:
    """Executable, and no program: said when it is released."""
    file = tmp_path / "file"
    file.write_bytes(b"\x00\x01 no program")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    command = start(str(file))
    with pytest.raises(CommandError, match="Exec format error") as caught:
        command.release()
    assert caught.value.exit_code == 126
    assert "you may run it" in caught.value.hint


def test_an_interpreter_that_is_not_there(start: Start, tmp_path: Path) -> None:
    """127, with the kernel's own words."""
    file = tmp_path / "script"
    file.write_text("#!/no/such/interpreter\n")
    file.chmod(0o755)
    command = start(str(file))
    with pytest.raises(CommandError, match="No such file") as caught:
        command.release()
    assert caught.value.exit_code == 127


def test_one_that_is_never_released_never_runs(start: Start, tmp_path: Path) -> None:
    """It leaves when told to close, and is no zombie."""
    command = start("touch", f"{tmp_path}/ran")
    command.close()
    command.close()
    assert not Path(f"/proc/{command.pid}").exists()
    assert not (tmp_path / "ran").exists()


def test_closing_leaves_one_that_runs_alone(start: Start) -> None:
    """Tracing ends, the command doesn't."""
    command = start("sleep", "100")
    command.release()
    command.close()
    assert command.poll() is None
    os.kill(command.pid, signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM


def test_killed_while_it_waits(start: Start) -> None:
    """Its status says so; nothing else happens."""
    command = start("true")
    os.kill(command.pid, signal.SIGKILL)
    while Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    command.release()
    assert command.wait() == 128 + signal.SIGKILL


def test_it_leaves_when_its_parent_dies(tmp_path: Path) -> None:
    """A command that nobody will release does not wait for ever."""
    script = (
        "from mptrace.sessions.command import Command\n"
        f"command = Command(['touch', '{tmp_path}/ran'], None)\n"
        "command.start()\n"
        "print(command.pid, flush=True)\n"
        "import os\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    gone = Path(f"/proc/{int(parent.stdout)}/stat")
    until = time.monotonic() + 30
    # where init reaps nobody it stays as a zombie
    while gone.exists() and gone.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not (tmp_path / "ran").exists()


def test_users_by_name_and_number() -> None:
    """Both lead to the same entry of the user database."""
    me = pwd.getpwuid(os.getuid())
    assert find_user(me.pw_name) == find_user(str(me.pw_uid))
    assert find_user(me.pw_name).gid == me.pw_gid
    with pytest.raises(UsageError, match="no user 'no-such-user'"):
        find_user("no-such-user")


def test_who_called_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's environment says it; anybody else's is not believed."""
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setenv("SUDO_UID", str(nobody.pw_uid))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user = invoking_user()
    assert user is not None
    assert (user.name, user.uid) == ("nobody", nobody.pw_uid)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert invoking_user() is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for nonsense in ("", "-1", "root"):
        monkeypatch.setenv("SUDO_UID", nonsense)
        assert invoking_user() is None
    monkeypatch.delenv("SUDO_UID")
    assert invoking_user() is None

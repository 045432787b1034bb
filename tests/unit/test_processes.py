# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of the processes that a session meets, below a root that a test made."""

import os
from pathlib import Path

import pytest

from mptrace.host import processes
from mptrace.host.processes import Processes, cgroup_id

UNKNOWN_USER = 0xFFFFFFFF


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with a cgroup2 tree and two processes."""
    group = tmp_path / "sys/fs/cgroup/work.slice/db"
    group.mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").touch()
    for directory in (group, group.parent, group.parent.parent):
        (directory / "cgroup.procs").touch()
    add(tmp_path, 23, "server", "0::/work.slice/db")
    add(tmp_path, 29, "kcompactd0", "0::/")
    return tmp_path


def add(root: Path, tgid: int, comm: str, cgroup: str) -> None:
    """A process."""
    proc = root / "proc" / str(tgid)
    proc.mkdir(parents=True)
    (proc / "comm").write_text(comm + "\n")
    (proc / "cgroup").write_text(cgroup + "\n")


def test_name_user_and_cgroup(root: Path) -> None:
    """As /proc has them; the cgroup by the number of its directory, with its path."""
    met = Processes(root)
    rows = met.meet([29, 23])
    assert rows["tgid"].tolist() == [23, 29]
    assert rows["comm"].tolist() == [b"server", b"kcompactd0"]
    assert rows["uid"].tolist() == [os.getuid()] * 2
    mount = root / "sys/fs/cgroup"
    ids = [(mount / "work.slice/db").stat().st_ino, mount.stat().st_ino]
    assert rows["cgroup_id"].tolist() == ids
    assert met.cgroups == {ids[0]: "/work.slice/db", ids[1]: "/"}
    assert (rows["seen_ns"] > 0).all()


def test_each_is_asked_once(root: Path) -> None:
    """Until the next recording, which has to stand for itself; 0 is nobody."""
    met = Processes(root)
    assert met.meet([0, 23, 23]).size == 1
    assert met.meet([23, 0]).size == 0
    met.forget()
    assert met.meet([23]).size == 1


def test_one_that_is_gone_has_no_name(root: Path) -> None:
    """It was there: that much is known."""
    rows = Processes(root).meet([31])
    assert rows["tgid"].tolist() == [31]
    assert (rows["comm"][0], rows["uid"][0], rows["cgroup_id"][0]) == (b"", UNKNOWN_USER, 0)


def test_one_that_goes_while_it_is_asked(root: Path) -> None:
    """What was read until then stays."""
    (root / "proc/23/cgroup").unlink()
    (row,) = Processes(root).meet([23])
    assert (row["comm"], row["uid"], row["cgroup_id"]) == (b"server", os.getuid(), 0)


def test_cgroups_of_version_1_are_not_mixed_up(root: Path) -> None:
    """Only the unified hierarchy counts."""
    (root / "proc/23/cgroup").write_text("5:cpuset:/work.slice\n1:name=systemd:/x\n0::/\n")
    assert Processes(root).meet([23])["cgroup_id"][0] == (root / "sys/fs/cgroup").stat().st_ino


def test_without_cgroups(tmp_path: Path) -> None:
    """A host without cgroup2 has no such numbers."""
    add(tmp_path, 23, "server", "0::/work.slice/db")
    met = Processes(tmp_path)
    assert met.meet([23])["cgroup_id"][0] == 0
    assert met.cgroups == {}


def test_a_long_session_does_not_grow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound everybody is asked anew."""
    monkeypatch.setattr(processes, "_MAX_KNOWN", 2)
    met = Processes(root)
    met.meet([23, 29])
    assert met.meet([23, 31])["tgid"].tolist() == [31]
    assert met.meet([23, 31])["tgid"].tolist() == [23]


def test_a_cgroup_by_directory_or_path(root: Path) -> None:
    """Both ways to say it lead to the same number and path."""
    directory = root / "sys/fs/cgroup/work.slice/db"
    wanted = (directory.stat().st_ino, "/work.slice/db")
    assert cgroup_id(str(directory), root) == wanted
    assert cgroup_id("/work.slice/db", root) == wanted
    assert cgroup_id("work.slice/db", root) == wanted
    assert cgroup_id("/", root)[1] == "/"


@pytest.mark.parametrize("path", ["/nowhere", "work.slice/nobody", "/proc"])
def test_there_is_no_such_cgroup(root: Path, path: str) -> None:
    """Neither outside the tree nor in it."""
    with pytest.raises(FileNotFoundError):
        cgroup_id(path, root)


def test_who_mptrace_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number where numbers are the kernel's own; elsewhere another process may have it."""
    monkeypatch.setattr(processes, "in_initial_namespace", lambda: True)
    assert processes.own_tgids() == [os.getpid()]
    monkeypatch.setattr(processes, "in_initial_namespace", lambda: False)
    assert processes.own_tgids() is None

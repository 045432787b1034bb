# SPDX-License-Identifier: GPL-2.0-or-later
"""Methods that all work are not tried again in the same boot, as long as nothing changes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from mptrace.host import bpf_support, kept, kernel_methods
from mptrace.host.facts import STACK_ARGUMENTS, Prototype
from mptrace.host.kernel_methods import known, tried

WORKS = dict.fromkeys(("fentry", "kprobe", "tracepoint", "raw_tracepoint"), "")
LONG = {"migrate_pages": Prototype(tuple("abcdefg"), "int")}
TOO_MANY = "attaching: ENOTSUPP"
STATUS = "Name:\tx\nCapEff:\t%s\nCapBnd:\t1\nNoNewPrivs:\t0\nSeccomp:\t0\n"


class Kernel:
    """Stands for a kernel that allows some methods; counts how often they are tried."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.tries, self.methods = root, 0, dict(WORKS)
        self.write("proc/sys/kernel/random/boot_id", "boot-1\n")
        self.write("proc/self/status", STATUS % "f")
        self.write("sys/kernel/security/lockdown", "[none] integrity\n")
        monkeypatch.setenv("MPTRACE_PROGRAMS", str(root / "kept"))
        monkeypatch.setattr(bpf_support, "try_methods", self._try)
        monkeypatch.setattr(bpf_support, "try_attach", lambda *_: TOO_MANY)

    def _try(self, *_: object) -> dict[str, str]:
        self.tries += 1
        return dict(self.methods)

    def write(self, place: str, text: str) -> None:
        """A file of its tree."""
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def known(
        self, prototypes: Mapping[str, Prototype] = LONG, tracefs: Path | None = None
    ) -> dict[str, str]:
        """What a session is told."""
        return known(self.root, tracefs, None, prototypes)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """One that allows all."""
    return Kernel(tmp_path, monkeypatch)


def test_what_works_is_tried_once_in_a_boot(kernel: Kernel) -> None:
    """With the answer about arguments on the stack, which may be a refusal."""
    first = kernel.known()
    assert first == {**WORKS, STACK_ARGUMENTS: TOO_MANY}
    assert kernel.known() == first
    assert kernel.tries == 1
    # doctor tries in any case
    assert tried(None, None, LONG) == first
    assert kernel.tries == 2


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("proc/sys/kernel/random/boot_id", "boot-2\n"),
        ("proc/sys/kernel/ftrace_enabled", "0\n"),
        ("proc/self/status", STATUS % "7"),
        ("proc/self/status", (STATUS % "f").replace("Seccomp:\t0", "Seccomp:\t2")),
        ("proc/self/uid_map", "0 1000 1\n"),
        ("sys/kernel/security/lockdown", "none [integrity]\n"),
    ],
)
def test_what_decides_about_it_has_changed(kernel: Kernel, place: str, text: str) -> None:
    """Another boot, other rights, a lockdown, ftrace switched off: tried again."""
    kernel.known()
    kernel.write(place, text)
    kernel.methods["fentry"] = "attaching: EPERM"
    assert kernel.known()["fentry"] == "attaching: EPERM"


def test_another_question_is_tried(kernel: Kernel) -> None:
    """No function with arguments on the stack; another place of tracefs."""
    kernel.known()
    assert kernel.known({}) == WORKS
    kernel.known(tracefs=Path("tracing"))
    assert kernel.tries == 3


def test_a_refusal_is_not_kept(kernel: Kernel) -> None:
    """Its reason may be gone next time."""
    kernel.methods["kprobe"] = "attaching: EBUSY"
    assert kernel.known()["kprobe"] == "attaching: EBUSY"
    assert not (kernel.root / "kept").exists()
    kernel.methods["kprobe"] = ""
    assert kernel.known()["kprobe"] == ""
    assert kernel.tries == 2


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"fentry":"","kprobe":"no"}'])
def test_what_is_something_else_is_not_believed(kernel: Kernel, text: bytes) -> None:
    """A file that another program of this user wrote in its place, with the right digest."""
    kernel.known()
    (file,) = (kernel.root / "kept").iterdir()
    assert kept.store(file.parent, file.stem, kernel_methods.SUFFIX, text)
    assert kernel.known() == {**WORKS, STACK_ARGUMENTS: TOO_MANY}
    assert kernel.tries == 2


def test_without_a_place_or_a_boot_each_session_tries(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty MPTRACE_PROGRAMS, a folder that can't be made, a boot without a number."""
    (kernel.root / "kept").write_text("no directory")
    for _ in range(2):
        assert kernel.known({}) == WORKS
    monkeypatch.setenv("MPTRACE_PROGRAMS", "")
    assert kernel.known({}) == WORKS
    monkeypatch.setenv("MPTRACE_PROGRAMS", str(kernel.root / "other"))
    (kernel.root / "proc/sys/kernel/random/boot_id").unlink()
    assert kernel.known({}) == WORKS
    assert kernel.tries == 4
    assert not (kernel.root / "other").exists()

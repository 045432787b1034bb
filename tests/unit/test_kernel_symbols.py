# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's lists of symbols say is kept for the same boot, and for no other."""

from pathlib import Path

import pytest

from mptrace.host import kept, kernel_symbols
from mptrace.host.kernel_symbols import KernelSymbols, read

FUNCTIONS, VARIABLES = ("migrate_pages", "absent"), ("vmemmap_base", "missing")
LISTED = KernelSymbols(
    frozenset({"migrate_pages"}), {"vmemmap_base": 0xFFFFFFFF82A00010}, frozenset({"migrate_pages"})
)


class Lists:
    """Stands for the lists of the running kernel; counts how often they are read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.reads = root, 0
        self.write("boot-1", address=0xFFFFFFFF82A00010, traceable="migrate_pages\n")
        monkeypatch.setenv("MPTRACE_PROGRAMS", str(root / "kept"))
        # "/" stands for the running kernel: what it has is kept
        monkeypatch.setattr(
            kernel_symbols, "Path", lambda text: root if text == "/" else Path(text)
        )
        kallsyms = kernel_symbols.symbols.kallsyms

        def counted(root: Path) -> bytes:
            self.reads += 1
            return kallsyms(root)

        monkeypatch.setattr(kernel_symbols.symbols, "kallsyms", counted)

    def write(self, boot: str, *, address: int, traceable: str | None) -> None:
        """The lists of a kernel."""
        proc, tracing = self.root / "proc", self.root / "sys/kernel/tracing"
        (proc / "sys/kernel/random").mkdir(parents=True, exist_ok=True)
        (proc / "sys/kernel/random/boot_id").write_text(boot + "\n")
        (proc / "kallsyms").write_text(
            f"{address:016x} T migrate_pages\n{address:016x} D vmemmap_base\n"
        )
        (tracing / "events").mkdir(parents=True, exist_ok=True)
        if traceable is not None:
            (tracing / "available_filter_functions").write_text(traceable)

    def read(
        self, functions: tuple[str, ...] = FUNCTIONS, variables: tuple[str, ...] = VARIABLES
    ) -> KernelSymbols:
        """What they say."""
        return read(self.root, functions, variables)


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lists:
    """Those of one kernel."""
    return Lists(tmp_path, monkeypatch)


def test_they_are_read_once_in_a_boot(lists: Lists) -> None:
    """The second answer is the first one; the file is its owner's alone."""
    assert lists.read() == LISTED
    assert lists.read() == LISTED
    assert lists.reads == 1
    (file,) = (lists.root / "kept").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_another_boot_has_other_addresses(lists: Lists) -> None:
    """What was kept is not believed then."""
    lists.read()
    lists.write("boot-2", address=0xFFFFFFFF91234560, traceable="migrate_pages\n")
    assert lists.read().variables == {"vmemmap_base": 0xFFFFFFFF91234560}


def test_other_names_are_another_question(lists: Lists) -> None:
    """A later mptrace asks for more."""
    lists.read()
    found = lists.read(("migrate_pages", "vmemmap_base"), VARIABLES)
    assert (found, lists.reads) == (LISTED, 2)
    # a name is a function in one question, and a variable in the other
    assert lists.read((), ("migrate_pages", *VARIABLES)).text == frozenset()
    assert lists.reads == 3


@pytest.mark.parametrize("hidden", ["addresses", "functions"])
def test_what_was_hidden_is_asked_again(lists: Lists, hidden: str) -> None:
    """kptr_restrict shows zeros, and tracefs may be mounted later."""
    if hidden == "addresses":
        lists.write("boot-1", address=0, traceable="migrate_pages\n")
    else:
        (lists.root / "sys/kernel/tracing/available_filter_functions").unlink()
    assert lists.read() != LISTED
    lists.write("boot-1", address=0xFFFFFFFF82A00010, traceable="migrate_pages\n")
    assert lists.read() == LISTED


@pytest.mark.parametrize("text", [b"", b"[]", b"[1, 2, 3]", b"{}", b"\xff"])
def test_what_is_something_else_is_not_believed(lists: Lists, text: bytes) -> None:
    """A file that another program of this user wrote in its place, with the right digest."""
    lists.read()
    (file,) = (lists.root / "kept").iterdir()
    assert kept.store(file.parent, file.stem, kernel_symbols.SUFFIX, text)
    assert lists.read() == LISTED


def test_nothing_is_kept_of_another_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lists are not those of this boot."""
    monkeypatch.setenv("MPTRACE_PROGRAMS", str(tmp_path / "kept"))
    assert read(tmp_path, FUNCTIONS, VARIABLES).text == frozenset()
    assert not (tmp_path / "kept").exists()

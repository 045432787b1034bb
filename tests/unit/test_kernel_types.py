# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's BTF says is kept for the same build of the kernel, and for no other."""

import os
import struct
from pathlib import Path

import pytest
from test_kernel_btf import ENUM, FUNC, INT, STRUCT, TYPEDEF, Builder

from mptrace.errors import HostError
from mptrace.host import btf, kept, kernel_types
from mptrace.host.btf import Btf
from mptrace.host.facts import Prototype
from mptrace.host.kernel_types import KernelTypes, build_id, key_of

NOTE = struct.pack("=III", 4, 4, 3) + b"GNU\0" + bytes([0xAB, 0xCD, 0xEF, 1])
XEN = struct.pack("=III", 4, 6, 6) + b"Xen\0" + b"linux\0\0\0"


def raw(shift: int = 0) -> bytes:
    """BTF of a kernel, of always the same size; another type comes first, or last."""
    builder = Builder()
    if shift:
        builder.add(INT, "unused", 4, (32,))
    number = builder.add(INT, "int", 4, (32,))
    builder.record(STRUCT, "page", 16 + shift, ("flags", number, 64 + 8 * shift))
    builder.function("migrate_pages", number, ("from", number), ("reason", number))
    builder.add(TYPEDEF, "btf_trace_wake", number)
    builder.add(ENUM, "migrate_mode", 4, (builder.name("MIGRATE_ASYNC"), shift), vlen=1)
    if not shift:
        builder.add(INT, "unused", 4, (32,))
    return builder.raw()


class Kernel:
    """Stands for the running kernel; counts how often its BTF is read."""

    def __init__(self, root: Path) -> None:
        self.root, self.kept, self.reads, self.shift = root, root / "kept", 0, 0
        self.boot(b"\xab", 0)

    def boot(self, build: bytes, shift: int) -> None:
        """Another kernel takes its place."""
        self.shift = shift
        for place, data in (
            (kernel_types._NOTES, XEN + struct.pack("=III", 4, len(build), 3) + b"GNU\0" + build),
            (btf.VMLINUX, raw(shift)),
        ):
            (self.root / place).parent.mkdir(parents=True, exist_ok=True)
            (self.root / place).write_bytes(data)

    def types(self) -> KernelTypes:
        """As a session has them."""

        def source() -> Btf:
            self.reads += 1
            return Btf(raw(self.shift))

        return KernelTypes(key_of(self.root), self.kept, source)

    def file(self) -> Path:
        """The one that is kept."""
        (found,) = self.kept.iterdir()
        return found


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """One whose BTF nobody has read yet."""
    return Kernel(tmp_path)


def answers(types: KernelTypes) -> tuple[object, ...]:
    """One of each kind, with names that are not there."""
    return (
        types.prototypes(["migrate_pages", "absent"]),
        types.function_id("migrate_pages"),
        types.function_id("absent"),
        types.typedef_id("btf_trace_wake"),
        types.typedef_id("absent"),
        types.offsets(["page.flags", "page.absent"]),
        types.sizes(["page", "absent"]),
        types.enum("migrate_mode"),
        types.enum("absent"),
    )


EXPECTED = (
    {"migrate_pages": Prototype(("from", "reason"), "int")},
    4,
    None,
    5,
    None,
    {"page.flags": 8},
    {"page": 16},
    {"MIGRATE_ASYNC": 0},
    {},
)


def ask_and_keep(kernel: Kernel) -> None:
    """What a first session does."""
    types = kernel.types()
    assert answers(types) == EXPECTED
    types.keep()


def test_btf_is_read_once_for_a_kernel(kernel: Kernel) -> None:
    """The second session's answers are the first one's; the file is its owner's alone."""
    ask_and_keep(kernel)
    kernel.reads = 0
    assert answers(kernel.types()) == EXPECTED
    assert kernel.reads == 0
    assert kernel.file().stat().st_mode & 0o777 == 0o600
    assert FUNC, "its id is by what a program gets attached"


def test_another_build_of_the_kernel_is_asked_itself(kernel: Kernel) -> None:
    """Its type ids are others, even where its release and the size of its BTF are the same."""
    ask_and_keep(kernel)
    assert len(raw(0)) == len(raw(1))
    kernel.boot(b"\xcd", 1)
    types = kernel.types()
    assert types.function_id("migrate_pages") == 5
    assert types.offsets(["page.flags"]) == {"page.flags": 9}
    types.keep()
    kernel.boot(b"\xab", 0)
    assert answers(kernel.types()) == EXPECTED


@pytest.mark.parametrize("changed", ["version", "reader", "format", "machine", "size"])
def test_what_answers_depend_on(
    kernel: Kernel, changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another mptrace, another reader of BTF, another machine: another key."""
    before = key_of(kernel.root)
    assert before == key_of(kernel.root)
    if changed == "version":
        monkeypatch.setattr(kernel_types, "__version__", "0")
    elif changed == "reader":
        other = tmp_path / "btf.py"
        other.write_text("changed")
        monkeypatch.setattr(btf, "__file__", str(other))
    elif changed == "format":
        monkeypatch.setattr(kernel_types, "_FORMAT", "0")
    elif changed == "machine":
        told = os.uname()
        other_machine = os.uname_result((*told[:4], "riscv64"))
        monkeypatch.setattr(os, "uname", lambda: other_machine)
    else:
        (kernel.root / btf.VMLINUX).write_bytes(raw() + b"more")
    assert key_of(kernel.root) not in ("", before)


def test_a_kernel_without_a_build_id_is_asked_each_time(kernel: Kernel) -> None:
    """Nothing says that the next one is the same; nothing is kept."""
    for notes in (XEN, b"", b"\1\2\3"):
        (kernel.root / kernel_types._NOTES).write_bytes(notes)
        assert key_of(kernel.root) == ""
    ask_and_keep(kernel)
    assert not kernel.kept.exists()
    (kernel.root / kernel_types._NOTES).unlink()
    assert key_of(kernel.root) == ""


def test_the_build_id_is_found_among_notes() -> None:
    """By name and kind; names and what is said are padded to words."""
    odd = struct.pack("=III", 5, 5, 3) + b"GNU\0\0\0\0\0" + b"12345\0\0\0"
    assert build_id(XEN + odd + NOTE) == "abcdef01"
    assert build_id(NOTE[:-2]) == "abcd"
    assert build_id(XEN) == build_id(NOTE[:8]) == ""


def test_a_new_question_is_asked_and_kept_with_the_others(kernel: Kernel) -> None:
    """A later mptrace, or another command, asks for more."""
    types = kernel.types()
    assert types.sizes(["page"]) == {"page": 16}
    types.keep()
    written = kernel.file().stat().st_mtime_ns, kernel.file().read_bytes()
    kernel.reads = 0
    again = kernel.types()
    assert again.sizes(["page"]) == {"page": 16}
    again.keep()
    assert (kernel.reads, kernel.file().read_bytes()) == (0, written[1])
    assert again.sizes(["page", "int"]) == {"page": 16, "int": 4}
    assert kernel.reads == 1
    again.keep()
    kernel.reads = 0
    assert kernel.types().sizes(["int", "page"]) == {"page": 16, "int": 4}
    assert kernel.reads == 0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"offsets": {}}',
        b'{"function_ids":{"migrate_pages":"x"},"typedef_ids":{},"offsets":{},"sizes":{},'
        b'"prototypes":{},"enums":{}}',
        b'{"function_ids":{},"typedef_ids":{},"offsets":{},"sizes":{},"prototypes":{"a":{"b":1}},'
        b'"enums":{}}',
        b'{"function_ids":{},"typedef_ids":{},"offsets":{},"sizes":{},"prototypes":{},"enums":[]}',
    ],
)
def test_what_is_something_else_is_not_believed(kernel: Kernel, text: bytes) -> None:
    """A file that another program of this user wrote in its place, with the right digest."""
    ask_and_keep(kernel)
    assert kept.store(kernel.kept, kernel.file().stem, kernel_types.SUFFIX, text)
    ask_and_keep(kernel)
    kernel.reads = 0
    assert answers(kernel.types()) == EXPECTED
    assert kernel.reads == 0, "it was written again"


@pytest.mark.parametrize("how", ["cut", "changed", "others", "somebody's"])
def test_a_damaged_file_or_one_of_others_is_not_believed(
    kernel: Kernel, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BTF is asked, as if nothing was there."""
    ask_and_keep(kernel)
    file, whole = kernel.file(), kernel.file().read_bytes()
    wrong = whole.replace(b'"migrate_pages": 4', b'"migrate_pages": 1')
    assert wrong != whole
    file.write_bytes(wrong)
    if how == "cut":
        file.write_bytes(whole[:-1])
    elif how == "others":
        file.write_bytes(whole)
        file.chmod(0o622)
    elif how == "somebody's":
        file.write_bytes(whole)
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    kernel.reads = 0
    assert answers(kernel.types()) == EXPECTED
    assert kernel.reads


def test_that_nothing_can_be_kept_is_no_error(kernel: Kernel) -> None:
    """A folder that can't be written, or none: each session asks."""
    kernel.kept.write_text("no directory")
    ask_and_keep(kernel)
    ask_and_keep(kernel)
    types = KernelTypes(key_of(kernel.root), None, lambda: Btf(raw()))
    assert answers(types) == EXPECTED
    types.keep()


def test_no_btf_and_nothing_kept_is_an_error(kernel: Kernel) -> None:
    """It is told at once, not at the first question."""

    def absent() -> Btf:
        raise HostError("no BTF")

    with pytest.raises(HostError, match="no BTF"):
        KernelTypes(key_of(kernel.root), kernel.kept, absent)
    ask_and_keep(kernel)
    types = KernelTypes(key_of(kernel.root), kernel.kept, absent)
    assert types.function_id("migrate_pages") == 4

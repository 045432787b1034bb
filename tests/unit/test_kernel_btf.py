# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF: files made here word by word, and the running kernel's against libbpf."""

import ctypes
import struct
from pathlib import Path

import pytest

from mptrace.errors import HostError
from mptrace.host.btf import Btf, lowered
from mptrace.host.facts import Prototype

VMLINUX = Path("/sys/kernel/btf/vmlinux")

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST = 1, 2, 3, 4, 5, 6, 8, 10
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = 12, 13, 14, 15, 16, 17, 18, 19
BOOL, SIGNED = 4, 1


class Builder:
    """Writes BTF as Documentation/bpf/btf.rst describes it; add() returns type ids from 1."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"
        self.count = 0

    def name(self, text: str) -> int:
        """Offset of a string, each stored once."""
        if not text:
            return 0
        found = self.strings.find(b"\0" + text.encode() + b"\0")
        if found >= 0:
            return found + 1
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(
        self, kind: int, name: str = "", third: int = 0, words: tuple[int, ...] = (), **info: int
    ) -> int:
        """Append a type; ``words`` follow its struct btf_type."""
        head = info.get("flag", 0) << 31 | kind << 24 | info.get("vlen", 0)
        self.types += struct.pack(
            f"=III{len(words)}I", self.name(name), head, third, *(w & 0xFFFFFFFF for w in words)
        )
        self.count += 1
        return self.count

    def record(self, kind: int, name: str, size: int, *members: tuple[str, int, int]) -> int:
        """A struct or union; members are (name, type, bit offset)."""
        words = tuple(w for m, t, at in members for w in (self.name(m), t, at))
        return self.add(kind, name, size, words, vlen=len(members))

    def function(self, name: str, returns: int, *parameters: tuple[str, int]) -> int:
        """A FUNC and its FUNC_PROTO."""
        words = tuple(w for p, t in parameters for w in (self.name(p), t))
        proto = self.add(FUNC_PROTO, "", returns, words, vlen=len(parameters))
        return self.add(FUNC, name, proto)

    def raw(self) -> bytes:
        """The file's bytes."""
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), 0)
        return header[:20] + struct.pack("=I", len(self.strings)) + self.types + self.strings


@pytest.fixture
def builder() -> Builder:
    """A builder that has "int" (1), "long" (2) and "_Bool" (3)."""
    b = Builder()
    b.add(INT, "int", 4, (SIGNED << 24 | 32,))
    b.add(INT, "long", 8, (SIGNED << 24 | 64,))
    b.add(INT, "_Bool", 1, (BOOL << 24 | 8,))
    return b


def test_offsets_look_through_anonymous_members_and_nest(builder: Builder) -> None:
    """A member of a union inside a struct is found as the struct's own, and paths nest."""
    inner = builder.record(STRUCT, "", 16, ("lru", 2, 0), ("mapping", 2, 64))
    union = builder.record(UNION, "", 16, ("", inner, 0), ("private", 2, 0))
    page = builder.record(STRUCT, "page", 24, ("flags", 2, 0), ("", union, 64))
    qualified = builder.add(CONST, "", page)
    builder.record(STRUCT, "folio", 48, ("head", 2, 0), ("page", qualified, 128))
    btf = Btf(builder.raw())

    assert btf.offsets(
        [
            "page.flags",
            "page.lru",
            "page.mapping",
            "page.private",
            "folio.page",
            "folio.page.mapping",
        ]
    ) == {
        "page.flags": 0,
        "page.lru": 8,
        "page.mapping": 16,
        "page.private": 8,
        "folio.page": 16,
        "folio.page.mapping": 32,
    }


def test_absent_members_are_absent(builder: Builder) -> None:
    """No struct, no member, a path into a pointer, no member named: nothing is guessed."""
    pointer = builder.add(PTR, "", 2)
    builder.record(STRUCT, "page", 16, ("flags", 2, 0), ("next", pointer, 64))
    btf = Btf(builder.raw())

    assert btf.offsets(["folio.flags", "page.order", "page.next.flags", "page", "page.", ""]) == {}


def test_bitfields_are_no_byte_offsets(builder: Builder) -> None:
    """With kind_flag the upper byte is a width: bitfields are left out, the rest is found."""
    builder.add(
        STRUCT,
        "task",
        16,
        (builder.name("bit"), 1, 1 << 24 | 3, builder.name("mm"), 2, 64),
        vlen=2,
        flag=1,
    )

    assert Btf(builder.raw()).offsets(["task.bit", "task.mm"]) == {"task.mm": 8}


def test_two_definitions_that_differ_give_no_offset(builder: Builder) -> None:
    """A struct that is there twice answers only where both agree."""
    builder.record(STRUCT, "twice", 16, ("same", 2, 0), ("moved", 2, 64))
    builder.record(STRUCT, "twice", 24, ("same", 2, 0), ("moved", 2, 128))
    btf = Btf(builder.raw())

    assert btf.offsets(["twice.same", "twice.moved"]) == {"twice.same": 0}
    assert btf.sizes(["twice"]) == {}


def test_prototypes_tell_what_fentry_needs(builder: Builder) -> None:
    """Parameter names, kinds of return value, structs by value and duplicate names."""
    nodemask = builder.add(TYPEDEF, "nodemask_t", builder.record(STRUCT, "", 128, ("bits", 2, 0)))
    boolean = builder.add(TYPEDEF, "bool", 3)
    pointer = builder.add(PTR, "", 2)
    builder.function("moves", 1, ("pid", 1), ("nodes", pointer))
    builder.function("walks", 1, ("mm", pointer), ("mask", nodemask))
    builder.function("tells", boolean)
    builder.function("finds", pointer)
    builder.function("acts", 0, ("fmt", pointer), ("", 0))
    builder.function("twice", 1, ("a", 1))
    builder.function("twice", 0)
    btf = Btf(builder.raw())

    assert btf.prototypes(["moves", "walks", "tells", "finds", "acts", "twice", "absent"]) == {
        "moves": Prototype(("pid", "nodes"), "int"),
        "walks": Prototype(("mm", "mask"), "int", struct_by_value=True),
        "tells": Prototype((), "bool"),
        "finds": Prototype((), "pointer"),
        "acts": Prototype(("fmt", "..."), "void"),
        "twice": Prototype(("a",), "int", definitions=2),
    }
    assert btf.function_id("twice") is None
    assert btf.sizes(["nodemask_t", "bool", "long"]) == {"nodemask_t": 128, "bool": 1, "long": 8}


def test_every_kind_is_stepped_over_by_its_length(builder: Builder) -> None:
    """Types of every kind before an enum don't shift it; signs and 64 bits are kept."""
    builder.add(ARRAY, "", 0, (2, 1, 5))
    builder.add(FLOAT, "double", 8)
    variable = builder.add(VAR, "jiffies", 2, (1,))
    builder.add(DATASEC, ".data", 8, (variable, 0, 8), vlen=1)
    builder.add(DECL_TAG, "tag", variable, (0xFFFFFFFF,))
    builder.add(TYPE_TAG, "user", 2)
    words = (builder.name("MR_NONE"), -1, builder.name("MR_SYSCALL"), 3)
    builder.add(ENUM, "migrate_reason", 4, words, vlen=2, flag=1)
    builder.add(ENUM64, "wide", 8, (builder.name("HIGH"), 5, 1), vlen=1)
    btf = Btf(builder.raw())

    assert btf.enum("migrate_reason") == {"MR_NONE": -1, "MR_SYSCALL": 3}
    assert btf.enum("wide") == {"HIGH": 5 | 1 << 32}
    assert btf.enum("absent") == {}


def test_lowered_drops_prefix_and_count() -> None:
    """Names for a report: the prefix goes, and so does the enumerator that only counts."""
    reasons = {"MR_COMPACTION": 0, "MR_NUMA_MISPLACED": 5, "MR_TYPES": 10, "OTHER": 11}

    assert lowered(reasons, "MR_") == {0: "compaction", 5: "numa_misplaced"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not BTF"),
        (b"\x9f\xeb", "not BTF"),
        (struct.pack(">HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 0), "not BTF"),
        (struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, 400, 400, 0), "cut short"),
        (struct.pack("=HBBIIIIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 0, 0, 4 << 24 | 9, 0), "damaged"),
        (struct.pack("=HBBIIIIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 0, 0, 30 << 24, 0), "kind"),
    ],
)
def test_damaged_files_are_refused(raw: bytes, message: str) -> None:
    """Empty, cut, foreign byte order, a member count beyond the end, an unknown kind."""
    with pytest.raises(HostError, match=message):
        Btf(raw, "file")


def test_a_type_that_refers_to_itself_is_refused(builder: Builder) -> None:
    """A loop of typedefs ends in an error, not in an endless one."""
    builder.add(TYPEDEF, "loop", builder.count + 1)

    with pytest.raises(HostError, match="refers to itself"):
        Btf(builder.raw()).sizes(["loop"])


def test_a_kernel_without_btf_has_a_way_out(tmp_path: Path) -> None:
    """The error names the file and the option that the kernel lacks."""
    with pytest.raises(HostError) as raised:
        Btf.open(tmp_path / "vmlinux")

    assert str(tmp_path / "vmlinux") in raised.value.message
    assert "CONFIG_DEBUG_INFO_BTF" in raised.value.hint


@pytest.fixture(scope="module")
def libbpf() -> ctypes.CDLL:
    """libbpf as an independent reader of the same file."""
    try:
        library = ctypes.CDLL("libbpf.so.1")
    except OSError:
        pytest.skip("libbpf.so.1 is not installed")
    library.btf__parse.restype = ctypes.c_void_p
    library.btf__parse.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    library.btf__resolve_size.restype = ctypes.c_longlong
    library.btf__resolve_size.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint]
    library.btf__type_cnt.argtypes = [ctypes.c_void_p]
    return library


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")
def test_running_kernel_reads_as_libbpf_reads_it(libbpf: ctypes.CDLL) -> None:
    """Number of types, ids of functions and sizes equal libbpf's."""
    theirs = libbpf.btf__parse(str(VMLINUX).encode(), None)
    ours = Btf.open(VMLINUX)

    assert len(ours._starts) == libbpf.btf__type_cnt(theirs) - 1
    for name in ("kernel_move_pages", "migrate_pages", "alloc_migration_target", "schedule"):
        expected = libbpf.btf__find_by_name_kind(theirs, name.encode(), FUNC)
        assert ours.function_id(name) == (expected if expected > 0 else None)
    for name, kind in (("nodemask_t", TYPEDEF), ("page", STRUCT), ("task_struct", STRUCT)):
        type_id = libbpf.btf__find_by_name_kind(theirs, name.encode(), kind)
        assert ours.sizes([name]) == {name: libbpf.btf__resolve_size(theirs, type_id)}

# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF, the kernel's own description of its types, read with numpy.

Format: Documentation/bpf/btf.rst of the kernel.  A header is followed by a
section of types, each of a length that only its kind and its member count
tell, and a section of strings.  One walk finds where the types start; every
question is then a comparison of whole arrays.  The strings are deduplicated
(libbpf's btf__dedup, run by pahole), so that a name has one offset and
"which types are called so" is an integer comparison.

libbpf can parse the same file, but has no call that counts the definitions of
a name or hands out its index, and asking it type by type costs a ctypes call
for each of 100,000 types and more.  Debian's libbcc exports none of it.
"""

import functools
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Ints
from mptrace.errors import HostError
from mptrace.host.facts import Prototype

#: Where a kernel shows its own BTF.
VMLINUX = Path("sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
# struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_HEADER = struct.Struct("=HBBIIIII")

# Kinds (include/uapi/linux/btf.h, enum of BTF_KIND_*).
_INT = 1
_PTR = 2
_ARRAY = 3
_STRUCT = 4
_UNION = 5
_ENUM = 6
_FWD = 7
_TYPEDEF = 8
_VOLATILE = 9
_CONST = 10
_RESTRICT = 11
_FUNC = 12
_FUNC_PROTO = 13
_VAR = 14
_DATASEC = 15
_FLOAT = 16
_DECL_TAG = 17
_TYPE_TAG = 18
_ENUM64 = 19
_LAST_KIND = _ENUM64

_MODIFIERS = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
_RECORDS = frozenset({_STRUCT, _UNION})
_POINTER_BYTES = 8
_INT_BOOL = 4  # BTF_INT_BOOL, in bits 24-27 of the word after an INT

# Length of a type in words: a struct btf_type has three, then come a fixed
# number by kind or a number by kind and member.
_FIXED_WORDS = np.full(32, 3, np.uint8)
_FIXED_WORDS[[_INT, _VAR, _DECL_TAG]] = 4
_FIXED_WORDS[_ARRAY] = 6
_MEMBER_WORDS = np.zeros(32, np.uint8)
_MEMBER_WORDS[[_STRUCT, _UNION, _DATASEC, _ENUM64]] = 3
_MEMBER_WORDS[[_ENUM, _FUNC_PROTO]] = 2

# Deeper nesting of modifiers or anonymous members than this is a loop.
_MAX_DEPTH = 64

_Words32 = npt.NDArray[np.uint32]


class Btf:
    """The BTF of one kernel, held in memory (about 12 MB for a 6 MB file)."""

    def __init__(self, raw: bytes, source: str = "BTF") -> None:
        """Index the bytes of a BTF file; HostError where they are damaged."""
        if len(raw) < _HEADER.size or _HEADER.unpack_from(raw)[0] != _MAGIC:
            raise HostError(f"'{source}' is not BTF of this machine's byte order")
        header_bytes, type_offset, type_bytes, string_offset, string_bytes = _HEADER.unpack_from(
            raw
        )[3:]
        types_at = header_bytes + type_offset
        strings_at = header_bytes + string_offset
        if max(types_at + type_bytes, strings_at + string_bytes) > len(raw) or type_bytes % 4:
            raise HostError(f"'{source}' is cut short")
        self._source = source
        self._words: _Words32 = np.frombuffer(raw, np.uint32, type_bytes // 4, types_at)
        self._strings = raw[strings_at : strings_at + string_bytes]
        # Word at which type id starts; type 0 is void and has no entry of its own.
        self._starts = self._walk()
        self._names = self._words[self._starts]
        self._kinds = ((self._words[self._starts + 1] >> 24) & 31).astype(np.uint8)

    @classmethod
    def open(cls, path: Path) -> "Btf":
        """Read a BTF file, as a rule ``/sys/kernel/btf/vmlinux``; HostError where it can't be."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise HostError(
                f"can't read '{path}': {error.strerror}",
                "mptrace needs a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            ) from error
        return cls(raw, str(path))

    def prototypes(self, names: Collection[str]) -> dict[str, Prototype]:
        """Prototype of each of the functions that is there; of duplicates the first."""
        found = {}
        for name in names:
            ids = self._named(name, {_FUNC})
            if len(ids):
                found[name] = self._prototype(ids)
        return found

    def function_id(self, name: str) -> int | None:
        """Type id of the one FUNC of this name, for bpf(2)'s attach_btf_id; else None."""
        ids = self._named(name, {_FUNC})
        return int(ids[0]) if len(ids) == 1 else None

    def typedef_id(self, name: str) -> int | None:
        """Type id of a typedef, e.g. ``btf_trace_sys_enter`` for a raw tracepoint; else None."""
        ids = self._named(name, {_TYPEDEF})
        return int(ids[0]) if len(ids) else None

    def offsets(self, paths: Collection[str]) -> dict[str, int]:
        """Byte offsets of "struct.member" and "struct.member.member...".

        Anonymous members are looked through.  Absent are members that don't
        exist, bitfields, and members on which two definitions of the struct
        differ.
        """
        found = {}
        for path in paths:
            record, *members = path.split(".")
            ids = self._named(record, _RECORDS) if members else ()
            offsets = {self._offset(int(type_id), members) for type_id in ids}
            if len(offsets) == 1 and (offset := offsets.pop()) is not None:
                found[path] = offset
        return found

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Size in bytes of structs, unions, typedefs, integers and enums by name."""
        kinds = _RECORDS | {_INT, _ENUM, _ENUM64, _TYPEDEF, _FLOAT}
        found = {}
        for name in names:
            sizes = {self._size(int(type_id)) for type_id in self._named(name, kinds)}
            if len(sizes) == 1 and (size := sizes.pop()) is not None:
                found[name] = size
        return found

    def enum(self, name: str) -> dict[str, int]:
        """Enumerators of the (first) enum of this name; empty where there is none."""
        ids = self._named(name, {_ENUM, _ENUM64})
        if not len(ids):
            return {}
        type_id = int(ids[0])
        wide = self._kind(type_id) == _ENUM64
        is_signed = bool(self._info(type_id) >> 31)
        values = {}
        for words in self._members(type_id, 3 if wide else 2):
            value = words[1] | (words[2] << 32 if wide else 0)
            bits = 64 if wide else 32
            if is_signed and value >> (bits - 1):
                value -= 1 << bits
            values[self._string(words[0])] = value
        return values

    def _walk(self) -> Ints:
        # The length that every word would have if a type started there, in
        # bulk; then hop from type to type.
        words = self._words
        count = len(words)
        if not count:
            return np.zeros(0, np.int64)
        info = words[1:]
        kind = (info >> 24) & 31
        lengths = np.full(count, count, np.uint32)
        lengths[:-1] = _FIXED_WORDS[kind] + _MEMBER_WORDS[kind] * (info & 0xFFFF)
        hops = lengths.data
        starts: list[int] = []
        append = starts.append
        position = 0
        while position < count:
            append(position)
            position += hops[position]
        if position != count:
            raise HostError(f"'{self._source}' is damaged: its last type is cut short")
        result = np.array(starts, np.int64)
        unknown = (words[result + 1] >> 24) & 31
        if unknown.max() > _LAST_KIND or unknown.min() == 0:
            raise HostError(
                f"'{self._source}' has types of a kind that mptrace doesn't know",
                "this kernel is newer than this mptrace: please report it",
            )
        return result

    def _string(self, offset: int) -> str:
        end = self._strings.index(b"\0", offset)
        return self._strings[offset:end].decode()

    # Type ids (from 1) of the given kinds and name, in the file's order.
    def _named(self, name: str, kinds: Collection[int]) -> Ints:
        offset = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        if not name or offset == 0:
            return np.zeros(0, np.int64)
        ids = np.flatnonzero(self._names == offset)
        return ids[np.isin(self._kinds[ids], list(kinds))] + 1

    def _kind(self, type_id: int) -> int:
        return int(self._kinds[type_id - 1]) if type_id else 0

    def _info(self, type_id: int) -> int:
        return int(self._words[self._starts[type_id - 1] + 1])

    # The third word: a size for some kinds, the type that is referred to for others.
    def _third(self, type_id: int) -> int:
        return int(self._words[self._starts[type_id - 1] + 2])

    def _members(self, type_id: int, words: int) -> Iterator[tuple[int, ...]]:
        start = int(self._starts[type_id - 1]) + 3
        count = self._info(type_id) & 0xFFFF
        block = self._words[start : start + words * count].reshape(count, words)
        return map(tuple, block.tolist())

    # Without typedefs and qualifiers.
    def _bare(self, type_id: int) -> int:
        for _ in range(_MAX_DEPTH):
            if self._kind(type_id) not in _MODIFIERS:
                return type_id
            type_id = self._third(type_id)
        raise HostError(f"'{self._source}' is damaged: type {type_id} refers to itself")

    def _prototype(self, ids: Ints) -> Prototype:
        proto = self._third(int(ids[0]))
        parameters = list(self._members(proto, 2))
        return Prototype(
            parameters=tuple(
                self._string(name) if type_id else "..." for name, type_id in parameters
            ),
            returns=self._return_kind(self._third(proto)),
            struct_by_value=any(
                self._kind(self._bare(type_id)) in _RECORDS for _, type_id in parameters if type_id
            ),
            definitions=len(ids),
        )

    def _return_kind(self, type_id: int) -> str:
        bare = self._bare(type_id)
        kind = self._kind(bare)
        if kind == _INT:
            encoding = int(self._words[self._starts[bare - 1] + 3]) >> 24
            return "bool" if encoding & _INT_BOOL else "int"
        return {0: "void", _PTR: "pointer", _STRUCT: "struct", _UNION: "struct"}.get(kind, "int")

    # Byte offset of members[0].members[1]... in a struct, None where it has none.
    def _offset(self, record: int, members: list[str]) -> int | None:
        total = 0
        for member in members:
            found = self._member(record, member)
            if found is None:
                return None
            offset, record = found
            total += offset
        return total

    # (byte offset, type) of a member, anonymous members looked through.
    def _member(self, record: int, member: str, depth: int = 0) -> tuple[int, int] | None:
        record = self._bare(record)
        if self._kind(record) not in _RECORDS or depth > _MAX_DEPTH:
            return None
        # With kind_flag the upper 8 bits are a bitfield's width (0: none).
        has_widths = bool(self._info(record) >> 31)
        for name, type_id, place in self._members(record, 3):
            width, bits = (place >> 24, place & 0xFFFFFF) if has_widths else (0, place)
            if name:
                if not width and bits % 8 == 0 and self._string(name) == member:
                    return bits // 8, type_id
            elif found := self._member(type_id, member, depth + 1):
                return bits // 8 + found[0], found[1]
        return None

    def _size(self, type_id: int) -> int | None:
        bare = self._bare(type_id)
        kind = self._kind(bare)
        if kind in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT):
            return self._third(bare)
        if kind == _PTR:
            return _POINTER_BYTES
        if kind == _ARRAY:
            start = int(self._starts[bare - 1])
            element = self._size(int(self._words[start + 3]))
            return None if element is None else element * int(self._words[start + 5])
        return None


@functools.lru_cache(maxsize=1)
def running() -> Btf:
    """BTF of the running kernel, read once per process."""
    return Btf.open(Path("/") / VMLINUX)


def lowered(enumerators: Mapping[str, int], prefix: str) -> dict[int, str]:
    """Value -> name without its prefix in lower case: MR_SYSCALL, 3 -> {3: "syscall"}.

    Enumerators of another prefix (the closing MR_TYPES has it too) are kept out
    where their name says that they only count.
    """
    return {
        value: name.removeprefix(prefix).lower()
        for name, value in enumerators.items()
        if name.startswith(prefix) and name != f"{prefix}TYPES"
    }

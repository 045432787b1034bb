# SPDX-License-Identifier: GPL-2.0-or-later
"""What the running kernel's BTF says, kept for the next session by the kernel's build id.

The file has some megabytes, and to index it takes longer than to ask all that mptrace asks.
An answer holds for one build of the kernel for ever, and for no other: type ids are where
programs get attached.
"""

import functools
import json
import os
import struct
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mptrace import __version__
from mptrace.host import btf, kept
from mptrace.host.facts import Prototype

SUFFIX = ".types"
_ROOT = Path("/")
_NOTES = Path("sys/kernel/notes")
#: Of the text that is kept: another one is not read.
_FORMAT = "1"
# struct elf32_note: bytes of the name, bytes of what it says, its kind; NT_GNU_BUILD_ID.
_NOTE = struct.Struct("=III")
_BUILD_ID, _GNU = 3, b"GNU\0"
#: What is asked, each by names.
_KINDS = ("prototypes", "function_ids", "typedef_ids", "offsets", "sizes", "enums")


class KernelTypes:
    """Answers like those of `btf.Btf`, each asked for once; BTF is read when one is new.

    ``key``, of `kept.key_of`, is that of answers in ``directory``; "" and None keep nothing.
    """

    def __init__(
        self, key: str, directory: Path | None, source: Callable[[], btf.Btf] = btf.running
    ) -> None:
        """Take up what is kept; without it BTF is read now, HostError where it can't be."""
        self._key = key
        self._directory = directory
        self._source = source
        self._is_new = False
        self._answers: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
        data = kept.load(directory, key, SUFFIX) if key else None
        try:
            self._answers = _parsed(data or b"")
        except (ValueError, KeyError, TypeError, AttributeError):
            source()

    def prototypes(self, names: Collection[str]) -> dict[str, Prototype]:
        """Prototype of each of the functions that is there; of duplicates the first."""
        # the same functions are attached to next
        self._asked("function_ids", names, _each(lambda types: types.function_id))
        return self._asked("prototypes", names, lambda types, new: types.prototypes(new))

    def function_id(self, name: str) -> int | None:
        """Type id of the one FUNC of this name; else None."""
        return self._asked("function_ids", [name], _each(lambda types: types.function_id)).get(name)

    def typedef_id(self, name: str) -> int | None:
        """Type id of a typedef; else None."""
        return self._asked("typedef_ids", [name], _each(lambda types: types.typedef_id)).get(name)

    def offsets(self, paths: Collection[str]) -> dict[str, int]:
        """Byte offsets of "struct.member", of those that there are."""
        return self._asked("offsets", paths, lambda types, new: types.offsets(new))

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Sizes in bytes of types, of those that there are."""
        return self._asked("sizes", names, lambda types, new: types.sizes(new))

    def enum(self, name: str) -> dict[str, int]:
        """Enumerators of an enum; empty where there is none."""
        found = self._asked("enums", [name], _each(lambda types: types.enum))
        return dict(found.get(name, {}))

    def keep(self) -> None:
        """Keep the answers, if there are any that were not kept; that it fails is no error."""
        if self._is_new and self._key:
            # a prototype becomes an object of its fields
            text = json.dumps(self._answers, default=vars)
            kept.store(self._directory, self._key, SUFFIX, text.encode())
        self._is_new = False

    def _asked(
        self,
        kind: str,
        names: Collection[str],
        ask: Callable[[btf.Btf, list[str]], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Answers by name, without those that are None."""
        known = self._answers[kind]
        if new := [name for name in names if name not in known]:
            known.update(dict.fromkeys(new))
            known.update(ask(self._source(), new))
            self._is_new = True
        return {name: known[name] for name in names if known[name] is not None}


def _parsed(data: bytes) -> dict[str, dict[str, Any]]:
    """What was kept; raises one of the errors of Python's own types where it is something else."""
    raw = json.loads(data)
    answers: dict[str, dict[str, Any]] = {
        kind: {name: None if number is None else int(number) for name, number in raw[kind].items()}
        for kind in ("function_ids", "typedef_ids", "offsets", "sizes")
    }
    answers["prototypes"] = {
        name: fields and Prototype(**{**fields, "parameters": tuple(fields["parameters"])})
        for name, fields in raw["prototypes"].items()
    }
    answers["enums"] = {
        enum: {name: int(number) for name, number in each.items()}
        for enum, each in raw["enums"].items()
    }
    return answers


def _each(
    ask: Callable[[btf.Btf], Callable[[str], Any]],
) -> Callable[[btf.Btf, list[str]], dict[str, Any]]:
    """A question for one name, as one for many."""
    return lambda types, names: {name: ask(types)(name) for name in names}


@functools.lru_cache(maxsize=1)
def running() -> KernelTypes:
    """Types of the running kernel; HostError where there is no BTF."""
    directory = kept.directory_of(os.environ)
    return KernelTypes(key_of(_ROOT) if directory else "", directory)


def key_of(root: Path) -> str:
    """What answers depend on: the kernel, and who asks; "" where the kernel has no build id."""
    try:
        notes = (root / _NOTES).read_bytes()
        size = (root / btf.VMLINUX).stat().st_size
    except OSError:
        return ""
    build = build_id(notes)
    if not build:
        return ""
    # another reader of BTF may understand it in another way
    reader = Path(btf.__file__).read_text()
    return kept.key_of([_FORMAT, __version__, reader, os.uname().machine, build, str(size)])


def build_id(notes: bytes) -> str:
    """The GNU build id among ELF notes, in hexadecimal; "" where there is none."""
    at = 0
    while at + _NOTE.size <= len(notes):
        name_bytes, said_bytes, kind = _NOTE.unpack_from(notes, at)
        name_at = at + _NOTE.size
        said_at = name_at + -(-name_bytes // 4) * 4
        if kind == _BUILD_ID and notes[name_at : name_at + name_bytes] == _GNU:
            return notes[said_at : said_at + said_bytes].hex()
        at = said_at + -(-said_bytes // 4) * 4
    return ""

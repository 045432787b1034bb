# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's own lists say of some names: kallsyms, and ftrace's list of functions.

They have 200,000 lines, and what they say of the kernel itself stands until the next boot:
it is kept for the next session, by the number of this boot.
"""

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mptrace.host import kept, symbols

SUFFIX = ".symbols"
_BOOT = Path("proc/sys/kernel/random/boot_id")
#: Of the text that is kept: another one is not read.
_FORMAT = "1"


@dataclass(frozen=True)
class KernelSymbols:
    """What is there of the names that were asked for."""

    #: Functions of the kernel itself that kallsyms has.
    text: frozenset[str]
    #: Variables of the kernel itself, with their addresses.
    variables: dict[str, int]
    #: Functions that ftrace can attach to; None where its list can't be read.
    traceable: frozenset[str] | None

    def to_bytes(self) -> bytes:
        """As it is kept."""
        traceable = None if self.traceable is None else sorted(self.traceable)
        return json.dumps([sorted(self.text), self.variables, traceable]).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "KernelSymbols":
        """What was kept; raises ValueError or TypeError where it is something else."""
        text, variables, traceable = json.loads(data)
        return cls(
            frozenset(text),
            {str(name): int(address) for name, address in dict(variables).items()},
            None if traceable is None else frozenset(traceable),
        )


def read(root: Path, functions: Collection[str], variables: Collection[str]) -> KernelSymbols:
    """What the lists say of these names.

    ``root`` is another tree for tests, of which nothing is kept.
    """
    directory = kept.directory_of(os.environ) if root == Path("/") else None
    key = _key(root, functions, variables) if directory else ""
    before = kept.load(directory, key, SUFFIX) if key else None
    if before is not None:
        try:
            return KernelSymbols.from_bytes(before)
        except (ValueError, TypeError):
            pass
    data = symbols.kallsyms(root)
    found = KernelSymbols(
        symbols.text_symbols(data, functions) if functions else frozenset(),
        symbols.variables(data, variables),
        symbols.traceable_functions(symbols.tracefs(root), functions) if functions else None,
    )
    if key and _is_whole(found, functions, variables):
        kept.store(directory, key, SUFFIX, found.to_bytes())
    return found


def _is_whole(found: KernelSymbols, functions: Collection[str], variables: Collection[str]) -> bool:
    """Whether each list could be read: what was hidden now may be seen later."""
    has_text = not functions or bool(found.text and found.traceable is not None)
    return has_text and (not variables or bool(found.variables))


def _key(root: Path, functions: Collection[str], variables: Collection[str]) -> str:
    """What the answer depends on; "" where the boot has no number."""
    try:
        boot = (root / _BOOT).read_text().strip()
    except OSError:
        return ""
    return kept.key_of([_FORMAT, boot, *sorted(functions), "and", *sorted(variables)])

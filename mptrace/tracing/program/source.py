# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a BPF program, its parts put in place.

BCC rewrites what is done with maps in the main file only, so that quoted includes
can't be left to the compiler; those in angle brackets are.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

BPF_DIRECTORY = Path(__file__).parents[2] / "bpf"
_INCLUDE = re.compile(r'#include "([\w./]+)"')
# A map whose size a macro gives: its name, and the last argument.
_SIZED = re.compile(
    r"^BPF_(?:HASH|RINGBUF_OUTPUT|STACKS)\((\w+),[^;]*?\b([A-Z]\w*)\);", re.MULTILINE
)


def source_of(name: str) -> str:
    """The text of ``bpf/name``; what the compiler says of it names files and lines as they lie."""
    return "\n".join([*_lines(name), ""])


def size_macros(text: str) -> dict[str, str]:
    """Map -> the macro that gives its number of elements, or of pages where it is a ring.

    Of macros that stand nowhere else: what is compiled does not depend on them.
    """
    sized: list[tuple[str, str]] = _SIZED.findall(text)
    uses = Counter(re.findall(r"[A-Z]\w*", text))
    maps = Counter(macro for _, macro in sized)
    return {name: macro for name, macro in sized if uses[macro] == maps[macro]}


def stand_ins() -> str:
    """The text of all that stands in for kernel headers, in a fixed order."""
    files = sorted((BPF_DIRECTORY / "include").rglob("*.h"))
    return "".join(f"{file.relative_to(BPF_DIRECTORY)}\n{file.read_text()}" for file in files)


def _lines(name: str) -> Iterator[str]:
    yield f'#line 1 "{name}"'
    for number, line in enumerate((BPF_DIRECTORY / name).read_text().splitlines(), 1):
        included = _INCLUDE.fullmatch(line)
        if included:
            yield from _lines(included[1])
            yield f'#line {number + 1} "{name}"'
        else:
            yield line

# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a BPF program out of its parts."""

import re

from mptrace.tracing.program.source import BPF_DIRECTORY, size_macros, source_of


def test_every_part_is_there_once_and_nothing_else_changes() -> None:
    """Lines of all files, in order of the includes; none of move_pages/ is forgotten."""
    text = source_of("move_pages.c")
    assert '#include "' not in text
    assert "#include <linux/types.h>" in text
    for part in (BPF_DIRECTORY / "move_pages").iterdir():
        assert text.count(part.read_text()) == 1, part.name


def test_the_compiler_names_the_line_where_it_lies() -> None:
    """After each marker a line of the text is that line of that file."""
    lines: list[str] = []
    at = 0
    for line in source_of("move_pages.c").splitlines():
        marker = re.fullmatch(r'#line (\d+) "(.*)"', line)
        if marker:
            at = int(marker[1]) - 1
            lines = (BPF_DIRECTORY / marker[2]).read_text().splitlines()
        else:
            assert line == lines[at]
            at += 1


def test_a_size_that_code_depends_on_is_part_of_what_is_compiled() -> None:
    """Sizes of maps come from macros that stand nowhere else."""
    text = (
        "BPF_HASH(some, u32, struct one, MAX_SOME);\nBPF_HASH(other, u32,\n\tu8, MAX_OTHER);\n"
        "BPF_RINGBUF_OUTPUT(ring, RING_PAGES);\nBPF_HASH(third, u32, u8, MAX_OTHER);\n"
        "BPF_HASH(few, u32, u8, MAX_FEW);\nif (n > MAX_FEW)\nBPF_HASH(fixed, u32, u8, 23);\n"
    )
    macros = {"some": "MAX_SOME", "other": "MAX_OTHER", "ring": "RING_PAGES", "third": "MAX_OTHER"}
    assert size_macros(text) == macros

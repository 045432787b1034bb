# SPDX-License-Identifier: GPL-2.0-or-later
"""The structs of bpf/move_pages/ and the dtypes of recording/layouts.py are the same."""

import re

import numpy as np
import pytest

from mptrace import tracer
from mptrace.recording import balancing, layouts, lookup_layouts, stack_layouts
from mptrace.tracing.program.source import source_of

SOURCE = source_of("move_pages.c")
TYPES = {
    "u64": "<u8",
    "s64": "<i8",
    "u32": "<u4",
    "s32": "<i4",
    "u16": "<u2",
    "s16": "<i2",
    "s8": "i1",
    "u8": "u1",
}


def dtype_of(body: str) -> np.dtype[np.void]:
    """The dtype of a C struct's body, aligned as the compiler does."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = []
    for kind, name, length in re.findall(r"^\s*(\w+) (\w+)(?:\[(\w+)\])?;", body, re.MULTILINE):
        if kind == "char":
            fields.append((name, f"S{length}"))
        elif length:
            fields.append((name, TYPES[kind], (layouts.SMALL_CHUNK,)))
        else:
            fields.append((name, TYPES[kind]))
    return np.dtype(fields, align=True)


@pytest.mark.parametrize(
    ("struct", "layout"),
    [
        ("folio_record", layouts.FOLIO),
        ("migration_record", layouts.MIGRATION),
        ("call_record", layouts.CALL),
        ("lookup_record", lookup_layouts.FOUND),
        ("obstacle_record", layouts.OBSTACLE),
        ("stack_record", stack_layouts.STACK_SAMPLE),
        ("balancing_key", balancing.BALANCING_KEY),
        ("balancing_sums", balancing.BALANCING_SUMS),
    ],
)
def test_a_record_has_the_fields_of_its_struct(struct: str, layout: np.dtype[np.void]) -> None:
    """Names, types, offsets and size agree, and the struct has no hidden padding."""
    body = re.search(rf"^struct {struct} {{(.*?)^}};", SOURCE, re.MULTILINE | re.DOTALL)
    assert body
    assert dtype_of(body[1]).descr == layout.descr


def test_a_chunk_has_the_fields_of_its_struct() -> None:
    """The chunk of the user arrays, whose struct is made by a macro."""
    body = re.search(r"#define CHUNK_STRUCT\(name, entries\)(.*?)\n}", SOURCE, re.DOTALL)
    assert body
    assert dtype_of(body[1].replace("\\", "")).descr == layouts.CHUNK_SMALL.descr


def test_a_batch_of_lookups_has_the_fields_of_its_struct() -> None:
    """Its struct is made by a macro, for few and for many; one bit of a lookup is its own."""
    body = re.search(r"#define LOOKUPS_STRUCT\(name, number\)(.*?)\n}", SOURCE, re.DOTALL)
    assert body
    fields = re.findall(r"(\w+) (\w+)(?:\[number\])?;", body[1])
    assert fields == [
        ("u64", "call_id"),
        ("u32", "first"),
        ("u32", "count"),
        ("lookup_record", "lookups"),
    ]
    names = ("call_id", "first", "count", "lookups")
    for layout, number in (
        (lookup_layouts.LOOKUPS_FEW, lookup_layouts.FEW_LOOKUPS),
        (lookup_layouts.LOOKUPS_MANY, lookup_layouts.MANY_LOOKUPS),
    ):
        assert layout.names == names
        assert [layout.fields[name][1] for name in names] == [0, 8, 12, 16]
        assert layout.itemsize == 16 + 24 * number
    merged = re.search(r"#define FOUND_KSM\s+\((\d+) << (\d+)\)", SOURCE)
    assert merged
    assert int(merged[1]) << int(merged[2]) == lookup_layouts.FOUND_KSM


def test_constants_are_the_same_on_both_sides() -> None:
    """END_*, FOLIO_*, READ_*, STAGE_*, SEEN_* and the markers have one value in C and in Python."""
    defines = dict(re.findall(r"^#define (\w+)\s+(\(?[\w <]+\)?)", SOURCE, re.MULTILINE))
    names = [
        name
        for name in defines
        if name.startswith(("END_", "FOLIO_", "READ_", "STAGE_", "SEEN_"))
        or name.endswith(("_NONE", "_NOT_TRIED"))
    ]
    assert len(names) >= 31
    for name in names:
        assert eval(defines[name]) == getattr(layouts, name), name


def test_constants_of_stacks_are_the_same_on_both_sides() -> None:
    """Whose stacks they are, and that there is none."""
    defines = dict(re.findall(r"^#define (\w+)\s+(\(?[-\w]+\)?)", SOURCE, re.MULTILINE))
    names = [name for name in defines if name.startswith("STACK_OF_")] + ["NO_STACK"]
    assert len(names) == 1 + len(stack_layouts.USE_NAMES)
    for name in names:
        assert int(defines[name].strip("()")) == getattr(stack_layouts, name), name


def test_a_period_is_as_long_on_both_sides() -> None:
    """Who takes the sums of a period knows when it is over."""
    shift = re.search(r"#define BALANCING_PERIOD_SHIFT\s+(\d+)", SOURCE)
    assert shift
    assert int(shift[1]) == balancing.PERIOD_SHIFT


def test_every_cause_of_loss_has_a_name() -> None:
    """LOST_CAUSES in C counts the names in the tracer."""
    causes = re.search(r"#define LOST_CAUSES\s+(\d+)", SOURCE)
    assert causes
    assert int(causes[1]) == len(tracer.LOST_IN_BPF)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks joined with the calls, migrations and waits that came with them; frames as text.  Pure."""

import re
from dataclasses import dataclass

import numpy as np

from mptrace.arrays import Ints, Table, Tables
from mptrace.outcomes.told import Told, every, known
from mptrace.outcomes.waiting import waits_of
from mptrace.recording.joins import members, pair_ids, ranks, rows_of_ids
from mptrace.recording.stack_layouts import (
    STACK_OF_CALL,
    STACK_OF_MIGRATION,
    STACK_OF_WAIT,
    STACK_TABLES,
    UNNAMED,
    WITHOUT_STACK,
)

#: Tables that stacks belong to, by the kind of a use.
TABLE_OF_KIND = {STACK_OF_CALL: "calls", STACK_OF_MIGRATION: "migrations", STACK_OF_WAIT: "waits"}
#: A frame of which nothing is known; why is in the table.
UNKNOWN_FRAME = "[unknown]"
NOT_HERE = "its frames are not in this recording"
# What folded lines and lines of text are parted by.
_PARTS = re.compile(r"[;\x00-\x1f\x7f-\x9f\u2028\u2029]")


def table_of(tables: Tables, name: str) -> Table:
    """``stacks`` or ``stack_uses``; empty where a recording has none."""
    found = tables.get(name)
    return np.zeros(0, STACK_TABLES[name]) if found is None else found


def rows_of_uses(tables: Tables) -> Ints:
    """For each row of ``stack_uses`` the row in its table (:data:`TABLE_OF_KIND`), -1: none."""
    uses = table_of(tables, "stack_uses")
    found = np.full(uses.size, -1, np.int64)
    for kind, table, name in (
        (STACK_OF_CALL, "calls", "call_id"),
        (STACK_OF_MIGRATION, "migrations", "migration_id"),
    ):
        where = np.flatnonzero(uses["kind"] == kind)
        found[where] = rows_of_ids(tables[table][name], uses["id"][where])
    where, waits = np.flatnonzero(uses["kind"] == STACK_OF_WAIT), waits_of(tables)
    # several threads may begin to wait in one nanosecond
    key = pair_ids(
        np.concatenate([waits["start_ns"], uses["id"][where]]),
        np.concatenate([waits["tid"], uses["tid"][where]]).astype(np.int64),
    )
    words = key.astype(np.uint64)
    found[where] = rows_of_ids(words[: waits.size], words[waits.size :])
    return found


def told_of_stacks(tables: Tables, told: dict[str, Told], *, whole: bool) -> dict[str, Told]:
    """Which rows of both tables go with what is told of calls, migrations and waits.

    :param whole: nothing is left out.
    """
    uses, frames = table_of(tables, "stack_uses"), table_of(tables, "stacks")
    if whole:
        return {"stack_uses": every(uses.size), "stacks": every(frames.size)}
    row = rows_of_uses(tables)
    yes, unsure = np.zeros(uses.size, np.bool_), np.zeros(uses.size, np.bool_)
    for kind, table in TABLE_OF_KIND.items():
        where = np.flatnonzero(uses["kind"] == kind)
        some = told[table].at(row[where])
        yes[where], unsure[where] = some.yes, some.unsure
    kept = np.union1d(uses["kernel_stack"][yes], uses["user_stack"][yes])
    return {"stack_uses": Told(yes, unsure), "stacks": known(np.isin(frames["stack"], kept))}


@dataclass(frozen=True)
class StackText:
    """A stack, folded: names of its frames, the outermost first, with ``;`` between them.

    "" where it has none; ``unknown`` says why, "" for a kernel thread's in user space.
    """

    folded: str
    unknown: str = ""


class StackTexts:
    """The text of each stack of a recording, by its number; those of one text are one."""

    def __init__(self, tables: Tables) -> None:
        frames = table_of(tables, "stacks")
        # recorded again in each recording of a session that rotated, by one of them perhaps
        # without names
        has_no_names = frames["unknown"] == UNNAMED.encode()
        named = np.isin(frames["stack"], frames["stack"][~has_no_names])
        frames = frames[~(has_no_names & named)]
        frames = frames[_once(frames)]
        numbers, place = ranks(frames["stack"].astype(np.int64))
        self._texts = {WITHOUT_STACK: StackText("")}
        for number, rows in zip(numbers.tolist(), members(place, numbers.size), strict=True):
            self._texts[number] = _text_of(frames[rows])

    def of(self, number: int) -> StackText:
        """The text of a stack; unknown where the recording does not have it."""
        return self._texts.get(number, StackText("", NOT_HERE))


def frame_name(frame: np.void) -> str:
    """A frame in one word: its function, or file and offset, or address, or UNKNOWN_FRAME."""
    symbol, module = (_plain(frame[name]) for name in ("symbol", "module"))
    if symbol:
        return symbol
    if module:
        return f"{module.rpartition('/')[2] or module}+{int(frame['offset']):#x}"
    return UNKNOWN_FRAME if _plain(frame["unknown"]) else f"{int(frame['address']):#x}"


def _text_of(frames: Table) -> StackText:
    frames = frames[np.argsort(frames["depth"], kind="stable")]
    whole = _plain(frames["unknown"][0])
    if whole and not frames["symbol"][0] and not frames["module"][0]:
        named = (frames["symbol"] != b"") | (frames["module"] != b"")
        if not named.any():
            return StackText("", whole)
    return StackText(";".join(frame_name(frame) for frame in frames[::-1]))


def _once(frames: Table) -> Ints:
    """Rows of the first of several equal ones, by stack and depth."""
    pairs = frames["stack"].astype(np.int64) * (1 << 16) + frames["depth"]
    # With its index np.unique sorts stably: see joins.ranks().
    _, first, _ = np.unique(pairs, return_index=True, return_inverse=True)
    found: Ints = first.astype(np.int64)
    return found


def _plain(value: bytes) -> str:
    return _PARTS.sub("_", bytes(value).decode("utf-8", "replace"))

# SPDX-License-Identifier: GPL-2.0-or-later
"""What is attached is the first that the kernel refuses nothing of."""

import pytest

from mptrace.tracing.plan.attaching import Excluded, attached

KEYS = [("copy", f"copy_{number}", "kprobe") for number in range(3)]


class Played:
    """Attaches the best candidate that is left, unless it is one of ``never``."""

    def __init__(self, refused: Excluded, never: list[tuple[str, str, str]]) -> None:
        left = [key for key in KEYS if key not in refused]
        if not left:
            raise LookupError("none is left")
        self.key = left[0]
        self.closed = False
        self._never = never

    def open(self) -> Excluded:
        return {self.key: "EPERM"} if self.key in self._never else {}

    def close(self) -> None:
        self.closed = True


def play(never: list[tuple[str, str, str]]) -> tuple[list[Played], Excluded]:
    """All that were made, the last of them attached, and what was refused."""
    made: list[Played] = []
    refused: Excluded = {}

    def make() -> Played:
        made.append(Played(refused, never))
        return made[-1]

    assert attached(make, refused) is made[-1]
    return made, refused


def test_what_is_not_refused_is_attached_at_once() -> None:
    """And stays so."""
    made, refused = play([])
    assert [each.closed for each in made] == [False]
    assert refused == {}


def test_each_refusal_leaves_a_candidate_less() -> None:
    """What was refused is detached before the next is made."""
    made, refused = play(KEYS[:2])
    assert [each.key for each in made] == KEYS
    assert [each.closed for each in made] == [True, True, False]
    assert refused == dict.fromkeys(KEYS[:2], "EPERM")


def test_it_ends_where_nothing_can_be_made() -> None:
    """By what the maker raises."""
    with pytest.raises(LookupError, match="none is left"):
        play(KEYS)

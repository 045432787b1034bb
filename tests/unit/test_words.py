# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts agree with their nouns, in every message of every module."""

import ast
import re
from pathlib import Path

import pytest

import mptrace
from mptrace.units import many, times

ROOT = Path(mptrace.__file__).parent
#: `units` has `many` and `times`.
SOURCES = sorted(set(ROOT.rglob("*.py")) - {ROOT / "units.py"})
NOUNS = (
    "batches|callers|calls|causes|cpus|entries|events|files|flushes|folios|functions|groups|handlers"
    "|initiators|kinds|mappings|migrations|modules|nodes|pages|parts|paths|processes|records"
    "|references|rounds|rows|runs|samples|scenarios|seconds|statuses|targets|threads|times|tries"
    "|waits|windows"
)
# "3 of the calls", "3 left folios behind": what follows isn't what is counted
COUNTED = re.compile(rf"^ ((?!(of|no|has|for|left|moved)\b)\w+ )?({NOUNS})\b(?!/)", re.IGNORECASE)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 entries"), (1, "1 entry"), (2, "2 entries"), (200_003, "200,003 entries")],
)
def test_a_count_agrees_with_its_noun(count: int, words: str) -> None:
    """One is one, and thousands stand apart."""
    assert many(count, "entry", "entries") == words
    assert many(count, "page") == words.replace("entries", "pages").replace("entry", "page")


def test_once_is_no_times() -> None:
    """How often something was is said as people say it."""
    said = ["0 times", "once", "2 times", "1,000 times"]
    assert [times(count) for count in (0, 1, 2, 1000)] == said


def is_constant(value: ast.expr) -> bool:
    """Whether it is named as a constant: what it is, and that it isn't 1, is known."""
    name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
    return bool(name) and name.lstrip("_").isupper()


def is_float(spec: ast.expr | None) -> bool:
    """Whether it is written with decimals: an average, no count."""
    return spec is not None and ast.unparse(spec).rstrip("'\"").endswith(("f", "g"))


def plurals(tree: ast.AST) -> list[str]:
    """Counts in f-strings that a plural follows, whatever they are."""
    found = []
    for text in ast.walk(tree):
        if not isinstance(text, ast.JoinedStr):
            continue
        for part, after in zip(text.values, text.values[1:], strict=False):
            if not isinstance(part, ast.FormattedValue) or is_constant(part.value):
                continue
            if isinstance(part.value, ast.Constant) or is_float(part.format_spec):
                continue
            if not isinstance(after, ast.Constant) or not COUNTED.match(str(after.value)):
                continue
            found.append(ast.unparse(text))
    return found


def test_the_search_finds_what_is_wrong() -> None:
    """A plural behind any number, not behind a constant nor behind `many`."""
    wrong = 'f"{count} calls"', 'f"a {len(x):,} more pages, {y}"', "f'{n} THP folios'"
    right = (
        'f"{_MOST} nodes"',
        'f"{mean:.1f} pages on average"',
        "f\"{many(count, 'call')}\"",
        'f"{rate} pages/s"',
    )
    assert [len(plurals(ast.parse(text))) for text in wrong] == [1, 1, 1]
    assert [len(plurals(ast.parse(text))) for text in right] == [0] * 4


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_message_has_a_plural_of_its_own(path: Path) -> None:
    """Every count that a noun follows goes through `many`: "1 migrations" is nowhere."""
    assert set(plurals(ast.parse(path.read_text()))) == set()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What every command says of its options, and of a value that an option can't take."""

import re

import click
import pytest
from click.testing import CliRunner

from mptrace.cli import COMMANDS, main

#: `[0<=x<=1000000000000.0]`, `[x>=1]`, `RANGE` as a type's name, `1e+12`.
FORMULA = re.compile(r"[<>]=?\s*x\b|\bx\s*[<>]|(INTEGER|FLOAT) RANGE|\de[+-]?\d|\d{7}")
NUMERIC = [
    (name, parameter)
    for name in COMMANDS
    for parameter in main.get_command(click.Context(main), name).params  # type: ignore[union-attr]
    if parameter.type.name in ("N", "NUMBER")
]


def help_of(name: str) -> str:
    """The help of a command."""
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_no_formulas(name: str) -> None:
    """People read it: a range is in words, or not there; 80 columns."""
    text = help_of(name)
    assert FORMULA.findall(text) == []
    assert max(map(len, text.splitlines())) <= 80


def test_the_search_finds_formulas() -> None:
    """What help was like."""
    for text in ("[0<=x<=1000000000000.0]", "[x>=1]", "[default: 3; x>=1]", "[x>0]", "1e12"):
        assert FORMULA.search(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_range_is_clicks_own(name: str) -> None:
    """Its help and its messages are formulas; `types.whole` and `types.amount` have words."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    ranges = (click.IntRange, click.FloatRange)
    assert [each.name for each in command.params if isinstance(each.type, ranges)] == []


@pytest.mark.parametrize(
    ("name", "parameter"), NUMERIC, ids=[f"{name}-{each.name}" for name, each in NUMERIC]
)
@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf", "-inf"])
def test_a_wrong_number_is_told_what_is_right(
    name: str, parameter: click.Parameter, value: str
) -> None:
    """Usage, status 2: what was written, and the range in words."""
    option = [f"{parameter.opts[-1]}={value}"] if isinstance(parameter, click.Option) else []
    arguments = option or ["--", *(["1"] if parameter.name == "count" else []), value]
    result = CliRunner().invoke(main, [name, *arguments])
    assert result.exit_code == 2
    message = " ".join(result.stderr.split())
    words = rf"'{re.escape(value)}' is not a (whole )?number (of [\d,.]+ or more|from \S+ to \d)"
    assert re.search(words, message)


SHARED = ("pids", "duration", "tier", "force", "buffer", "max_folios", "recording")


@pytest.mark.parametrize("name", SHARED)
def test_what_commands_share_takes_the_same_in_each(name: str) -> None:
    """Options of one name are written, typed and defaulted in one way."""
    found = [
        parameter
        for each in COMMANDS
        for parameter in main.get_command(click.Context(main), each).params  # type: ignore[union-attr]
        if parameter.name == name
    ]
    assert len(found) > 1
    ways = {(*each.opts, str(each.type.to_info_dict()), str(each.default)) for each in found}
    assert len(ways) == 1

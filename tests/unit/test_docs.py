# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command and option has a help text and is documented; links and examples are right."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mptrace.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
#: The page that documents each command, and the part of it where one page has several.
PAGES = {
    "run": "run.md#mptrace-run",
    "record": "record.md",
    "stat": "stat.md",
    "top": "stat.md",
    "where": "run.md#mptrace-where",
    "lab": "lab.md",
    "doctor": "install.md#mptrace-doctor",
    "conform": "conform.md",
    "report": "report.md",
    "explain": "explain.md",
    "dump": "report.md#dump",
}
FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
#: A line of a block of code that calls mptrace, with or without a prompt and a directory.
CALL = re.compile(r"^ {4}(?:[#$] )?(?:\S*/)?mptrace ([a-z].*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def command_of(name: str) -> click.Command:
    """The command of this name."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def options_of(name: str) -> list[click.Option]:
    """All options of a command but --help, which click adds."""
    return [each for each in command_of(name).params if isinstance(each, click.Option)]


OPTIONS = [
    (name, long)
    for name in COMMANDS
    for option in options_of(name)
    for long in (*option.opts, *option.secondary_opts)
    if long.startswith("--")
]


def is_in(option: str, text: str) -> bool:
    """Whether an option stands in a text, and not as the beginning of a longer one."""
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def parts(text: str) -> dict[str, str]:
    """Parts of a page by what a link names them after `#`, as GitHub makes it of their headings.

    A part ends where the next heading of its level or above begins.
    """
    headings = list(HEADING.finditer(text))
    found = {}
    for number, heading in enumerate(headings):
        level = len(heading[1])
        after = (each.start() for each in headings[number + 1 :] if len(each[1]) <= level)
        anchor = re.sub(r"[^\w\- ]", "", heading[2].lower()).replace(" ", "-")
        found[anchor] = text[heading.start() : next(after, len(text))]
    return found


def page_of(name: str) -> str:
    """What documents a command."""
    file, _, anchor = PAGES[name].partition("#")
    text = (ROOT / "docs" / file).read_text()
    return parts(text)[anchor] if anchor else text


def calls(text: str) -> Iterator[list[str]]:
    """Arguments of each call of mptrace in blocks of code, those inside a guest too.

    Synopses, which have brackets or bars, are none.
    """
    for line in CALL.findall(text):
        line = re.split(r"\s>|\s\|\s", line)[0]
        words = shlex.split(line, comments=True)
        if any(word[0] in "[|" or word == "..." for word in words):
            continue
        while words:
            inner = next((n for n, word in enumerate(words) if word.endswith("mptrace")), None)
            yield words[:inner]
            words = [] if inner is None else words[inner + 1 :]


def test_every_command_has_a_page() -> None:
    """And no page is named for a command that is none."""
    assert set(PAGES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_and_stands_in_its_page(name: str) -> None:
    """A sentence of help, its name in its page, and a call of it there or in the README."""
    assert re.match(r"[A-Z][^.]+\.", command_of(name).help or "")
    page = page_of(name)
    assert f"mptrace {name}" in page
    examples = page + (ROOT / "README.md").read_text()
    assert re.search(rf"^ {{4}}\S*mptrace {name}\b", examples, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    """Words that begin and end as a sentence; no option is hidden."""
    for option in options_of(name):
        assert not option.hidden, option.name
        words = option.help or ""
        assert re.match(r"([A-Z]|\.\.\. ).*(\.|\])$", words), (option.name, words)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_stands_in_the_page_of_its_command(name: str, option: str) -> None:
    """By its long name."""
    assert is_in(option, page_of(name))


def test_an_option_is_no_part_of_another() -> None:
    """`--rotate` is not documented by `--rotate-size`, nor `--no-cost` by `--no-costs`."""
    assert is_in("--pid", "| `-p`, `--pid PID` |")
    assert is_in("--in-runs", "`--alternate`/`--in-runs`")
    assert not is_in("--rotate", "`--rotate-size 1G`")
    assert not is_in("--cost", "`--no-cost`")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_what_exists(name: str) -> None:
    """A file of the tree and, after `#`, a heading of the page."""
    page = ROOT / name
    for target in LINK.findall(page.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in parts(file.read_text()), target


def test_the_readme_leads_to_every_page() -> None:
    """Within the README itself, which has at most 200 lines."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert set(NAMES) - {"README.md"} <= set(LINK.findall(text))


@pytest.mark.parametrize("name", NAMES)
def test_examples_call_commands_and_options_that_exist(name: str) -> None:
    """Each call of mptrace in a block of code is parsed as the command line is."""
    for words in calls((ROOT / name).read_text()):
        assert words, name
        assert words[0] in COMMANDS, words
        command = command_of(words[0])
        context = click.Context(command, info_name=words[0], **command.context_settings)
        command.make_parser(context).parse_args(words[1:])


def test_examples_are_found() -> None:
    """With a prompt, a directory, a comment, a redirection, and inside a guest."""
    text = """
    # mptrace record -a -d 6
    mptrace lab --nodes 4 -- .venv/bin/mptrace run --target 1  # a comment
    /opt/mptrace/bin/mptrace doctor --json >file
    mptrace stat [INTERVAL [COUNT]]
    mptrace: recording: mptrace.data
"""
    assert list(calls(text)) == [
        ["record", "-a", "-d", "6"],
        ["lab", "--nodes", "4", "--"],
        ["run", "--target", "1"],
        ["doctor", "--json"],
    ]


def test_a_part_of_a_page_ends_with_its_level() -> None:
    """Smaller headings belong to it; a comment in a block of code is none."""
    text = "# a B\n\n## `c`: d, e\nx\n### f\ny\n    # g\n## h\nz\n"
    assert parts(text) == {
        "a-b": text,
        "c-d-e": "## `c`: d, e\nx\n### f\ny\n    # g\n",
        "f": "### f\ny\n    # g\n",
        "h": "## h\nz\n",
    }

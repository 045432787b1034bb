# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of `mptrace conform` as KTAP and as a page of docs.  Returns, never prints.

KTAP: https://docs.kernel.org/dev-tools/ktap.html.  Everything that is not a
result is a diagnostic line, so that other harnesses can read the whole output.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from mptrace.conform.verdicts import (
    AS_DOCUMENTED,
    BAD,
    DIFFERENT,
    ERROR,
    SKIPPED,
    SURPRISE,
    VERDICTS,
)
from mptrace.outcomes.causes.table import BY_NAME
from mptrace.reporting.text.layout import WIDTH, columns, wide
from mptrace.units import format_bytes, many

_MARK = "# "
_LABEL = 12
#: Width of the names in the final table.
_NAME = 17
#: Letters of a text in the final table; the whole stands above it.
_MOST = 150

_KINDS = {
    AS_DOCUMENTED: "as documented",
    DIFFERENT: "different",
    SURPRISE: "surprise",
    SKIPPED: "skipped",
    ERROR: "error",
}
_SUBJECTS = {
    "page state": "page states",
    "return code": "return codes",
    "reason": "reasons for which a page stays",
}

Numbers = Mapping[str, Any]


def head(numbers: Numbers, *, width: int = WIDTH) -> str:
    """Version, plan, and what this run sees: the lines before the first scenario."""
    with columns(width):
        return _head(numbers)


def _head(numbers: Numbers) -> str:
    kernel = numbers["kernel"]
    nodes = ", ".join(
        f"{node['nid']} ({format_bytes(node['memory_bytes'])})" for node in numbers["nodes"]
    )
    lines = ["KTAP version 1", f"1..{numbers['planned']}"]
    where = f" under {numbers['hypervisor']}" if numbers["hypervisor"] else ""
    lines += _note(f"kernel {kernel['release']} ({kernel['machine']}){where}; nodes {nodes}")
    if not numbers["traced"]:
        lines += _note(
            "the kernel's events were not seen: return values and statuses alone are judged; "
            f"{numbers['not_traced']}"
        )
    return "\n".join(lines)


def scenario(number: int, result: Numbers, *, width: int = WIDTH) -> str:
    """What is documented, what was observed and the verdict; the result line is the last."""
    with columns(width):
        return _scenario(number, result)


def _scenario(number: int, result: Numbers) -> str:
    name, kind = result["name"], result["verdict"]
    if kind == SKIPPED:
        line = f"ok {number} {name} # SKIP {_plain(result['reason'])}"
        if len(line) <= wide():
            return line
        lines = _note(f"{name}: {_plain(result['reason'])}")
        return "\n".join([*lines, textwrap.shorten(line, wide(), placeholder=" ...")])
    lines = _note(f"{name}: {result['title']}")
    lines += _item("documented", result["documented"])
    observed = result["observed"]
    if observed:
        lines += _item("returned", observed["returned"])
        lines += _item("status[]", observed["statuses"])
    for place, event in enumerate(result["events"]):
        meaning = BY_NAME[event["cause"]].meaning if event["cause"] in BY_NAME else ""
        text = f"{event['count']} {event['words']}" + (f" ({meaning})" if meaning else "")
        lines += _item("" if place else "events", text)
    disagree = sum(row["witnesses"] == "disagree" for row in result["rows"])
    if disagree:
        lines += _item("witnesses", f"disagree with status or location: {disagree}")
    why = f": {result['why']}" if result["why"] and kind == DIFFERENT else ""
    lines += _item("verdict", _KINDS[kind] + why)
    for difference in result["differences"]:
        lines += _item("", difference)
    if result["differences"] and result["why"]:
        lines += _item("expected", result["why"])
    for line in result["reason"].splitlines():
        lines += _item("", line)
    lines.append(f"{'not ok' if kind in BAD else 'ok'} {number} {name}")
    return "\n".join(lines)


def tail(numbers: Numbers, *, width: int = WIDTH) -> str:
    """The table documented, observed, why; then the counts, and what was not restored."""
    with columns(width):
        return _tail(numbers)


def _tail(numbers: Numbers) -> str:
    lines: list[str] = []
    # three columns beside the names, two blanks before each
    room = (wide() - len(_MARK) - _NAME) // 3 - 2
    for subject, title in _SUBJECTS.items():
        rows = [
            [_cell(result["name"], _NAME), *(_cell(text, room) for text in _columns(result))]
            for result in numbers["scenarios"]
            if result["subject"] == subject
        ]
        if not rows:
            continue
        lines += [_MARK.rstrip(), f"{_MARK}{title}", _MARK.rstrip()]
        text = tabulate(
            rows,
            ["scenario", "documented", "observed", "why"],
            tablefmt="simple",
            disable_numparse=True,
        )
        lines += [(_MARK + line).rstrip() for line in text.splitlines()]
    if any(_is_cut(text) for result in numbers["scenarios"] for text in _columns(result)):
        lines += _note("'...': more of it stands above, at its scenario")
    counts = [
        f"{numbers['counts'][kind]} {_KINDS[kind]}"
        for kind in VERDICTS
        if numbers["counts"].get(kind)
    ]
    lines += _note(f"{numbers['kernel']['release']}: {', '.join(counts) or 'no scenario ran'}")
    if numbers["interrupted"]:
        missing = numbers["planned"] - len(numbers["scenarios"])
        lines += _note(f"interrupted: {many(missing, 'scenario')} did not run")
    lost = [f"{cause} {count}" for cause, count in numbers["lost"].items() if count]
    if lost:
        lines += _note(f"lost: {', '.join(lost)}")
    if numbers["recording"]:
        lines += _note(f"recording: {numbers['recording']}")
    return "\n".join(lines)


def listing(scenarios: Sequence[Numbers], *, width: int = WIDTH) -> str:
    """Every scenario: its name, subject, what is documented and what it changes of the host."""
    with columns(width):
        return _listing(scenarios)


def _listing(scenarios: Sequence[Numbers]) -> str:
    lines: list[str] = []
    for each in scenarios:
        lines.append(f"{each['name']} ({each['subject']}): {each['title']}")
        lines += textwrap.wrap(
            each["documented"], wide(), initial_indent="    ", subsequent_indent="    "
        )
        if each["changes"]:
            lines += textwrap.wrap(
                f"changes {each['changes']}",
                wide(),
                initial_indent="    ",
                subsequent_indent="    ",
            )
    wrapped = (
        textwrap.wrap(line, wide(), subsequent_indent="  ", break_on_hyphens=False)
        if len(line) > wide()
        else [line]
        for line in lines
    )
    return "\n".join(line for group in wrapped for line in group)


def page(runs: Sequence[Numbers], command: str) -> str:
    """A page of docs (Markdown) from the results of several kernels, a chapter for each.

    :param command: the command that wrote the page, for its head.
    """
    lines = [
        "# What kernels do, scenario by scenario",
        "",
        f"Written by `{command}` from the results of `mptrace conform --json` on each kernel;",
        "do not edit.  `mptrace conform` tells the same of the kernel that it runs on, with",
        "what its events showed.",
    ]
    for run in runs:
        kernel = run["kernel"]
        counts = [f"{run['counts'][kind]} {_KINDS[kind]}" for kind in VERDICTS]
        lines += ["", f"## {kernel['release']} ({kernel['machine']})", ""]
        where = f", under {run['hypervisor']}" if run["hypervisor"] else ""
        lines.append(f"{many(len(run['nodes']), 'node')}{where}: {', '.join(counts)}.")
        if not run["traced"]:
            lines.append(f"The kernel's events were not seen: {run['not_traced']}.")
        for subject, title in _SUBJECTS.items():
            results = [each for each in run["scenarios"] if each["subject"] == subject]
            ran = [each for each in results if each["verdict"] != SKIPPED]
            if results:
                lines += ["", f"### {title.capitalize()}", ""]
            if ran:
                lines.append(
                    tabulate(
                        [
                            [f"`{each['name']}`", *(_markdown(text) for text in _columns(each))]
                            for each in ran
                        ],
                        ["scenario", "documented", "observed", "why"],
                        tablefmt="github",
                        disable_numparse=True,
                    )
                )
            skipped = [each for each in results if each["verdict"] == SKIPPED]
            if ran and skipped:
                lines.append("")
            lines += [f"- `{each['name']}` skipped: {_plain(each['reason'])}" for each in skipped]
    return "\n".join(lines) + "\n"


def _columns(result: Numbers) -> tuple[str, str, str]:
    """Documented, observed and why of one scenario, each in a line."""
    kind, observed = result["verdict"], result["observed"]
    seen = ""
    if observed:
        seen = f"returned {observed['returned']}; status {observed['statuses']}"
        if result["events"]:
            events = (f"{event['count']} {event['words']}" for event in result["events"])
            seen += f"; {', '.join(events)}"
    why = {
        AS_DOCUMENTED: "as documented",
        DIFFERENT: result["why"],
        SURPRISE: "surprise: " + "; ".join(result["differences"]),
        SKIPPED: f"skipped: {_plain(result['reason'])}",
        ERROR: f"error: {_plain(result['reason'])}",
    }[kind]
    return result["documented"], seen or "-", why


def _note(text: str) -> list[str]:
    return _wrapped(_MARK, text)


def _item(label: str, text: str) -> list[str]:
    return _wrapped(f"{_MARK}  {label:<{_LABEL}}", text)


def _wrapped(first: str, text: str) -> list[str]:
    rest = _MARK + " " * (len(first) - len(_MARK))
    return textwrap.wrap(
        text, wide(), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [first.rstrip()]


def _is_cut(text: str) -> bool:
    return len(" ".join(text.split())) > _MOST


def _cell(text: str, width: int) -> str:
    lines = textwrap.wrap(textwrap.shorten(text, _MOST, placeholder=" ..."), width)
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text in one line, without the mark of a directive."""
    return " ".join(text.replace("#", " ").split())


def _markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")

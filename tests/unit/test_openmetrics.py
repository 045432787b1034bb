# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters of `mptrace stat --openmetrics`, parsed by the Prometheus client library's parser."""

import importlib.metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from stat_rows import MIGRATION, REASONS, busy, entry, interval, table

from mptrace.cli import main
from mptrace.cli.exporter import _File, _Server
from mptrace.cli.types import EXPOSED
from mptrace.errors import HostError, UsageError
from mptrace.reporting.text.openmetrics import MOST_SERIES, Exposition, Session
from mptrace.tracing.counting.counts import Counts, combined

SESSION = Session("1", "bpf", "6.12", 1000.5)
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values(exposition: Exposition) -> Values:
    """Name and labels of each sample -> its value."""
    text = exposition.text(is_openmetrics=True).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def exposed(view: str, *tables: Counts) -> Values:
    """What is exposed after each of these was counted since the start."""
    exposition = Exposition(view, REASONS, SESSION)
    for rows in tables:
        exposition.update(interval(rows))
    return values(exposition)


@pytest.mark.parametrize("view", ["reason", "process", "cgroup"])
def test_counters_add_up_to_what_was_counted(view: str) -> None:
    """Pages, migrations, seconds and waits; taken in twice they count once."""
    found = exposed(view, busy()[:2], busy(), busy())
    sums = {
        name: sum(value for (each, _), value in found.items() if each == f"mptrace_{name}_total")
        for name in ("pages_moved", "pages_failed", "migrations", "waits", "migrations_untimed")
    }
    assert list(sums.values()) == [6832, 28, 25, 125, 1]
    seconds = [
        sum(value for (each, _), value in found.items() if each == f"mptrace_{name}_seconds_total")
        for name in ("migration", "wait")
    ]
    assert seconds == pytest.approx([0.192181, 0.129])


def test_a_process_that_takes_another_name_takes_no_counts_along() -> None:
    """A counter never shrinks: what it did before stays with the name it had then."""
    before = table(entry(MIGRATION, 3, 7, "old", count=2, succeeded=10))
    after = table(entry(MIGRATION, 3, 7, "new", count=3, succeeded=14))
    found = exposed("process", before, after)
    moved = {
        dict(labels)["command"]: v
        for (n, labels), v in found.items()
        if n.endswith("moved_total") and labels
    }
    assert moved == {"old": 10, "new": 4}


def test_hostile_names_are_values_and_nothing_else() -> None:
    """Quotes, newlines and bytes that are no text come back from the parser as one value each."""
    name = 'a"} 1\n# EOF\\'
    rows = table(entry(MIGRATION, 3, 7, name, count=1, succeeded=5))
    found = exposed("process", rows)
    assert found["mptrace_pages_moved_total", (("command", name), ("kernel_thread", "false"))] == 5
    exposition = Exposition("cgroup", REASONS, SESSION)
    rows = table(entry(MIGRATION, 3, 7, "x", cgroup=9, count=1, succeeded=5))
    exposition.update(interval(rows, cgroups={9: "/bad\udcff"}))
    assert values(exposition)["mptrace_pages_moved_total", (("cgroup", "/bad\ufffd"),)] == 5


def test_there_is_a_bound_to_the_series() -> None:
    """Whoever comes after 1000 names is among the others, and nothing is missing."""
    rows = combined(
        *(table(entry(MIGRATION, 3, n, f"p{n}", count=1, succeeded=1)) for n in range(1, 1201))
    )
    moved = {
        k: v for k, v in exposed("process", rows).items() if k[0] == "mptrace_pages_moved_total"
    }
    assert len(moved) == MOST_SERIES + 1
    assert sum(moved.values()) == 1200
    assert (
        moved["mptrace_pages_moved_total", (("command", "(others)"), ("kernel_thread", ""))] == 200
    )


def test_what_cannot_be_seen_has_no_counter() -> None:
    """A counter of 0 would be a claim."""
    exposition = Exposition("reason", REASONS, Session("1", "tracepoints", "x", 0, True, False))
    exposition.update(interval(busy()))
    names = {name for name, _ in values(exposition)}
    assert "mptrace_waits_total" not in names
    assert "mptrace_migration_seconds_total" in names
    assert "mptrace_lost_total" in names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:80", ("::1", 80)),
        ("a.prom", Path("a.prom")),
        ("./a:1", Path("a:1")),
    ],
)
def test_files_and_addresses(text: str, expected: object) -> None:
    """Without a host, this one alone."""
    assert EXPOSED.convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["host:", "host:http", ":70000", "::1:80", "", "dir/"])
def test_what_is_neither_is_refused(text: str) -> None:
    """In words, status 2."""
    result = CliRunner().invoke(main, ["stat", "--openmetrics", text])
    assert result.exit_code == 2
    assert f"'{text}' is not a FILE" in " ".join(result.stderr.split())


def test_without_the_library_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is attached."""

    def version(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = CliRunner().invoke(main, ["stat", "--openmetrics", "x.prom"])
    assert result.exit_code == 1
    assert "it is not installed" in result.stderr
    assert "pip install 'prometheus_client>=0.20'" in result.stderr
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.16.0")
    result = CliRunner().invoke(main, ["stat", "--openmetrics", "x.prom"])
    assert "version 0.16.0 is installed" in result.stderr


@pytest.mark.parametrize("name", ["/dev/null", "/etc/passwd/x", "x" * 300, "none/x"])
def test_a_file_that_cannot_be_is_refused_in_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device, below a file, too long a name, no directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"is no file|can't write"):
        _File(Path(name), Exposition("reason", REASONS, SESSION))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 70])
def test_a_host_that_cannot_be_is_refused_in_words(host: str) -> None:
    """Names that no name server is asked for."""
    with pytest.raises(HostError, match="can't listen on"):
        _Server((host, 0), Exposition("reason", REASONS, SESSION))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts migrations without mptrace: the tracepoint by a tracefs instance, and /proc/vmstat.

The instance writes text, its clock is CLOCK_MONOTONIC, and it knows each event's thread
and thread group.  Units are base pages, as the kernel counts.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TRACING = Path("/sys/kernel/tracing")
_EVENT = re.compile(
    r"^\s*(?P<comm>.{1,16})-(?P<tid>\d+)\s+\(\s*(?P<tgid>\d+|-+)\) \[\d+\] .{4,6} *"
    r"(?P<seconds>\d+)\.(?P<micros>\d+): (?P<name>\w+): (?P<fields>.*)$"
)
_BUFFER_KB = 8192


class Witness:
    """A tracefs instance of its own that has the event migrate/mm_migrate_pages on."""

    def __init__(self, name: str = "mptrace-witness") -> None:
        self.root = TRACING / "instances" / name

    def __enter__(self) -> "Witness":
        self.root.mkdir()
        (self.root / "trace_clock").write_text("mono")
        (self.root / "buffer_size_kb").write_text(str(_BUFFER_KB))
        (self.root / "options" / "record-tgid").write_text("1")
        (self.root / "events/migrate/mm_migrate_pages/enable").write_text("1")
        return self

    def __exit__(self, *_: object) -> None:
        (self.root / "events/migrate/mm_migrate_pages/enable").write_text("0")
        self.root.rmdir()

    def lost(self) -> int:
        """Events that the instance itself lost, over all CPUs."""
        total = 0
        for stats in self.root.glob("per_cpu/cpu*/stats"):
            values = dict(line.split(": ") for line in stats.read_text().splitlines())
            total += int(values["overrun"]) + int(values["dropped events"])
        return total

    def events(self) -> list[dict[str, Any]]:
        """Events since it was entered, in order of time: one for each migrate_pages().

        Keys: ``ns``, ``comm``, ``tid``, ``tgid`` (0 where tracefs had forgotten it),
        ``mode``, ``reason``, ``succeeded``, ``failed``.
        """
        found = []
        for line in (self.root / "trace").read_text().splitlines():
            if line.startswith("#") or not line.strip():
                continue
            match = _EVENT.match(line)
            assert match, f"can't read {line!r}"
            fields = dict(word.split("=", 1) for word in match["fields"].split())
            found.append(
                {
                    "ns": int(match["seconds"]) * 1_000_000_000 + int(match["micros"]) * 1000,
                    "comm": match["comm"].lstrip(),
                    "tid": int(match["tid"]),
                    "tgid": int(match["tgid"]) if match["tgid"].isdigit() else 0,
                    "mode": fields["mode"],
                    "reason": fields["reason"],
                    "succeeded": int(fields["nr_succeeded"]),
                    "failed": int(fields["nr_failed"]),
                }
            )
        return sorted(found, key=lambda event: event["ns"])


#: Counters of /proc/vmstat that a migration moves.
COUNTERS = re.compile(
    r"pgmigrate_|thp_migration_|compact_(isolated|stall|success|daemon_wake)|numa_pages_migrated|"
    r"numa_hint_faults$|pgpromote_success|pgdemote_|balloon_migrate"
)


def vmstat() -> dict[str, int]:
    """The counters of /proc/vmstat that concern migration, as they are now."""
    # each CPU folds its share of a node's counters (pgdemote_*) in when it likes
    Path("/proc/sys/vm/stat_refresh").read_text()
    values = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in values if COUNTERS.match(name)}


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was counted in between, without what didn't move."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@contextmanager
def window(about: dict[str, Any]) -> Iterator[None]:
    """Put the times of the block (CLOCK_MONOTONIC) and what ``vmstat`` counted into ``about``.

    The counters were read between ``before_ns`` and ``start_ns``, and between ``end_ns``
    and ``after_ns``.
    """
    about["before_ns"] = time.monotonic_ns()
    before = vmstat()
    about["start_ns"] = time.monotonic_ns()
    yield
    about["end_ns"] = time.monotonic_ns()
    about["vmstat"] = difference(before, vmstat())
    about["after_ns"] = time.monotonic_ns()

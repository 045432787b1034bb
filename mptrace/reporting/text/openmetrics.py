# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of `mptrace stat` for a scraper: counters by reason, process name or cgroup.

The Prometheus client library writes them down, and escapes what processes call themselves.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client import exposition as prometheus
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics

from mptrace.reporting.text.stat import groups_of
from mptrace.tracing.counting.counts import COUNTS, Counts, Group, Interval, difference, total

#: Sets of labels at the most; whoever comes after them is among the others for good.
MOST_SERIES = 1000
#: View -> names of its labels.
_LABELS = {
    "reason": ("reason",),
    "process": ("command", "kernel_thread"),
    "cgroup": ("cgroup",),
}
_OTHERS = {
    "reason": ("(others)",),
    "process": ("(others)", ""),
    "cgroup": ("(others)",),
}
_MOVED = "Base pages that the kernel migrated, as pgmigrate_success counts them"
_FAILED = "Base pages that the kernel did not migrate, as pgmigrate_fail counts them"
_OWN = "what mptrace itself did, which is in no other counter"


@dataclass(frozen=True)
class Session:
    """What is said of the session: ``start_s`` is its start, seconds since 1970.

    ``sees_time`` and ``sees_waits``: whether the time of migrations, and waits,
    can be seen; what can't has no counter, which is not one of 0.
    """

    version: str
    tier: str
    kernel: str
    start_s: float
    sees_time: bool = True
    sees_waits: bool = True


@dataclass
class _Sums:
    moved: int = 0
    failed: int = 0
    migrations: int = 0
    untimed: int = 0
    time_ns: int = 0
    waits: int = 0
    wait_ns: int = 0

    def add(self, group: Group) -> "_Sums":
        return _Sums(
            self.moved + group.succeeded,
            self.failed + group.failed,
            self.migrations + group.migrations,
            self.untimed + group.untimed,
            self.time_ns + (group.time_ns or 0),
            self.waits + group.waits,
            self.wait_ns + group.wait_ns,
        )


class Exposition:
    """Counters that only grow, whatever processes call themselves meanwhile.

    ``view`` is that of `mptrace stat --by`.  Processes are counted by their
    names, not by their numbers, and there are `MOST_SERIES` sets of labels at the most.
    """

    def __init__(self, view: str, reasons: Mapping[int, str], session: Session) -> None:
        self._view = view
        self._reasons = reasons
        self._session = session
        self._last: Counts = np.zeros(0, COUNTS)
        self._series: dict[tuple[str, ...], _Sums] = {}
        self._own = _Sums()
        self._lost: Mapping[str, int] = {}
        # what is served: never changed, only replaced, as another thread reads it
        self._families: tuple[Metric, ...] = ()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    @property
    def registry(self) -> CollectorRegistry:
        """For the library's own server."""
        return self._registry

    def update(self, so_far: Interval) -> None:
        """Take in everything counted since the start; it was taken in before in part."""
        new = replace(so_far, rows=difference(so_far.rows, self._last))
        self._last = so_far.rows
        for group in groups_of(new, self._view, self._reasons):
            labels = self._labels(group)
            self._series[labels] = self._series.get(labels, _Sums()).add(group)
        self._own = _Sums().add(total(so_far.own))
        self._lost = so_far.lost
        self._families = tuple(self._made())

    def text(self, *, is_openmetrics: bool) -> bytes:
        """Everything, as OpenMetrics or in the older text format of Prometheus (0.0.4)."""
        write = openmetrics.generate_latest if is_openmetrics else prometheus.generate_latest
        written: bytes = write(self._registry)
        return written

    def collect(self) -> Iterator[Metric]:
        """What the library asks of a collector; from any thread."""
        yield from self._families

    def _labels(self, group: Group) -> tuple[str, ...]:
        others = _OTHERS[self._view]
        if self._view == "process":
            if group.tgid is None:
                return others
            labels: tuple[str, ...] = (_text(group.name), str(group.is_kthread).lower())
        else:
            labels = (_text(group.name),)
        if labels not in self._series and len(self._series) >= MOST_SERIES:
            return others
        return labels

    def _made(self) -> Iterator[Metric]:
        session, by = self._session, _LABELS[self._view]
        yield InfoMetricFamily(
            "mptrace",
            "What counts, and how",
            value={"version": session.version, "tier": session.tier, "kernel": session.kernel},
        )
        start = GaugeMetricFamily(
            "mptrace_start_time_seconds", "When counting began, since 1970", unit="seconds"
        )
        start.add_metric([], session.start_s)
        yield start
        yield self._counter("pages_moved", _MOVED, by, lambda s: s.moved)
        yield self._counter("pages_failed", _FAILED, by, lambda s: s.failed)
        yield self._counter(
            "migrations", "Invocations of the kernel's migrate_pages()", by, lambda s: s.migrations
        )
        if session.sees_time:
            yield self._counter(
                "migration_seconds",
                "Time inside migrate_pages(); that of one inside another counts once",
                by,
                lambda s: s.time_ns / 1e9,
            )
            yield self._counter(
                "migrations_untimed",
                "Migrations without their time, as their begin was not seen",
                by,
                lambda s: s.untimed,
            )
        if session.sees_waits:
            yield self._counter(
                "waits", "How often threads met a page under migration", by, lambda s: s.waits
            )
            yield self._counter(
                "wait_seconds",
                "How long threads waited for pages under migration",
                by,
                lambda s: s.wait_ns / 1e9,
            )
        lost = CounterMetricFamily(
            "mptrace_lost", "What was not counted as it should, by cause", labels=["cause"]
        )
        for cause, count in self._lost.items():
            lost.add_metric([cause], count)
        yield lost
        for name, words, value in (
            ("own_pages_moved", _MOVED, self._own.moved),
            ("own_pages_failed", _FAILED, self._own.failed),
            ("own_migrations", "Migrations", self._own.migrations),
        ):
            own = CounterMetricFamily(f"mptrace_{name}", f"{words}: {_OWN}")
            own.add_metric([], value)
            yield own

    def _counter(
        self, name: str, words: str, labels: tuple[str, ...], value: Callable[[_Sums], float]
    ) -> Metric:
        unit = "seconds" if name.endswith("_seconds") else ""
        family = CounterMetricFamily(f"mptrace_{name}", words, labels=labels, unit=unit)
        for key, sums in self._series.items():
            family.add_metric(list(key), value(sums))
        return family


def _text(name: str) -> str:
    """A name as UTF-8 can have it: a path may have bytes that are none."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

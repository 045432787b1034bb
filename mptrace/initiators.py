# SPDX-License-Identifier: GPL-2.0-or-later
"""Who migrates, who owns, who waits: processes of a recording by number.  Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mptrace.evidence import Table, Tables
from mptrace.records import PROCESS


class Processes:
    """Names and cgroups of the processes of a recording.

    A name is what /proc said of the process (table `processes`), else that of a
    thread of it that made a call, migrated or waited, else "".
    """

    def __init__(self, tables: Tables, meta: Mapping[str, Any]) -> None:
        self._comm: dict[int, str] = {}
        for name in ("waits", "migrations", "calls"):
            rows = tables.get(name)
            if rows is not None:
                self._comm |= {tgid: comm for tgid, comm in _names(rows) if comm}
        known = tables.get("processes")
        rows = np.zeros(0, PROCESS) if known is None else known
        # the last that was seen under a number: it may have been used again
        ordered = rows[np.argsort(rows["seen_ns"], kind="stable")]
        self._comm |= {
            int(tgid): text(comm)
            for tgid, comm in zip(ordered["tgid"], ordered["comm"], strict=True)
            if comm
        }
        self._cgroups = {str(key): str(path) for key, path in (meta.get("cgroups") or {}).items()}

    def comm(self, tgid: int) -> str:
        """Name of a process, "" where it is not known."""
        return self._comm.get(tgid, "")

    def cgroup(self, cgroup_id: int) -> str | None:
        """Path of a cgroup, None where it is not known."""
        return self._cgroups.get(str(cgroup_id))


def text(comm: Any) -> str:
    """A comm as text."""
    return bytes(comm).split(b"\0")[0].decode("utf-8", "replace")


def _names(rows: Table) -> Iterator[tuple[int, str]]:
    _, first = np.unique(rows["tgid"], return_index=True)
    for row in rows[first][["tgid", "comm"]]:
        yield int(row["tgid"]), text(row["comm"])

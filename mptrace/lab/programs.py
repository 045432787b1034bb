# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled BPF programs that guests share: a guest forgets, and compiling takes most of a start.

So is what sessions keep of the kernel's BTF.  Both lie in the lab's cache, a directory for
each kernel, apart from what sessions keep on this host: what a guest wrote is given to guests
only.
"""

import contextlib
import os
import re
from pathlib import Path

from .guest import Guest
from .kernels import cache_directory

#: Where mptrace keeps its programs in a guest.
PLACE = "/var/cache/mptrace/programs"
#: Files kept for a kernel; the oldest go.
MAX_KEPT = 24
#: Seconds that a look at the guest's programs may take.
_LOOK_S = 60.0
_NAME = re.compile(r"[0-9a-f]{64}\.(bpf|types)")


class SharedPrograms:
    """The programs of one guest's kernel; where nothing can be kept, its sessions compile.

    ``directory``: where they lie, by default in the lab's cache.
    """

    def __init__(self, guest: Guest, directory: Path | None = None) -> None:
        self._guest = guest
        self._directory = directory or cache_directory() / "programs" / guest.kernel.release
        self._lent: set[str] = set()

    def lend(self) -> None:
        """Put what there is into the guest.  Raises LabError where the guest dies."""
        for path in self._kept():
            with contextlib.suppress(OSError):
                self._guest.put(f"{PLACE}/{path.name}", path.read_bytes(), mode=0o600)
                self._lent.add(path.name)

    def collect(self) -> None:
        """Keep what the guest has compiled.  Raises LabError where the guest dies."""
        listed = self._guest.run(["ls", PLACE], timeout=_LOOK_S).text.split()
        for name in sorted(listed):
            # a program never changes; answers about a kernel's types become more
            if _NAME.fullmatch(name) and (name not in self._lent or name.endswith(".types")):
                with contextlib.suppress(OSError):
                    self._keep(name, self._guest.get(f"{PLACE}/{name}"))
        with contextlib.suppress(OSError):
            for path in self._kept()[:-MAX_KEPT]:
                path.unlink(missing_ok=True)

    def _kept(self) -> list[Path]:
        """Programs that are there, the oldest first."""
        try:
            found = [path for path in self._directory.iterdir() if _NAME.fullmatch(path.name)]
            return sorted(found, key=lambda path: path.stat().st_mtime)
        except OSError:
            return []

    def _keep(self, name: str, program: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        unfinished = self._directory / f"{name}.{os.getpid()}"
        unfinished.write_bytes(program)
        unfinished.rename(self._directory / name)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Where `mptrace stat --openmetrics` puts its counters: into a file, or on a port."""

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from mptrace import __version__
from mptrace.cli.output import progress
from mptrace.errors import HostError, UsageError

if TYPE_CHECKING:
    from mptrace.reporting.text.openmetrics import Exposition
    from mptrace.tracing.counting.sampler import Sampler

#: Seconds between two writes of a file where there are no intervals.
FILE_SECONDS = 10.0
#: The first version whose server of HTTP can be ended.
_LEAST_LIBRARY = (0, 20)


class _Exporter(Protocol):
    def publish(self, *, is_due: bool) -> None: ...

    def close(self) -> bool: ...


class Publisher:
    """While inside, keeps the counters of a sampler in a file or on a port; None: nowhere.

    Raises UsageError and HostError where that can't be.  At the end ``is_whole`` says
    whether the last counters were given out.
    """

    def __init__(self, where: Path | tuple[str, int] | None, view: str, sampler: "Sampler") -> None:
        self._where = where
        self._view = view
        self._sampler = sampler
        self._exporter: _Exporter | None = None
        self.is_whole = True

    def __enter__(self) -> Self:
        if self._where is not None:
            from mptrace.reporting.text.openmetrics import Exposition, Session

            sampler = self._sampler
            session = Session(
                version=__version__,
                tier=sampler.tier,
                kernel=os.uname().release,
                start_s=time.time() - (time.monotonic_ns() - sampler.start_ns) / 1e9,
                sees_time=sampler.sees_time,
                sees_waits=sampler.sees_waits,
            )
            self._exposition = Exposition(self._view, sampler.reasons, session)
            self._exposition.update(sampler.so_far())
            where, exposition = self._where, self._exposition
            if isinstance(where, Path):
                self._exporter = _File(where, exposition)
            else:
                self._exporter = _Server(where, exposition)
        return self

    def publish(self, *, is_due: bool = False) -> None:
        """Give out what was counted; ``is_due``: an interval is over, a file is replaced."""
        if self._exporter is not None:
            self._exposition.update(self._sampler.so_far())
            self._exporter.publish(is_due=is_due)

    def __exit__(self, *_: object) -> None:
        if self._exporter is not None:
            self._exposition.update(self._sampler.so_far())
            self.is_whole = self._exporter.close()


def check_library() -> None:
    """Raise HostError where the library that writes OpenMetrics is not there, or too old."""
    # takes long to load
    from importlib import metadata

    try:
        there = metadata.version("prometheus_client")
    except metadata.PackageNotFoundError:
        there = ""
    numbers = [int(part) for part in there.split(".")[:2] if part.isdecimal()]
    if tuple(numbers) < _LEAST_LIBRARY:
        least = ".".join(map(str, _LEAST_LIBRARY))
        what = f"version {there} is installed" if there else "it is not installed"
        raise HostError(
            f"--openmetrics needs the Python package prometheus_client {least} or later: {what}",
            f"pip install 'prometheus_client>={least}', into the environment of mptrace",
        )


class _File:
    """A file that is replaced as a whole, for the textfile collector of node_exporter."""

    def __init__(self, path: Path, exposition: "Exposition") -> None:
        self._exposition = exposition
        # where a link leads, so that the link stays
        self._path = Path(os.path.realpath(path))
        self._failed = ""
        self._written = 0.0
        is_other = False
        # what is wrong with the path, writing to it says
        with contextlib.suppress(OSError):
            is_other = not stat.S_ISREG(self._path.stat().st_mode)
        if is_other:
            raise UsageError(
                f"'{path}' is no file", "--openmetrics replaces a regular file: name one"
            )
        self._write()
        if self._failed:
            raise UsageError(
                f"can't write '{path}': {self._failed}", "its directory must be there and writable"
            )

    def publish(self, *, is_due: bool) -> None:
        """Replace the file, where it is time."""
        if is_due or time.monotonic() - self._written >= FILE_SECONDS:
            before = self._failed
            self._write()
            if self._failed and self._failed != before:
                progress(f"can't write '{self._path}': {self._failed}; the counters in it are old")

    def close(self) -> bool:
        """The last counters stay in the file."""
        self.publish(is_due=True)
        return not self._failed

    def _write(self) -> None:
        self._written = time.monotonic()
        # only files that end in .prom are read by the collector, which knows no OpenMetrics
        text = self._exposition.text(is_openmetrics=self._path.suffix != ".prom")
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            # of an earlier process of that number; never somebody else's link
            partial.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(partial, flags, 0o666), "wb") as file:
                file.write(text)
            partial.replace(self._path)
            self._failed = ""
        except OSError as error:
            self._failed = error.strerror or str(error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


class _Server:
    """HTTP on a port, by the library's own server, in a thread that ends with the process."""

    def __init__(self, address: tuple[str, int], exposition: "Exposition") -> None:
        from prometheus_client import start_http_server

        host, port = address
        name = f"[{host}]" if ":" in host else host
        try:
            self._server, self._thread = start_http_server(port, host, registry=exposition.registry)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise HostError(
                f"can't listen on {name}:{port}: {why}",
                "name an address of this host and a port that is free; 0 takes any",
            ) from error
        progress(f"serving http://{name}:{self._server.server_port}/metrics until the end")

    def publish(self, *, is_due: bool) -> None:
        """Nothing to do: whoever asks gets what there is."""

    def close(self) -> bool:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        return True

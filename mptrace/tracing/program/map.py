# SPDX-License-Identifier: GPL-2.0-or-later
"""One BPF map, read and written as bytes."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from mptrace.host import bpf
from mptrace.host.topology import parse_list
from mptrace.tracing.program.compiled import MapSpec

_PER_CPU = (5, 6)  # BPF_MAP_TYPE_PERCPU_HASH, _ARRAY of linux/bpf.h


class Map:
    """A map of this process; ``fd`` stays the caller's.

    Keys and values are bytes of the sizes in ``spec``.
    """

    def __init__(self, spec: MapSpec, fd: int) -> None:
        self.fd = fd
        self.spec = spec
        self._size = spec.value_size
        if spec.kind in _PER_CPU:
            # a value for each CPU that there might be, padded to words
            cpus = parse_list(Path("/sys/devices/system/cpu/possible").read_text())
            self._size = (spec.value_size + 7) // 8 * 8 * len(cpus)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key (of a map per CPU all of them, one after the other), or None."""
        try:
            return self.at(key)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def at(self, key: bytes) -> bytes:
        """The value of a key that must be there; raises OSError where it is not."""
        with self._named():
            return bpf.lookup(self.fd, key, self._size)

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key; raises OSError where the kernel refuses, as a full map does."""
        self._check(key, value)
        with self._named():
            bpf.update(self.fd, key, value)

    def delete(self, key: bytes) -> bool:
        """Delete a key; returns whether it was there."""
        try:
            bpf.delete(self.fd, key)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def keys(self) -> list[bytes]:
        """All keys; of a map that changes meanwhile some may be missing, none twice."""
        return list(dict.fromkeys(self._walk()))

    def _walk(self) -> Iterator[bytes]:
        key: bytes | None = None
        # where a key is deleted under our hands the kernel begins again: no more than fit in
        for _ in range(2 * self.spec.max_entries):
            try:
                key = bpf.next_key(self.fd, key, self.spec.key_size)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            yield key

    def items(self) -> list[tuple[bytes, bytes]]:
        """All keys with their values."""
        found = ((key, self.get(key)) for key in self.keys())
        return [(key, value) for key, value in found if value is not None]

    def values(self) -> list[bytes]:
        """All values."""
        return [value for _, value in self.items()]

    def clear(self) -> None:
        """Delete all keys."""
        for key in self.keys():
            self.delete(key)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f"map '{self.spec.name}': {error.strerror}") from None

    def _check(self, key: bytes, value: bytes) -> None:
        """The kernel reads as many bytes as it wants: they had better be there."""
        sizes = (len(key), len(value))
        if sizes != (self.spec.key_size, self._size):
            raise ValueError(
                f"map '{self.spec.name}': {sizes} bytes, not {(self.spec.key_size, self._size)}"
            )

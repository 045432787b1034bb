# SPDX-License-Identifier: GPL-2.0-or-later
"""One BPF ring buffer, mapped, and taken in bulk as a numpy structured array.

No wakeup, no callback, no loop per record: everything between the consumer's
and the producer's position is one array, because the records of a ring have
one size and the kernel maps the data twice in a row (linux/bpf.h,
BPF_MAP_TYPE_RINGBUF; layout in kernel/bpf/ringbuf.c).
"""

import mmap

import numpy as np
from numpy.typing import NDArray

from mptrace.recording.joins import as_bytes

_BUSY = 1 << 31
_DISCARD = 1 << 30


class Ring:
    """A ring buffer of records of one ``dtype``, read by one consumer.

    ``fd`` is the map's file descriptor and stays the caller's; ``size_bytes``
    is the size of the data area (a power of two, at least a page).
    """

    def __init__(self, fd: int, size_bytes: int, dtype: np.dtype[np.void]) -> None:
        page = mmap.PAGESIZE
        self._size = size_bytes
        self._dtype = dtype
        padding = -dtype.itemsize % 8
        self._framed = np.dtype(
            [("length", "<u4"), ("page_offset", "<u4"), ("record", dtype), ("pad", f"V{padding}")]
            if padding
            else [("length", "<u4"), ("page_offset", "<u4"), ("record", dtype)]
        )
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data_map = mmap.mmap(
            fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._data_offset = page
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._producer = memoryview(self._data_map)[:page].cast("Q")
        #: How far `fresh` has looked.
        self._looked = 0

    @property
    def fill(self) -> float:
        """How full it is, from 0 to 1."""
        return (self._producer[0] - self._consumer[0]) / self._size

    def take(self, into: NDArray[np.void] | None = None) -> NDArray[np.void]:
        """All records that are complete, as a copy, shape (n,), and free their room.

        :param into: rows of the ring's layout: no more than fit in, and in its memory.
        """
        start = self._consumer[0]
        if self._producer[0] == start:
            return np.empty(0, self._dtype)
        frames, lengths = self._complete(start, None if into is None else len(into))
        found = self._records(frames, lengths)
        records = np.empty(len(found), self._dtype) if into is None else into[: len(found)]
        as_bytes(records)[...] = as_bytes(found)
        self._consumer[0] = start + len(frames) * self._framed.itemsize
        return records

    def fresh(self) -> NDArray[np.void]:
        """Complete records that came since the last time, where they lie: until the next `take`."""
        start = max(self._consumer[0], self._looked)
        if self._producer[0] == start:
            return np.empty(0, self._dtype)
        frames, lengths = self._complete(start, None)
        self._looked = start + len(frames) * self._framed.itemsize
        return self._records(frames, lengths)

    def _complete(
        self, start: int, most: int | None
    ) -> tuple[NDArray[np.void], NDArray[np.uint32]]:
        """Frames from a position to the first that is not finished, and their lengths."""
        count = (self._producer[0] - start) // self._framed.itemsize
        if most is not None:
            count = min(count, most)
        frames: NDArray[np.void] = np.ndarray(
            (max(count, 0),), self._framed, self._data_map, self._data_offset + start % self._size
        )
        lengths = frames["length"]
        busy = lengths >= _BUSY
        if busy.any():
            # a producer has reserved this one and not finished: it comes next time
            frames = frames[: int(busy.argmax())]
        return frames, lengths[: len(frames)]

    def _records(self, frames: NDArray[np.void], lengths: NDArray[np.uint32]) -> NDArray[np.void]:
        """What is in the frames, but for those that were discarded."""
        discarded = lengths >= _DISCARD
        if discarded.any():
            frames = as_bytes(frames)[~discarded].view(self._framed)
        records: NDArray[np.void] = frames["record"]
        return records

    def close(self) -> None:
        """Unmap; the ring must not be used afterwards."""
        self._consumer.release()
        self._producer.release()
        self._consumer_map.close()
        self._data_map.close()

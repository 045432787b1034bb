# SPDX-License-Identifier: GPL-2.0-or-later
"""A ring's records are taken in bulk; a memory file stands in for the kernel's map."""

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from mptrace.tracing.program.ring import Ring

PAGE = mmap.PAGESIZE
SIZE = PAGE
RECORD = np.dtype([("value", "<u8"), ("more", "<u4")])  # 12 bytes, padded to 16 in the ring
STRIDE = 8 + 16
BUSY, DISCARD = 1 << 31, 1 << 30


class FakeMap:
    """The layout of a BPF ring buffer: consumer page, producer page, the data twice."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self._map = mmap.mmap(self.fd, 2 * PAGE + 2 * SIZE)

    @property
    def words(self) -> NDArray[np.uint64]:
        return np.frombuffer(self._map, "<u8")

    def produce(self, value: int, *, flags: int = 0) -> int:
        """Write a record at the producer's position, in both copies; its position."""
        position = int(self.words[PAGE // 8])
        data = np.zeros(STRIDE, np.uint8)
        data[:4] = np.frombuffer(np.uint32(RECORD.itemsize | flags).tobytes(), np.uint8)
        data[8:16] = np.frombuffer(np.uint64(value).tobytes(), np.uint8)
        ring = np.frombuffer(self._map, np.uint8)[2 * PAGE :]
        for offset, byte in enumerate(data):
            at = (position + offset) % SIZE
            ring[at] = ring[at + SIZE] = byte
        self.words[PAGE // 8] = position + STRIDE
        return position

    def commit(self, position: int) -> None:
        """Clear the busy bit of a record."""
        ring = np.frombuffer(self._map, np.uint8)[2 * PAGE :]
        for copy in (0, SIZE):
            ring[position % SIZE + 3 + copy] &= 0x7F


@pytest.fixture
def fake() -> Iterator[FakeMap]:
    made = FakeMap()
    yield made
    os.close(made.fd)


@pytest.fixture
def ring(fake: FakeMap) -> Iterator[Ring]:
    made = Ring(fake.fd, SIZE, RECORD)
    yield made
    made.close()


def test_everything_between_consumer_and_producer_comes_at_once(fake: FakeMap, ring: Ring) -> None:
    """All complete records are one array, and their room is given back."""
    for value in range(23):
        fake.produce(value)
    assert ring.take()["value"].tolist() == list(range(23))
    assert int(fake.words[0]) == 23 * STRIDE
    assert not len(ring.take())


def test_a_busy_record_is_waited_for(fake: FakeMap, ring: Ring) -> None:
    """Nothing behind a record that is still being written is taken."""
    fake.produce(1)
    busy = fake.produce(2, flags=BUSY)
    fake.produce(3)
    assert ring.take()["value"].tolist() == [1]
    fake.commit(busy)
    assert ring.take()["value"].tolist() == [2, 3]


def test_a_discarded_record_is_skipped(fake: FakeMap, ring: Ring) -> None:
    """A record that BPF gave up is not a record, but its room is freed."""
    fake.produce(1)
    fake.produce(2, flags=DISCARD)
    fake.produce(3)
    assert ring.take()["value"].tolist() == [1, 3]
    assert int(fake.words[0]) == 3 * STRIDE


def test_records_wrap_around_the_end(fake: FakeMap, ring: Ring) -> None:
    """More records than fit at once pass through in order, over the end and on."""
    seen: list[int] = []
    for value in range(2003):
        fake.produce(value)
        if value % 101 == 0:
            seen += ring.take()["value"].tolist()
    seen += ring.take()["value"].tolist()
    assert seen == list(range(2003))


def test_no_more_is_taken_than_fits(fake: FakeMap, ring: Ring) -> None:
    """In the memory that is given, again and again; what does not fit comes next."""
    into = np.empty(5, RECORD)
    for value in range(7):
        fake.produce(value)
    first = ring.take(into)
    assert first["value"].tolist() == [0, 1, 2, 3, 4]
    assert np.shares_memory(first, into)
    assert ring.take(into)["value"].tolist() == [5, 6]
    assert into["value"].tolist() == [5, 6, 2, 3, 4]
    assert not len(ring.take(into))


def test_what_came_since_the_last_time(fake: FakeMap, ring: Ring) -> None:
    """Once each, without freeing its room, whatever was taken meanwhile."""
    fake.produce(1)
    fake.produce(2, flags=DISCARD)
    assert ring.fresh()["value"].tolist() == [1]
    assert not len(ring.fresh())
    busy = fake.produce(3, flags=BUSY)
    assert not len(ring.fresh())
    fake.commit(busy)
    assert ring.fresh()["value"].tolist() == [3]
    assert ring.take()["value"].tolist() == [1, 3]
    fake.produce(4)
    assert ring.take()["value"].tolist() == [4]
    fake.produce(5)
    assert ring.fresh()["value"].tolist() == [5]


def test_how_full_it_is(fake: FakeMap, ring: Ring) -> None:
    """By the bytes that wait in it."""
    assert ring.fill == 0
    for value in range(23):
        fake.produce(value)
    assert ring.fill == 23 * STRIDE / SIZE
    ring.take()
    assert ring.fill == 0

# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of a compiled program in this host's kernel: compiled now, and again from the cache.

Needs root; nothing is loaded or attached.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recorded_facts import facts_of

from mptrace.tracing.plan.plan import make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.program.compiled import Compiled
from mptrace.tracing.program.compiler import built
from mptrace.tracing.program.map import Map

Built = tuple[Compiled, list[int]]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Built, Built]]:
    """The tracing program as it was compiled, and as it was found again."""
    defines = make_plan(facts_of("6.12"), Request(others=True, max_folios=1 << 10)).defines
    directory = tmp_path_factory.mktemp("programs", numbered=False)
    directory.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPTRACE_PROGRAMS", str(directory))
        first = built("move_pages.c", defines, "6.12.0")
        assert len(list(directory.iterdir())) == 1
        # nothing is compiled from now on
        patch.setattr("mptrace.tracing.program.compiler._compile", None)
        second = built("move_pages.c", defines, "6.12.0")
        yield first, second
    for fd in first[1] + second[1]:
        os.close(fd)


def told(fd: int) -> dict[str, str]:
    """What the kernel says of a map, its identity and where it is charged left out."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {name: value for name, value in fields.items() if name in KERNEL_SAYS}


KERNEL_SAYS = ("map_type", "key_size", "value_size", "max_entries", "map_flags")


def test_maps_from_the_cache_are_those_of_the_compiled_program(twice: tuple[Built, Built]) -> None:
    """By the kernel's own word on each; and the instructions are the same."""
    (first, fds), (second, others) = twice
    assert first == second
    assert len(set(fds) | set(others)) == 2 * len(first.maps)
    for spec, fd, other in zip(first.maps, fds, others, strict=True):
        assert set(told(fd)) == set(KERNEL_SAYS)
        assert told(fd) == told(other), spec.name


def sizes(program: Compiled, fds: list[int]) -> dict[str, int]:
    """Elements of each map, or bytes of a ring, as the kernel says."""
    pairs = zip(program.maps, fds, strict=True)
    return {spec.name: int(told(fd)["max_entries"]) for spec, fd in pairs}


def test_maps_have_the_sizes_that_were_asked_for(twice: tuple[Built, Built]) -> None:
    """By the kernel's own word; other sizes take the program that is there."""
    request = Request(others=True, max_folios=1 << 11, folio_ring_bytes=1 << 16)
    defines = make_plan(facts_of("6.12"), request).defines
    program, fds = built("move_pages.c", defines, "6.12.0")
    try:
        said = sizes(program, fds)
    finally:
        for fd in fds:
            os.close(fd)
    before = sizes(*twice[0])
    assert (before["folios"], before["folio_ring"]) == (1 << 10, 32 << 20)
    assert said == {**before, "folios": 1 << 11, "folio_ring": 1 << 16}
    assert program.functions == twice[0][0].functions


def map_of(built_once: Built, name: str) -> Map:
    """A map by its name."""
    program, fds = built_once
    names = [spec.name for spec in program.maps]
    return Map(program.maps[names.index(name)], fds[names.index(name)])


@pytest.mark.parametrize("which", [0, 1])
def test_a_hash_keeps_what_is_put(twice: tuple[Built, Built], which: int) -> None:
    """Put, got, walked, deleted."""
    chosen = map_of(twice[which], "chosen")
    keys = [struct.pack("I", number) for number in (3, 1 << 31, 23)]
    assert chosen.items() == []
    for key in keys:
        chosen.put(key, b"\7")
    chosen.put(keys[0], b"\5")
    assert sorted(chosen.items()) == sorted(zip(keys, (b"\5", b"\7", b"\7"), strict=True))
    assert chosen.delete(keys[1])
    assert not chosen.delete(keys[1])
    assert chosen.get(keys[1]) is None
    with pytest.raises(OSError, match="map 'chosen': No such file"):
        chosen.at(keys[1])
    assert sorted(chosen.keys()) == sorted((keys[0], keys[2]))
    chosen.clear()
    assert chosen.values() == []


@pytest.mark.parametrize("which", [0, 1])
def test_an_array_per_cpu_has_a_value_for_each(twice: tuple[Built, Built], which: int) -> None:
    """As many as the kernel may ever have CPUs, as words."""
    lost = map_of(twice[which], "lost")
    possible = Path("/sys/devices/system/cpu/possible").read_text().strip()
    ends = [part.partition("-") for part in possible.split(",")]
    cpus = sum(int(last or first) - int(first) + 1 for first, _, last in ends)
    counts = np.arange(3, 3 + cpus, dtype="u8")
    lost.put(struct.pack("I", 2), counts.tobytes())
    assert np.frombuffer(lost.at(struct.pack("I", 2)), "u8").tolist() == counts.tolist()
    assert len(lost.items()) == lost.spec.max_entries


def test_too_little_for_a_value_is_refused(twice: tuple[Built, Built]) -> None:
    """The kernel would read beyond it."""
    control = map_of(twice[0], "control")
    with pytest.raises(ValueError, match="map 'control'"):
        control.put(struct.pack("I", 0), b"short")
    with pytest.raises(OSError, match="map 'control'"):
        control.put(struct.pack("I", 1), bytes(control.spec.value_size))

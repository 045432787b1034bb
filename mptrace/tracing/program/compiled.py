# SPDX-License-Identifier: GPL-2.0-or-later
"""A BPF program as it was compiled: maps and instructions, apart from any process.  Pure.

An instruction that loads a map's address has the map's number here and its file
descriptor in the kernel (``BPF_PSEUDO_MAP_FD``, linux/bpf.h).
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

#: struct bpf_insn
_INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("off", "<i2"), ("imm", "<i4")])
_LOAD_WORD, _PSEUDO_MAP_FD = 0x18, 1
#: BPF_MAP_TYPE_RINGBUF of enum bpf_map_type, linux/bpf.h
_RING = 27
#: Raised when the text of `Compiled.to_bytes` changes.
FORMAT = 1


@dataclass(frozen=True)
class MapSpec:
    """A map as bpf(2) creates it; ``kind`` is of enum bpf_map_type, sizes are bytes."""

    name: str
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True)
class Compiled:
    """All functions of one source, ``functions`` by name, and the maps that they use."""

    maps: tuple[MapSpec, ...]
    functions: Mapping[str, bytes]

    def instructions(self, function: str, fds: Sequence[int]) -> bytes:
        """A function for the kernel; ``fds`` has a file descriptor for each of ``maps``.

        Raises KeyError where there is no such function.
        """
        return _with_maps(self.functions[function], dict(enumerate(fds)))

    def resized(self, sizes: Mapping[str, int], page_size: int) -> "Compiled":
        """The same with other sizes of its maps, by their names.

        :param sizes: elements, or pages of a ring.
        :param page_size: of the kernel, in bytes.
        """

        def of(spec: MapSpec) -> MapSpec:
            unit = page_size if spec.kind == _RING else 1
            return replace(spec, max_entries=sizes[spec.name] * unit)

        maps = (of(spec) if spec.name in sizes else spec for spec in self.maps)
        return replace(self, maps=tuple(maps))

    def to_bytes(self) -> bytes:
        """As text that `from_bytes` reads."""
        return json.dumps(
            {
                "format": FORMAT,
                "maps": [asdict(spec) for spec in self.maps],
                "functions": {
                    name: base64.b64encode(body).decode() for name, body in self.functions.items()
                },
            }
        ).encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> "Compiled":
        """Raises ValueError, KeyError or TypeError where it is something else."""
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']}")
        return cls(
            tuple(MapSpec(**spec) for spec in raw["maps"]),
            {name: base64.b64decode(body) for name, body in raw["functions"].items()},
        )


def compiled(
    maps: Sequence[MapSpec], fds: Sequence[int], functions: Mapping[str, bytes]
) -> Compiled:
    """Of functions that are bound to the maps of one process, ``fds``."""
    numbers = {fd: number for number, fd in enumerate(fds)}
    return Compiled(
        tuple(maps), {name: _with_maps(body, numbers) for name, body in functions.items()}
    )


def _with_maps(body: bytes, change: Mapping[int, int]) -> bytes:
    """Each number of a map replaced; raises KeyError for one that ``change`` lacks."""
    instructions: NDArray[np.void] = np.frombuffer(body, _INSTRUCTION).copy()
    # the second half of a wide instruction has no code
    refers = (instructions["code"] == _LOAD_WORD) & (
        instructions["registers"] >> 4 == _PSEUDO_MAP_FD
    )
    instructions["imm"][refers] = [change[int(at)] for at in instructions["imm"][refers]]
    return instructions.tobytes()

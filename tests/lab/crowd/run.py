# SPDX-License-Identifier: GPL-2.0-or-later
"""On the host: what a run of `conduct` in a guest left, once for each kernel."""

import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace.lab.guest import Guest
from mptrace.recording.reader import Recording

#: The guest that a module of tests asks for with ``pytestmark``: its two CPUs run at once.
MACHINE = [pytest.mark.multi]
#: Of the directory: what makes touches, and what makes calls.
PROGRAMS = ("touch", "race")
#: struct touch of touch.c
TOUCH = np.dtype(
    [
        ("address", "<u8"),
        ("before_ns", "<u8"),
        ("after_ns", "<u8"),
        ("tid", "<u4"),
        ("slept", "<u4"),
    ]
)
#: struct told of race.c
TOLD = np.dtype(
    [
        ("before_ns", "<u8"),
        ("after_ns", "<u8"),
        ("ret", "<i8"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("pid", "<i4"),
        ("count", "<u4"),
    ]
)


@dataclass(frozen=True)
class Told:
    """A call as its caller kept it: ``about`` is of TOLD, the arrays have a row per entry."""

    about: np.void
    pages: np.ndarray
    nodes: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class Crowd:
    """A run: the recording, and what the programs themselves say."""

    recording: Recording
    #: Of each section of `stalls` what `stalls.run` returned.
    sections: dict[str, dict[str, Any]]
    #: Of each section the touches that took long, dtype TOUCH.
    touches: dict[str, np.ndarray]
    #: What `race.run` returned.
    race: dict[str, int]
    #: The calls of the race.
    told: list[Told]

    @classmethod
    def read(cls, path: Path) -> "Crowd":
        """What lies in a directory."""
        about = json.loads((path / "about.json").read_text())
        sections = {section["name"]: section for section in about["sections"]}
        touches = {name: np.fromfile(path / name, TOUCH) for name in sections}
        told = [call for each in sorted((path / "told").iterdir()) for call in _calls(each)]
        return cls(Recording.open(path / "data"), sections, touches, about["race"], told)


def _calls(path: Path) -> list[Told]:
    data, at, calls = path.read_bytes(), 0, []

    def take(dtype: Any, count: int) -> np.ndarray:
        nonlocal at
        array = np.frombuffer(data, dtype, count, at)
        at += array.nbytes
        return array

    while at < len(data):
        about = take(TOLD, 1)[0]
        count = int(about["count"])
        arrays = [take(kind, count) for kind in ("<u8", "<i4", "<i4", "<i4")]
        calls.append(Told(about, *arrays))
    return calls


def _built(name: str, path: Path) -> bytes:
    """The program of a C file beside this one, made in ``path``: a compiler is slow in a guest."""
    flags = ("-O2", "-pthread", "-static", "-Wall", "-Werror")
    source, program = Path(__file__).with_name(f"{name}.c"), path / name
    subprocess.run(["gcc", *flags, "-o", program, source], check=True)
    content = program.read_bytes()
    program.unlink()
    return content


_runs: dict[str, Crowd] = {}


def crowd_of(guest: Guest, kernel: str, directory: str, path: Path) -> Crowd:
    """The one run of this kernel, in ``directory`` of the guest, brought to ``path``."""
    if kernel not in _runs:
        for name in PROGRAMS:
            guest.put(f"{directory}/{name}", _built(name, path), mode=0o755)
        argv = [sys.executable, "-m", "crowd.conduct", directory, "--stacks"]
        done = guest.run(argv, cwd=str(Path(__file__).parents[1]), timeout=1200)
        assert done.returncode == 0, done.errors
        tar = guest.run(["tar", "-C", directory, "-cf", "-", "."]).stdout
        with tarfile.open(fileobj=BytesIO(tar)) as archive:
            archive.extractall(path)
        _runs[kernel] = Crowd.read(path)
    return _runs[kernel]

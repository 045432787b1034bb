# SPDX-License-Identifier: GPL-2.0-or-later
"""A BPF program: loads it, attaches it by a plan, says what it costs, detaches it."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mptrace.errors import HostError
from mptrace.tracing.plan.plan import PhasePlan
from mptrace.tracing.program.compiled import Compiled
from mptrace.tracing.program.compiler import built, captured_stderr, libbcc, tail, version_code
from mptrace.tracing.program.map import Map

# Program types of linux/bpf.h.
_KPROBE, _TRACEPOINT, _RAW_TRACEPOINT, _TRACING = 2, 5, 17, 26
_BPF_ENABLE_STATS = 32
_SYS_BPF = 321


@dataclass(frozen=True)
class HandlerCost:
    """BPF run-time statistics of one attached program."""

    handler: str
    run_count: int
    run_ns: int


class Program:
    """One file of `bpf/`, compiled, loaded and attached as its phases say.

    Nothing of it outlives the process: maps, programs and attachments hang on
    file descriptors (kprobes through the perf PMU, no event in tracefs).
    """

    def __init__(
        self,
        source: str,
        phases: Sequence[PhasePlan],
        defines: Mapping[str, int | str],
        release: str,
    ) -> None:
        self._source = source
        self._phases = phases
        self._defines = defines
        self._release = release
        self._lib: Any = None
        self._compiled = Compiled((), {})
        self._maps: dict[str, Map] = {}
        self._program_fds: dict[str, int] = {}
        self._fds: list[int] = []

    def open(self) -> dict[tuple[str, str, str], str]:
        """Compile (or fetch what was compiled before), load and attach.

        Returns (phase, function, method) -> the kernel's answer for everything
        that it refused to attach: make another plan without those.  Raises
        HostError where bcc is missing or can't compile, or the kernel refuses a map.
        """
        refused: dict[tuple[str, str, str], str] = {}
        try:
            self._build()
            for phase in self._phases:
                if not phase.method:
                    continue
                opened = len(self._fds)
                try:
                    self._attach(phase)
                except OSError as error:
                    refused[phase.phase, phase.attach, phase.method] = error.strerror or str(error)
                    while len(self._fds) > opened:
                        os.close(self._fds.pop())
        except BaseException:
            self.close()
            raise
        return refused

    # ---- maps and instructions ----------------------------------------------

    def _build(self) -> None:
        """Maps and instructions."""
        self._lib = libbcc()
        self._compiled, fds = built(self._source, self._defines, self._release)
        self._maps = {
            spec.name: Map(self._lib, spec, fd)
            for spec, fd in zip(self._compiled.maps, fds, strict=True)
        }

    @property
    def page_size(self) -> int:
        """Bytes of a base page."""
        return os.sysconf("SC_PAGE_SIZE")

    # ---- attaching ----------------------------------------------------------

    def _attach(self, phase: PhasePlan) -> None:
        """Load and attach both sides of a phase; raises OSError with the kernel's answer."""
        for handler, is_exit in ((phase.enter, False), (phase.exit, True)):
            if not handler:
                continue
            # the same handler may serve several functions
            label = f"{handler}@{phase.attach}"
            target = phase.attach.encode()
            method = phase.method
            if method == "kprobe+fexit":
                method = "fentry" if is_exit else "kprobe"
            if method == "fentry":
                name = ("kretfunc__" if is_exit else "kfunc__") + phase.attach
                self._keep(self._lib.bpf_attach_kfunc(self._load(handler, _TRACING, name, label)))
            elif method == "kprobe":
                fd = self._load(handler, _KPROBE, handler, label)
                event = f"mptrace_{os.getpid()}_{handler}".encode()
                self._keep(self._lib.bpf_attach_kprobe(fd, int(is_exit), event, target, 0, 0))
            elif method == "raw_tracepoint":
                fd = self._load(handler, _RAW_TRACEPOINT, handler, label)
                self._keep(self._lib.bpf_attach_raw_tracepoint(fd, target.partition(b":")[2]))
            else:
                category, _, tracepoint = target.partition(b":")
                fd = self._load(handler, _TRACEPOINT, handler, label)
                self._keep(self._lib.bpf_attach_tracepoint(fd, category, tracepoint))

    def _load(self, function: str, program_type: int, name: str, label: str) -> int:
        """Load one handler; raises OSError with the kernel's errno."""
        if function not in self._compiled.functions:
            raise HostError(f"'{self._source}' has no handler '{function}'")
        body = self._compiled.instructions(function, [each.fd for each in self._maps.values()])
        fd, _ = self._try_load(name, program_type, body, 0)
        if fd < 0:
            # once more, for what the verifier says
            number, log = self._try_load(name, program_type, body, 1)
            raise OSError(-number, f"{os.strerror(-number)}{tail(log)}")
        self._fds.append(fd)
        self._program_fds[label] = fd
        return int(fd)

    def _try_load(
        self, name: str, program_type: int, body: bytes, log_level: int
    ) -> tuple[int, str]:
        """The program's file descriptor, or -errno, and the verifier's log."""
        log = ctypes.create_string_buffer(1 << 20)
        ctypes.set_errno(0)
        with captured_stderr():
            fd = self._lib.bcc_prog_load(
                program_type,
                name.encode(),
                body,
                len(body),
                b"GPL",
                version_code(self._release),
                log_level,
                log if log_level else None,
                len(log) if log_level else 0,
            )
        if fd == -1:
            fd = -ctypes.get_errno() or -1
        return int(fd), log.value.decode(errors="replace")

    def _keep(self, fd: int) -> None:
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._fds.append(fd)

    # ---- what it costs ------------------------------------------------------

    @contextlib.contextmanager
    def statistics(self) -> Iterator[bool]:
        """BPF run-time statistics on while inside (since 5.8); yields whether they are."""
        libc = ctypes.CDLL(None, use_errno=True)
        attribute = ctypes.create_string_buffer(8)
        fd = libc.syscall(_SYS_BPF, _BPF_ENABLE_STATS, attribute, len(attribute))
        try:
            yield fd >= 0
        finally:
            if fd >= 0:
                os.close(fd)

    def handler_costs(self) -> list[HandlerCost]:
        """Runs and run time of each attached program since statistics were first on."""
        return [
            HandlerCost(label, told.get("run_cnt", 0), told.get("run_time_ns", 0))
            for label, told in self._told_of_programs().items()
        ]

    def skipped(self) -> int:
        """Runs that the kernel left out, as the program was running on that CPU already.

        A kernel that preempts in the middle of a program does so; 0 where the kernel
        doesn't count them (before 5.12, of kprobes before 6.7).
        """
        return sum(told.get("recursion_misses", 0) for told in self._told_of_programs().values())

    def _told_of_programs(self) -> dict[str, dict[str, int]]:
        """What the kernel says of each program, by its label; counts only."""
        return {
            label: {
                name: int(value)
                for name, _, value in (
                    line.partition(":")
                    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
                )
                if value.strip().isdigit()
            }
            for label, fd in self._program_fds.items()
        }

    def _lost(self, causes: Iterable[str]) -> dict[str, int]:
        """The map `lost`, of all CPUs together, by the names of its numbers."""
        counts = self._maps["lost"]
        return {
            cause: int(np.frombuffer(counts.at(word(number)), "u8").sum())
            for number, cause in enumerate(causes)
        }

    # ---- the end ------------------------------------------------------------

    def close(self) -> None:
        """Detach and free everything; harmless when called again."""
        for fd in reversed(self._fds):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
        self._program_fds.clear()
        for each in self._maps.values():
            os.close(each.fd)
        self._maps.clear()


def word(number: int) -> bytes:
    """A u32, as keys are."""
    return number.to_bytes(4, sys.byteorder)

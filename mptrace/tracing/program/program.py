# SPDX-License-Identifier: GPL-2.0-or-later
"""A BPF program: loads it, attaches it by a plan, says what it costs, detaches it."""

import contextlib
import ctypes
import errno
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mptrace.errors import HostError
from mptrace.host import bpf, kernel_types, symbols
from mptrace.tracing.plan.plan import PhasePlan
from mptrace.tracing.program.compiled import Compiled
from mptrace.tracing.program.compiler import built, tail, version_code, with_memory
from mptrace.tracing.program.map import Map

#: What the verifier says is kept up to this.
_LOG_BYTES = 1 << 20


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
        self._compiled = Compiled((), {})
        self._maps: dict[str, Map] = {}
        self._program_fds: dict[str, int] = {}
        self._fds: list[int] = []
        #: Descriptors of what attaches the programs.
        self._links: list[int] = []
        self._detaching: threading.Thread | None = None

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
                opened = len(self._links), len(self._fds)
                try:
                    self._attach(phase)
                except OSError as error:
                    refused[phase.phase, phase.attach, phase.method] = error.strerror or str(error)
                    for fds, count in zip((self._links, self._fds), opened, strict=True):
                        _close(fds[count:])
                        del fds[count:]
        except BaseException:
            self.close()
            raise
        return refused

    # ---- maps and instructions ----------------------------------------------

    def _build(self) -> None:
        """Maps and instructions."""
        self._compiled, fds = built(self._source, self._defines, self._release)
        self._maps = {
            spec.name: Map(spec, fd) for spec, fd in zip(self._compiled.maps, fds, strict=True)
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
            method = phase.method
            if method == "kprobe+fexit":
                method = "fentry" if is_exit else "kprobe"
            if method == "fentry":
                kind = bpf.TRACE_FEXIT if is_exit else bpf.TRACE_FENTRY
                where = {"attach_type": kind, "attach_btf_id": _function_id(phase.attach)}
                program = self._load(handler, bpf.PROG_TYPE_TRACING, label, **where)
                link = bpf.attach_tracing(program)
            elif method == "kprobe":
                program = self._load(handler, bpf.PROG_TYPE_KPROBE, label)
                link = bpf.attach_kprobe(program, phase.attach, is_return=is_exit)
            elif method == "raw_tracepoint":
                program = self._load(handler, bpf.PROG_TYPE_RAW_TRACEPOINT, label)
                link = bpf.attach_raw_tracepoint(program, phase.attach.partition(":")[2])
            else:
                program = self._load(handler, bpf.PROG_TYPE_TRACEPOINT, label)
                link = bpf.attach_tracepoint(program, _tracepoint_id(phase.attach))
            self._links.append(link)

    def _load(self, function: str, program_type: int, label: str, **where: int) -> int:
        """Load one handler; raises OSError with the kernel's errno."""
        if function not in self._compiled.functions:
            raise HostError(f"'{self._source}' has no handler '{function}'")
        body = self._compiled.instructions(function, [each.fd for each in self._maps.values()])
        version = version_code(self._release)

        def load(log: "ctypes.Array[ctypes.c_char] | None" = None) -> int:
            return bpf.load_program(
                program_type, body, function, kernel_version=version, log=log, **where
            )

        try:
            fd = with_memory(load)
        except OSError as refused:
            # once more, for what the verifier says
            log = ctypes.create_string_buffer(_LOG_BYTES)
            try:
                fd = load(log)
            except OSError:
                said = tail(log.value.decode(errors="replace"))
                # a log that does not fit has an errno of its own
                raise OSError(refused.errno, f"{refused.strerror}{said}") from None
        self._fds.append(fd)
        self._program_fds[label] = fd
        return fd

    # ---- what it costs ------------------------------------------------------

    @contextlib.contextmanager
    def statistics(self) -> Iterator[bool]:
        """BPF run-time statistics on while inside (since 5.8); yields whether they are."""
        try:
            fd = bpf.enable_statistics()
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
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

    def begin_detaching(self) -> None:
        """Detach meanwhile; what was counted can be asked until `close`, which waits for the rest.

        Detaching takes the kernel 0.1 s for each function that fentry was attached to: it waits
        until no task can be in the trampoline, for one function after another, whoever
        closes their descriptors (unregister_ftrace_direct(), under one mutex).
        """
        links, self._links = self._links, []
        if links:
            self._detaching = threading.Thread(
                target=_close, args=(links,), name="mptrace-detach", daemon=True
            )
            self._detaching.start()

    def close(self) -> None:
        """Detach and free everything; harmless when called again.

        What an interrupted wait leaves to the end of the process, the kernel does then.
        """
        self.begin_detaching()
        if self._detaching is not None:
            self._detaching.join()
        _close(self._fds)
        self._fds.clear()
        self._program_fds.clear()
        for each in self._maps.values():
            os.close(each.fd)
        self._maps.clear()


def _close(descriptors: Sequence[int]) -> None:
    """The last one first."""
    for fd in reversed(descriptors):
        with contextlib.suppress(OSError):
            os.close(fd)


def word(number: int) -> bytes:
    """A u32, as keys are."""
    return number.to_bytes(4, sys.byteorder)


def _function_id(function: str) -> int:
    """A function's id in the kernel's BTF; raises OSError where it has none."""
    found = kernel_types.running().function_id(function)
    if found is None:
        raise OSError(errno.ESRCH, f"BTF has no function '{function}'")
    return found


def _tracepoint_id(name: str) -> int:
    """The id of a tracepoint "category:name"; raises OSError where tracefs doesn't say."""
    tracefs = symbols.tracefs(Path("/"))
    if tracefs is None:
        raise OSError(errno.ENOENT, "tracefs can't be read")
    return int((tracefs / "events" / name.replace(":", "/") / "id").read_text())

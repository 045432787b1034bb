# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether BPF and move_pages(2) really work here: by trying, not by reading a configuration.

Each attempt loads a program of eight instructions through the raw bpf(2) and
attaches it for an instant, without a compiler and without bcc.  Nothing stays
behind: every program, map, event and link lives as long as its descriptor.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from mptrace.host import bpf
from mptrace.host.kernel_types import KernelTypes

#: The function and the tracepoint that the attempts attach to: called by nobody
#: but move_pages(2), so that an instant on them disturbs no one.
PROBE_FUNCTION = "kernel_move_pages"
PROBE_TRACEPOINT = "migrate:mm_migrate_pages"
#: Big enough to meet a memlock limit where the kernel still counts maps against it.
RING_BYTES = 8 << 20

# machine -> move_pages
_MOVE_PAGES = {"x86_64": 279, "aarch64": 239, "riscv64": 239, "ppc64le": 301, "s390x": 310}
_MPOL_MF_MOVE = 2
_ENOTSUPP = 524  # the kernel's own errno, which errno.h doesn't name


# One struct bpf_insn: opcode, destination and source register, offset, immediate.
def _insn(code: int, registers: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, registers, offset, immediate)


# r0 = 0; exit
_RETURN_ZERO = _insn(0xB7) + _insn(0x95)
# bpf_probe_read_kernel(fp - 8, 8, NULL), which fails at run time, harmlessly:
# *(u64 *)(r10 - 8) = 0; r1 = r10; r1 += -8; r2 = 8; r3 = 0; call 113
_READ_KERNEL = (
    _insn(0x7A, 0x0A, -8)
    + _insn(0xBF, 0xA1)
    + _insn(0x07, 0x01, 0, -8)
    + _insn(0xB7, 0x02, 0, 8)
    + _insn(0xB7, 0x03)
    + _insn(0x85, 0, 0, 113)
)

_libc = ctypes.CDLL(None, use_errno=True)


def try_methods(tracefs: Path | None, types: KernelTypes | None) -> dict[str, str]:
    """Attach method -> "" where it works here, otherwise why it doesn't.

    The methods are "fentry", "kprobe", "tracepoint" and "raw_tracepoint".
    Loading and attaching are told apart: a kernel may load programs of type
    kprobe and have no kprobes (CONFIG_BPF_EVENTS without CONFIG_KPROBE_EVENTS).
    """
    return {
        method: try_attach(method, target, tracefs, types)
        for method, target in (
            ("fentry", PROBE_FUNCTION),
            ("kprobe", PROBE_FUNCTION),
            ("tracepoint", PROBE_TRACEPOINT),
            ("raw_tracepoint", PROBE_TRACEPOINT),
        )
    }


def try_attach(method: str, target: str, tracefs: Path | None, types: KernelTypes | None) -> str:
    """Attach to a function, or a tracepoint "category:name", for an instant: "" or why not."""
    attempts: dict[str, Callable[[], None]] = {
        "fentry": lambda: _try_fentry(target, types),
        "kprobe": lambda: _try_kprobe(target),
        "kprobe+fexit": lambda: _try_both(target, types),
        "tracepoint": lambda: _try_tracepoint(target, tracefs),
        "raw_tracepoint": lambda: _try_raw_tracepoint(target),
    }
    return _reason(attempts[method])


def _try_both(target: str, types: KernelTypes | None) -> None:
    _try_kprobe(target)
    _try_fentry(target, types)


def try_ring_buffer(size_bytes: int = RING_BYTES) -> str:
    """Create a BPF ring buffer (a power of two of bytes); "" or why it can't be."""
    return _reason(lambda: _try_ring_buffer(size_bytes))


def try_move_pages() -> str:
    """Ask move_pages(2) for a page of our own, then move it to where it is: "" or why not."""
    return _reason(_try_move_pages)


class _Refused(Exception):
    """An attempt failed; the text says at which step and how."""


def _reason(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except _Refused as refused:
        return str(refused)
    return ""


def _refused(step: str, error: int) -> _Refused:
    name = "ENOTSUPP" if error == _ENOTSUPP else errno.errorcode.get(error, str(error))
    return _Refused(f"{step}: {name}")


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    """What the kernel refuses inside is refused at this step."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSYS and platform.machine() not in _MOVE_PAGES:
            raise _Refused(f"{name}: not known on {platform.machine()}") from None
        raise _refused(name, error.errno or 0) from None


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# Descriptor of a program that reads kernel memory, as the tracer's do.
def _load(program_type: int, attach_type: int = 0, attach_btf_id: int = 0) -> int:
    try:
        return _load_code(_READ_KERNEL + _RETURN_ZERO, program_type, attach_type, attach_btf_id)
    except _Refused:
        # Lockdown "confidentiality" takes the helper away (bpf_base_func_proto(),
        # LOCKDOWN_BPF_READ_KERNEL); without it the same program loads.
        os.close(_load_code(_RETURN_ZERO, program_type, attach_type, attach_btf_id))
        raise _Refused("programs load, but may not read kernel memory") from None


def _load_code(instructions: bytes, program_type: int, attach_type: int, attach_btf_id: int) -> int:
    with _step("loading"):
        return bpf.load_program(
            program_type,
            instructions,
            "mptrace_try",
            attach_type=attach_type,
            attach_btf_id=attach_btf_id,
        )


def _try_fentry(target: str, types: KernelTypes | None) -> None:
    if types is None:
        raise _Refused("no BTF to find functions in")
    function = types.function_id(target)
    if function is None:
        raise _Refused(f"BTF has no function '{target}'")
    # ENOTSUPP when attaching: no trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS).
    with _closing(_load(bpf.PROG_TYPE_TRACING, bpf.TRACE_FENTRY, function)) as program:
        _try_attaching(lambda: bpf.attach_tracing(program))


def _try_kprobe(target: str) -> None:
    with _closing(_load(bpf.PROG_TYPE_KPROBE)) as program:
        if not bpf.has_kprobes():
            raise _Refused("programs load, but the kernel has no kprobes")
        _try_attaching(lambda: bpf.attach_kprobe(program, target))


def _try_tracepoint(target: str, tracefs: Path | None) -> None:
    with _closing(_load(bpf.PROG_TYPE_TRACEPOINT)) as program:
        if tracefs is None:
            raise _Refused("programs load, but tracefs can't be read")
        path = tracefs / "events" / target.replace(":", "/") / "id"
        with _step(f"programs load, but reading '{path}'"):
            event_id = int(path.read_text())
        _try_attaching(lambda: bpf.attach_tracepoint(program, event_id))


def _try_raw_tracepoint(target: str) -> None:
    name = target.partition(":")[2]
    with _closing(_load(bpf.PROG_TYPE_RAW_TRACEPOINT)) as program:
        _try_attaching(lambda: bpf.attach_raw_tracepoint(program, name))


def _try_attaching(attach: Callable[[], int]) -> None:
    with _step("attaching"):
        os.close(attach())


def _try_ring_buffer(size_bytes: int) -> None:
    with _step("creating"):
        os.close(bpf.create_map(bpf.MAP_TYPE_RINGBUF, 0, 0, size_bytes))


def _try_move_pages() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[0] = 1
        held = ctypes.c_char.from_buffer(page)
        pages = (ctypes.c_void_p * 1)(ctypes.addressof(held))
        status = (ctypes.c_int * 1)(-1)
        try:
            _move_pages("asking where a page is", pages, None, status, 0)
            if status[0] < 0:
                raise _refused("asking where a page is", -status[0])
            nodes = (ctypes.c_int * 1)(status[0])
            _move_pages("moving a page", pages, nodes, status, _MPOL_MF_MOVE)
            if status[0] < 0:
                raise _refused("moving a page", -status[0])
        finally:
            del held


def _move_pages(step: str, pages: object, nodes: object, status: object, flags: int) -> None:
    number = _MOVE_PAGES.get(platform.machine())
    if number is None:
        raise _Refused(f"{step}: not known on {platform.machine()}")
    arguments = (ctypes.c_int(0), ctypes.c_ulong(1), pages, nodes, status, ctypes.c_int(flags))
    if _libc.syscall(number, *arguments) < 0:
        raise _refused(step, ctypes.get_errno())

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether BPF and move_pages(2) really work here: by trying, not by reading a configuration.

Each attempt loads a program of eight instructions through the raw bpf(2) and
attaches it for an instant, without a compiler and without bcc.  Nothing stays
behind: every program, map, event and link lives as long as its descriptor.

Layouts are those of ``union bpf_attr`` (include/uapi/linux/bpf.h) and
``struct perf_event_attr`` (include/uapi/linux/perf_event.h).
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from mptrace.host import btf as kernel_btf

#: The function and the tracepoint that the attempts attach to: called by nobody
#: but move_pages(2), so that an instant on them disturbs no one.
PROBE_FUNCTION = "kernel_move_pages"
PROBE_TRACEPOINT = "migrate:mm_migrate_pages"
#: Big enough to meet a memlock limit where the kernel still counts maps against it.
RING_BYTES = 8 << 20

# machine -> (bpf, perf_event_open, move_pages)
_SYSCALLS = {
    "x86_64": (321, 298, 279),
    "aarch64": (280, 241, 239),
    "riscv64": (280, 241, 239),
    "ppc64le": (361, 319, 301),
    "s390x": (351, 331, 310),
}

_BPF_MAP_CREATE = 0
_BPF_PROG_LOAD = 5
_BPF_RAW_TRACEPOINT_OPEN = 17
_MAP_TYPE_RINGBUF = 27
_PROG_TYPE_KPROBE = 2
_PROG_TYPE_TRACEPOINT = 5
_PROG_TYPE_RAW_TRACEPOINT = 17
_PROG_TYPE_TRACING = 26
_ATTACH_FENTRY = 24  # BPF_TRACE_FENTRY
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_IOC_SET_BPF = 0x40042408
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


def try_methods(tracefs: Path | None, btf: "kernel_btf.Btf | None") -> dict[str, str]:
    """Attach method -> "" where it works here, otherwise why it doesn't.

    The methods are "fentry", "kprobe", "tracepoint" and "raw_tracepoint".
    Loading and attaching are told apart: a kernel may load programs of type
    kprobe and have no kprobes (CONFIG_BPF_EVENTS without CONFIG_KPROBE_EVENTS).
    """
    return {
        method: try_attach(method, target, tracefs, btf)
        for method, target in (
            ("fentry", PROBE_FUNCTION),
            ("kprobe", PROBE_FUNCTION),
            ("tracepoint", PROBE_TRACEPOINT),
            ("raw_tracepoint", PROBE_TRACEPOINT),
        )
    }


def try_attach(method: str, target: str, tracefs: Path | None, btf: "kernel_btf.Btf | None") -> str:
    """Attach to a function, or a tracepoint "category:name", for an instant: "" or why not."""
    attempts: dict[str, Callable[[], None]] = {
        "fentry": lambda: _try_fentry(target, btf),
        "kprobe": lambda: _try_kprobe(target),
        "kprobe+fexit": lambda: _try_both(target, btf),
        "tracepoint": lambda: _try_tracepoint(target, tracefs),
        "raw_tracepoint": lambda: _try_raw_tracepoint(target),
    }
    return _reason(attempts[method])


def _try_both(target: str, btf: "kernel_btf.Btf | None") -> None:
    _try_kprobe(target)
    _try_fentry(target, btf)


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


def _syscall(index: int, step: str, *arguments: object) -> int:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise _Refused(f"{step}: not known on {platform.machine()}")
    result = int(_libc.syscall(numbers[index], *arguments))
    if result < 0:
        raise _refused(step, ctypes.get_errno())
    return result


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bpf(step: str, command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _syscall(0, step, ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes)))


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
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sIIIIQIIQIIQ",
        program_type,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,
        0,
        0,  # no verifier log
        0,
        0,
        b"mptrace_try",
        0,
        attach_type,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        attach_btf_id,
        0,
    )
    return _bpf("loading", _BPF_PROG_LOAD, attributes)


def _raw_tracepoint_open(step: str, program: int, name: bytes | None) -> int:
    text = ctypes.create_string_buffer(name) if name is not None else None
    address = ctypes.addressof(text) if text is not None else 0
    return _bpf(step, _BPF_RAW_TRACEPOINT_OPEN, struct.pack("=QII", address, program, 0))


def _perf_event_open(step: str, event_type: int, config: int, function: bytes = b"") -> int:
    name = ctypes.create_string_buffer(function)
    # struct perf_event_attr as of PERF_ATTR_SIZE_VER1; config1 is kprobe_func.
    attributes = struct.pack(
        "=IIQQQQQIIQQ",
        event_type,
        72,
        config,
        1,  # sample_period
        0,
        0,
        0,
        0,
        0,
        ctypes.addressof(name) if function else 0,
        0,
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _syscall(
        1,
        step,
        buffer,
        ctypes.c_int(-1),
        ctypes.c_int(min(os.sched_getaffinity(0))),
        ctypes.c_int(-1),
        ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC),
    )


def _set_bpf(step: str, event: int, program: int) -> None:
    try:
        fcntl.ioctl(event, _PERF_IOC_SET_BPF, program)
    except OSError as error:
        raise _refused(step, error.errno or 0) from None


def _try_fentry(target: str, btf: "kernel_btf.Btf | None") -> None:
    if btf is None:
        raise _Refused("no BTF to find functions in")
    function = btf.function_id(target)
    if function is None:
        raise _Refused(f"BTF has no function '{target}'")
    # ENOTSUPP when attaching: no trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS).
    program = _load(_PROG_TYPE_TRACING, _ATTACH_FENTRY, function)
    with _closing(program), _closing(_raw_tracepoint_open("attaching", program, None)):
        pass


def _try_kprobe(target: str) -> None:
    with _closing(_load(_PROG_TYPE_KPROBE)) as program:
        try:
            text = Path("/sys/bus/event_source/devices/kprobe/type").read_text()
        except OSError:
            raise _Refused("programs load, but the kernel has no kprobes") from None
        event = _perf_event_open("attaching", int(text), 0, target.encode())
        with _closing(event):
            _set_bpf("attaching", event, program)


def _try_tracepoint(target: str, tracefs: Path | None) -> None:
    with _closing(_load(_PROG_TYPE_TRACEPOINT)) as program:
        if tracefs is None:
            raise _Refused("programs load, but tracefs can't be read")
        path = tracefs / "events" / target.replace(":", "/") / "id"
        try:
            event_id = int(path.read_text())
        except OSError as error:
            raise _refused(f"programs load, but reading '{path}'", error.errno or 0) from None
        with _closing(_perf_event_open("attaching", _PERF_TYPE_TRACEPOINT, event_id)) as event:
            _set_bpf("attaching", event, program)


def _try_raw_tracepoint(target: str) -> None:
    name = target.partition(":")[2].encode()
    program = _load(_PROG_TYPE_RAW_TRACEPOINT)
    with _closing(program), _closing(_raw_tracepoint_open("attaching", program, name)):
        pass


def _try_ring_buffer(size_bytes: int) -> None:
    # map_type, key_size, value_size, max_entries, map_flags
    attributes = struct.pack("=IIIII", _MAP_TYPE_RINGBUF, 0, 0, size_bytes, 0)
    with _closing(_bpf("creating", _BPF_MAP_CREATE, attributes)):
        pass


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
    _syscall(2, step, ctypes.c_int(0), ctypes.c_ulong(1), pages, nodes, status, ctypes.c_int(flags))

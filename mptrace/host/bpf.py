# SPDX-License-Identifier: GPL-2.0-or-later
"""bpf(2) and perf_event_open(2): maps, programs and what hangs on them, as descriptors.

Without libbcc, which takes a second and more to load under emulation and reads all of the
kernel's BTF again for each program.  Nothing outlives its descriptor.

Layouts are those of ``union bpf_attr`` (include/uapi/linux/bpf.h) and ``struct
perf_event_attr`` (include/uapi/linux/perf_event.h).  Everything here raises OSError with the
kernel's errno, ENOSYS on a machine whose system calls aren't known.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
from pathlib import Path

#: machine -> numbers of (bpf, perf_event_open)
_SYSCALLS = {
    "x86_64": (321, 298),
    "aarch64": (280, 241),
    "riscv64": (280, 241),
    "ppc64le": (361, 319),
    "s390x": (351, 331),
}

(
    _MAP_CREATE,
    _MAP_LOOKUP_ELEM,
    _MAP_UPDATE_ELEM,
    _MAP_DELETE_ELEM,
    _MAP_GET_NEXT_KEY,
    _PROG_LOAD,
) = range(6)
_RAW_TRACEPOINT_OPEN = 17
_ENABLE_STATS = 32

#: enum bpf_map_type
MAP_TYPE_RINGBUF = 27
#: enum bpf_prog_type
PROG_TYPE_KPROBE = 2
PROG_TYPE_TRACEPOINT = 5
PROG_TYPE_RAW_TRACEPOINT = 17
PROG_TYPE_TRACING = 26
#: enum bpf_attach_type
TRACE_FENTRY, TRACE_FEXIT = 24, 25

_INSTRUCTION_BYTES = 8
_NAME_BYTES = 16
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_IOC_SET_BPF = 0x40042408
_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")
#: A load that a signal interrupted is begun again, so often: as libbpf does.
_INTERRUPTED = 5

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(index: int, *arguments: object) -> int:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, f"not known on {platform.machine()}")
    result = int(_libc.syscall(numbers[index], *arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _syscall(0, ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes)))


def _name(text: str) -> bytes:
    return text.encode()[: _NAME_BYTES - 1]


# ---- maps -----------------------------------------------------------------------------


def create_map(
    kind: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = ""
) -> int:
    """A map's descriptor; ``kind`` is of enum bpf_map_type, sizes are bytes (a ring's: entries)."""
    attributes = struct.pack(
        "=IIIIIII16s", kind, key_size, value_size, max_entries, flags, 0, 0, _name(name)
    )
    return _bpf(_MAP_CREATE, attributes)


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes:
    """The value of a key; ENOENT where there is none.  A map per CPU has one for each."""
    value = ctypes.create_string_buffer(value_bytes)
    _element(_MAP_LOOKUP_ELEM, fd, key, value)
    return value.raw


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set the value of a key, whether it is there or not."""
    _element(_MAP_UPDATE_ELEM, fd, key, ctypes.create_string_buffer(value, len(value)))


def delete(fd: int, key: bytes) -> None:
    """Delete a key; ENOENT where it is not there."""
    _element(_MAP_DELETE_ELEM, fd, key, None)


def next_key(fd: int, key: bytes | None, key_bytes: int) -> bytes:
    """The key behind ``key``, or the first one; ENOENT behind the last."""
    found = ctypes.create_string_buffer(key_bytes)
    _element(_MAP_GET_NEXT_KEY, fd, key, found)
    return found.raw


def _element(
    command: int, fd: int, key: bytes | None, value: "ctypes.Array[ctypes.c_char] | None"
) -> None:
    key_buffer = ctypes.create_string_buffer(key, len(key)) if key is not None else None
    attributes = struct.pack(
        "=IIQQQ",
        fd,
        0,
        ctypes.addressof(key_buffer) if key_buffer is not None else 0,
        ctypes.addressof(value) if value is not None else 0,
        0,
    )
    _bpf(command, attributes)


# ---- programs -------------------------------------------------------------------------


def load_program(
    program_type: int,
    instructions: bytes,
    name: str,
    *,
    attach_type: int = 0,
    attach_btf_id: int = 0,
    kernel_version: int = 0,
    log: "ctypes.Array[ctypes.c_char] | None" = None,
) -> int:
    """A program's descriptor; the verifier writes what it says to ``log``, if there is one.

    :param attach_btf_id: of the function, for PROG_TYPE_TRACING.
    :param kernel_version: as of KERNEL_VERSION(); kprobes asked for it before 5.0.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sIIIIQIIQIIQ",
        program_type,
        len(instructions) // _INSTRUCTION_BYTES,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        1 if log is not None else 0,
        len(log) if log is not None else 0,
        ctypes.addressof(log) if log is not None else 0,
        kernel_version,
        0,
        _name(name),
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
    for _ in range(_INTERRUPTED - 1):
        try:
            return _bpf(_PROG_LOAD, attributes)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    return _bpf(_PROG_LOAD, attributes)


def enable_statistics() -> int:
    """A descriptor: while it is open the kernel times all BPF programs (since 5.8)."""
    return _bpf(_ENABLE_STATS, struct.pack("=II", 0, 0))


# ---- attaching ------------------------------------------------------------------------


def attach_tracing(program: int) -> int:
    """Attach a program of PROG_TYPE_TRACING where its BTF id says."""
    return _raw_tracepoint_open(program, None)


def attach_raw_tracepoint(program: int, tracepoint: str) -> int:
    """Attach to a tracepoint, by its name without a category."""
    return _raw_tracepoint_open(program, tracepoint.encode())


def _raw_tracepoint_open(program: int, name: bytes | None) -> int:
    text = ctypes.create_string_buffer(name) if name is not None else None
    address = ctypes.addressof(text) if text is not None else 0
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QII", address, program, 0))


def has_kprobes() -> bool:
    """Whether the kernel has kprobes through perf (since 4.17)."""
    return (_KPROBE_PMU / "type").exists()


def attach_kprobe(program: int, function: str, *, is_return: bool = False) -> int:
    """Attach to a function's entry or its return, through perf: no event in tracefs."""
    event_type = int((_KPROBE_PMU / "type").read_text())
    config = 0
    if is_return:
        # "config:0"
        place = (_KPROBE_PMU / "format/retprobe").read_text()
        config = 1 << int(place.strip().rpartition(":")[2])
    return _attached(program, _perf_event_open(event_type, config, function.encode()))


def attach_tracepoint(program: int, event_id: int) -> int:
    """Attach to a tracepoint by its ``id`` in tracefs."""
    return _attached(program, _perf_event_open(_PERF_TYPE_TRACEPOINT, event_id))


def _attached(program: int, event: int) -> int:
    try:
        fcntl.ioctl(event, _PERF_IOC_SET_BPF, program)
    except BaseException:
        os.close(event)
        raise
    return event


# The program runs on every CPU, whichever the event is on.
def _perf_event_open(event_type: int, config: int, function: bytes = b"") -> int:
    name = ctypes.create_string_buffer(function)
    # as of PERF_ATTR_SIZE_VER1; config1 is kprobe_func
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
        buffer,
        ctypes.c_int(-1),
        ctypes.c_int(min(os.sched_getaffinity(0))),
        ctypes.c_int(-1),
        ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC),
    )

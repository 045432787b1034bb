# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns a file of `bpf/` into kernel maps and instructions, with BCC or from the cache.

The only module that imports ``bcc``, and only inside its functions.
"""

import contextlib
import ctypes
import errno
import functools
import importlib.util
import os
import resource
import runpy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mptrace.errors import HostError
from mptrace.host import bpf, kept
from mptrace.tracing.program import cache
from mptrace.tracing.program.compiled import Compiled, MapSpec, compiled
from mptrace.tracing.program.source import BPF_DIRECTORY, size_macros, source_of, stand_ins

#: BPF_MAP_TYPE_STACK_TRACE of enum bpf_map_type, linux/bpf.h
_STACK_TRACE = 7


@functools.cache
def libbcc() -> Any:
    """The library behind BCC (ctypes), with those functions declared that are used here.

    Raises HostError where bcc is missing.
    """
    lib = _import_bcc().libbcc.lib
    pointer, size, number, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in (
        ("bpf_num_tables", size, [pointer]),
        ("bpf_table_name", text, [pointer, size]),
        ("bpf_table_fd_id", number, [pointer, size]),
        ("bpf_table_type_id", number, [pointer, size]),
        ("bpf_table_key_size_id", size, [pointer, size]),
        ("bpf_table_leaf_size_id", size, [pointer, size]),
        ("bpf_table_max_entries_id", size, [pointer, size]),
        ("bpf_table_flags_id", number, [pointer, size]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def built(
    source: str, defines: Mapping[str, int | str], release: str
) -> tuple[Compiled, list[int]]:
    """A program, and a file descriptor for each of its maps, which are the caller's to close.

    Sizes of maps are no part of what is compiled: a session with other buffers compiles
    nothing.  Raises HostError where bcc is missing or can't compile, or the kernel refuses
    a map.
    """
    text = source_of(source)
    macros = size_macros(text)
    sizes = {name: int(defines[macro]) for name, macro in macros.items()}
    # the smallest that there is, for the maps that bcc makes and nobody uses
    fixed = {**defines, **dict.fromkeys(macros.values(), 1)}
    flags = [f"-D{name}={value}" for name, value in sorted(fixed.items())]
    flags.append(f"-DLINUX_VERSION_CODE={version_code(release)}")
    flags += ["-Wno-macro-redefined", "-Wno-unused-function"]
    directory = kept.directory_of(os.environ)
    # bcc itself looks at ARCH
    compiler = (
        _bcc_version(),
        os.uname().machine,
        os.getenv("ARCH", ""),
    )
    key = cache.key_of([*compiler, text, stand_ins(), *flags])
    program = cache.load(directory, key)
    if program is None:
        program = _compile(source, text, flags)
        cache.store(directory, key, program)
    program = program.resized(sizes, os.sysconf("SC_PAGESIZE"))
    return program, _created(program.maps)


def _compile(source: str, text: str, flags: Sequence[str]) -> Compiled:
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIRECTORY)
    with captured_stderr() as chatter:
        try:
            made = _import_bcc().BPF(text=text.encode(), cflags=list(flags))
        except Exception as error:
            raise HostError(
                f"bcc could not build '{source}': {error}{tail(chatter())}",
                "run 'mptrace doctor'; if it finds nothing, please report this as a bug in mptrace",
            ) from error
    lib, module = libbcc(), made.module
    tables = range(lib.bpf_num_tables(module))
    specs = [
        MapSpec(
            lib.bpf_table_name(module, table).decode(),
            lib.bpf_table_type_id(module, table),
            lib.bpf_table_key_size_id(module, table),
            lib.bpf_table_leaf_size_id(module, table),
            lib.bpf_table_max_entries_id(module, table),
            lib.bpf_table_flags_id(module, table),
        )
        for table in tables
    ]
    fds = [lib.bpf_table_fd_id(module, table) for table in tables]
    names = [lib.bpf_function_name(module, i) for i in range(lib.bpf_num_functions(module))]
    functions = {
        name.decode(): ctypes.string_at(
            lib.bpf_function_start(module, name), lib.bpf_function_size(module, name)
        )
        for name in names
    }
    try:
        return compiled(specs, fds, functions)
    finally:
        # its memory and its maps go
        made.cleanup()


def _created(specs: Sequence[MapSpec]) -> list[int]:
    """Maps like those that BCC would create."""
    fds: list[int] = []
    for spec in specs:
        create = functools.partial(
            bpf.create_map,
            spec.kind,
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            spec.flags,
            spec.name,
        )
        try:
            fds.append(with_memory(create))
        except OSError as error:
            for each in fds:
                os.close(each)
            why = error.strerror
            if spec.kind == _STACK_TRACE and error.errno == errno.EINVAL:
                why = f"kernel.perf_event_max_stack is less than {spec.value_size // 8}"
            raise HostError(
                f"the kernel refused the BPF map '{spec.name}': {why}",
                "run 'mptrace doctor'; if memory is short, make the rings smaller (--buffer)",
            ) from error
    return fds


def with_memory(create: Callable[[], int]) -> int:
    """What ``create`` returns; where the kernel says EPERM once more without a memlock limit.

    Maps and programs count as locked memory before 5.11.
    """
    try:
        return create()
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    with contextlib.suppress(OSError, ValueError):
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    return create()


def _bcc_version() -> str:
    """bcc's version, from its file: to import it loads all of LLVM.

    Raises HostError where bcc is missing or another package of that name is there.
    """
    found = importlib.util.find_spec("bcc")
    for place in (found.submodule_search_locations if found else None) or ():
        path = Path(place) / "version.py"
        if path.is_file() and (Path(place) / "libbcc.py").is_file():
            return str(runpy.run_path(str(path)).get("__version__", ""))
    return str(getattr(_import_bcc(), "__version__", ""))


def _import_bcc() -> Any:
    try:
        import bcc

        if not hasattr(bcc, "BPF"):
            raise HostError(
                "the Python module 'bcc' is not the BPF Compiler Collection (PyPI has another one)",
                "pip uninstall bcc, and install the distribution's python3-bpfcc or python3-bcc",
            )
        import bcc.libbcc
    except (ImportError, OSError) as error:
        raise HostError(
            f"the Python module 'bcc' can't be imported: {error}",
            "install the distribution's package (Debian, Ubuntu: python3-bpfcc; Fedora, RHEL: "
            "python3-bcc)\nand use a virtual environment made with --system-site-packages from "
            "the distribution's Python",
        ) from error
    return bcc


def version_code(release: str) -> int:
    """KERNEL_VERSION of a release such as "6.1.0-56-amd64": bcc wants one, nothing reads it."""
    numbers = [int(part) for part in release.split("-")[0].split(".")[:3] if part.isdigit()]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return (major << 16) + (minor << 8) + min(patch, 255)


@contextlib.contextmanager
def captured_stderr() -> Iterator[Any]:
    """What libbcc and the verifier write to file descriptor 2 goes to a file; yields a reader."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        restored = False

        def read() -> str:
            nonlocal restored
            if not restored:
                os.dup2(saved, 2)
                restored = True
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield read
        finally:
            if not restored:
                os.dup2(saved, 2)
            os.close(saved)


def tail(text: str, lines: int = 30) -> str:
    kept = [line for line in text.splitlines() if line.strip()][-lines:]
    return "".join(f"\n  {line}" for line in kept)

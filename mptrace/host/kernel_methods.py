# SPDX-License-Identifier: GPL-2.0-or-later
"""Which ways of attaching this kernel allows this process: tried, once in a boot where all work.

Detaching what was tried takes the kernel a tenth of a second and more.  Where something is
refused it is tried each time, and so it is where what decides about it has changed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mptrace import __version__
from mptrace.host import bpf_support, kept, proc
from mptrace.host.facts import REGISTER_ARGUMENTS, STACK_ARGUMENTS, Prototype
from mptrace.host.kernel_types import KernelTypes

SUFFIX = ".methods"
#: Of the text that is kept: another one is not read.
_FORMAT = "1"
#: What decides, beside the process's rights; some of it can change within a boot.
_DECIDES = (
    "proc/sys/kernel/random/boot_id",
    "proc/sys/kernel/ftrace_enabled",
    "proc/self/uid_map",
    "sys/kernel/security/lockdown",
)
_RIGHTS = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")


def tried(
    tracefs: Path | None, types: KernelTypes | None, prototypes: Mapping[str, Prototype]
) -> dict[str, str]:
    """`KernelFacts.methods`, by trying each."""
    methods = bpf_support.try_methods(tracefs, types)
    name = _long(prototypes)
    if name and not methods["fentry"]:
        methods[STACK_ARGUMENTS] = bpf_support.try_attach("fentry", name, tracefs, types)
    return methods


def known(
    root: Path,
    tracefs: Path | None,
    types: KernelTypes | None,
    prototypes: Mapping[str, Prototype],
) -> dict[str, str]:
    """The same, as it was found before in this boot where all methods worked.

    Where that holds no longer, the kernel refuses what is attached, with its reason.
    """
    directory = kept.directory_of(os.environ)
    key = _key(root, tracefs, prototypes) if directory else ""
    data = kept.load(directory, key, SUFFIX) if key else None
    if data is not None and (before := _parsed(data)):
        return before
    methods = tried(tracefs, types, prototypes)
    if key and _all_work(methods):
        kept.store(directory, key, SUFFIX, json.dumps(methods).encode())
    return methods


def _all_work(methods: Mapping[str, str]) -> bool:
    """Whether none is refused; that of arguments on the stack is the kernel's own affair."""
    return not any(reason for name, reason in methods.items() if name != STACK_ARGUMENTS)


def _parsed(data: bytes) -> dict[str, str]:
    """What was kept; empty where it is something else."""
    try:
        methods = {str(name): str(reason) for name, reason in json.loads(data).items()}
    except (ValueError, AttributeError):
        return {}
    return methods if {"fentry", "kprobe"} <= set(methods) and _all_work(methods) else {}


def _key(root: Path, tracefs: Path | None, prototypes: Mapping[str, Prototype]) -> str:
    """What the answer depends on; "" where the boot has no number."""
    decides = [_text(root / place) for place in _DECIDES]
    if not decides[0]:
        return ""
    status = proc.own_status(root)
    rights = [f"{name}={status.get(name, '')}" for name in _RIGHTS]
    about = [str(os.geteuid()), str(tracefs), _long(prototypes)]
    return kept.key_of([_FORMAT, __version__, *decides, *rights, *about])


def _long(prototypes: Mapping[str, Prototype]) -> str:
    """A function with arguments on the stack; "" where there is none."""
    long = (n for n, p in prototypes.items() if len(p.parameters) > REGISTER_ARGUMENTS)
    return next(long, "")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

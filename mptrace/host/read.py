# SPDX-License-Identifier: GPL-2.0-or-later
"""Collects the facts of a kernel and its host into the values that `plan` takes."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from mptrace.errors import HostError
from mptrace.host import (
    access,
    bpf_support,
    btf,
    kernel_methods,
    kernel_symbols,
    kernel_types,
    privileges,
    settings,
    symbols,
    topology,
)
from mptrace.host.facts import Access, HostFacts, KernelFacts, Prototype
from mptrace.host.kernel_types import KernelTypes

_SLASH = Path("/")


def read_kernel_facts(
    functions: Collection[str],
    offsets: Collection[str],
    sizes: Collection[str] = ("nodemask_t",),
    tracepoints: Collection[str] = (),
    variables: Collection[str] = (),
    root: Path = _SLASH,
    *,
    tries: bool = True,
) -> KernelFacts:
    """Read what the candidates ask for; a fact that can't be read is absent.

    ``root`` is another tree for tests.  Programs are really loaded, and
    ``methods`` filled, only where it is "/".  Without ``tries``, methods that all
    worked before in this boot are taken to work still.
    """
    release = _release(root)
    tracefs = symbols.tracefs(root)
    types = _types(root)
    prototypes = types.prototypes(functions) if types else {}
    listed = kernel_symbols.read(root, functions, variables)
    facts = KernelFacts(
        release=release,
        machine=os.uname().machine,
        page_size=os.sysconf("SC_PAGESIZE"),
        functions=prototypes,
        symbols=listed.text,
        variables=listed.variables,
        traceable=listed.traceable,
        offsets=types.offsets(offsets) if types else {},
        sizes=types.sizes(sizes) if types else {},
        page_flags=types.enum("pageflags") if types else {},
        tracepoints=_tracepoints(tracefs, types, tracepoints),
        methods=_methods(root, tracefs, types, prototypes, tries=tries),
        nodes_shift=settings.nodes_shift(root, release),
        migrate_reasons=btf.lowered(types.enum("migrate_reason"), "MR_") if types else {},
        migrate_modes=btf.lowered(types.enum("migrate_mode"), "MIGRATE_") if types else {},
    )
    if types:
        types.keep()
    return facts


def read_host_facts(root: Path = _SLASH) -> HostFacts:
    """Read nodes, hypervisor and settings; what can't be read is absent."""
    hypervisor, emulated = topology.read_hypervisor(root)
    return HostFacts(
        nodes=topology.read_nodes(root),
        hypervisor=hypervisor,
        emulated=emulated,
        counted=topology.read_counted(root) if emulated else None,
        settings=settings.read_settings(root),
    )


def read_access() -> Access:
    """Try what a session will need: bcc, BPF, tracefs, move_pages(2)."""
    held = privileges.read_privileges(_SLASH)
    tracefs = symbols.tracefs(_SLASH)
    version, bcc = access.try_bcc()
    reason = ""
    try:
        btf.running()
    except HostError as error:
        reason = error.message
    return Access(
        missing_capabilities=held.missing(),
        in_user_namespace=held.in_user_namespace,
        btf=reason,
        bcc=bcc,
        bcc_version=version,
        tracefs=str(tracefs or ""),
        tracefs_reason="" if tracefs else access.tracefs_reason(_SLASH),
        has_securityfs=access.has_securityfs(_SLASH),
        ring_buffer=bpf_support.try_ring_buffer(),
        small_ring_buffer=bpf_support.try_ring_buffer(os.sysconf("SC_PAGESIZE")),
        move_pages=bpf_support.try_move_pages(),
        allowed_nodes=access.allowed_nodes(_SLASH),
    )


def try_attach(method: str, target: str) -> str:
    """Attach to a function or tracepoint of the running kernel for an instant: "" or why not.

    Detaching fentry waits for the kernel's tasks: 0.35 s under emulation on 6.1.
    """
    return bpf_support.try_attach(method, target, symbols.tracefs(_SLASH), _types(_SLASH))


# Another tree says nothing about what works here.
def _methods(
    root: Path,
    tracefs: Path | None,
    types: KernelTypes | None,
    prototypes: Mapping[str, Prototype],
    *,
    tries: bool,
) -> dict[str, str]:
    if root != _SLASH:
        return {}
    if tries:
        return kernel_methods.tried(tracefs, types, prototypes)
    return kernel_methods.known(root, tracefs, types, prototypes)


def _release(root: Path) -> str:
    try:
        return (root / "proc/sys/kernel/osrelease").read_text().strip()
    except OSError:
        return os.uname().release


# A raw tracepoint needs no tracefs, and each has a typedef btf_trace_NAME in BTF
# (include/trace/bpf_probe.h; syscalls:* have none, they share raw_syscalls').
def _tracepoints(
    tracefs: Path | None, types: KernelTypes | None, names: Collection[str]
) -> frozenset[str]:
    if tracefs is not None or types is None:
        return symbols.present_tracepoints(tracefs, names)
    return frozenset(
        name
        for name in names
        if types.typedef_id(f"btf_trace_{name.partition(':')[2]}") is not None
    )


def _types(root: Path) -> KernelTypes | None:
    try:
        if root == _SLASH:
            return kernel_types.running()
        return KernelTypes("", None, lambda: btf.Btf.open(root / btf.VMLINUX))
    except HostError:
        return None

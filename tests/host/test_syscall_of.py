# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the system call of a task is read, in this host's kernel.

Needs root; the program is run once by BPF_PROG_TEST_RUN, in bpf(2) itself: nothing is
attached.
"""

import ctypes
import dataclasses
import os
import struct
from collections.abc import Mapping

import pytest
from recorded_facts import facts_of

from mptrace.host import bpf, btf
from mptrace.recording.layouts import SYSCALL_NONE, SYSCALL_UNKNOWN
from mptrace.tracing.plan.candidates import INITIATORS, candidate_sizes
from mptrace.tracing.plan.plan import make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.program import compiler
from mptrace.tracing.program.source import source_of

_BPF, _PROG_TEST_RUN = 321, 10
#: What the program returns where it found no registers.
NOWHERE = 4096
PROGRAM = f"""
int told(void *ctx)
{{
	s64 number = syscall_of(bpf_get_current_task());

	return number == NOT_THERE ? {NOWHERE} : number;
}}
"""


def defines() -> dict[str, int | str]:
    """Macros with this kernel's own places of what is read."""
    facts, types = facts_of("6.12"), btf.running()
    facts = dataclasses.replace(
        facts,
        offsets={**facts.offsets, **types.offsets(tuple(INITIATORS["syscall"].values()))},
        sizes=types.sizes(candidate_sizes()),
    )
    return dict(make_plan(facts, Request(others=True, max_folios=1 << 10)).defines)


def told(macros: Mapping[str, int | str], program: str = PROGRAM) -> int:
    """What the program returns, run by this thread in bpf(2)."""
    text = source_of("move_pages.c") + program
    release = os.uname().release
    flags = [f"-D{name}={value}" for name, value in macros.items()]
    flags += [f"-DLINUX_VERSION_CODE={compiler.version_code(release)}"]
    flags += ["-Wno-macro-redefined", "-Wno-unused-function"]
    compiled = compiler._compile("told", text, flags)
    fds = compiler._created(compiled.maps)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        body = compiled.instructions("told", fds)
        fd = bpf.load_program(bpf.PROG_TYPE_RAW_TRACEPOINT, body, "told")
        fds.append(fd)
        attributes = ctypes.create_string_buffer(struct.pack("II80x", fd, 0))
        ret = libc.syscall(_BPF, _PROG_TEST_RUN, attributes, len(attributes))
        assert not ret, os.strerror(ctypes.get_errno())
        return int(struct.unpack_from("i", attributes.raw, 4)[0])
    finally:
        for fd in fds:
            os.close(fd)


def test_it_is_the_call_that_this_thread_is_in() -> None:
    """bpf(2) runs the program, and its number is what is read."""
    assert told(defines()) == _BPF


@pytest.mark.parametrize("beside", [-16, 16])
def test_registers_that_are_not_there_are_no_system_call(beside: int) -> None:
    """As on a kernel taken for one without FRED, or for one with it: nothing is claimed.

    A stack pointer, or the number of a call, is no code segment of user space's.
    """
    macros = defines()
    padding = int(macros["STACK_PADDING"]) + beside
    assert told({**macros, "STACK_PADDING": f"({padding})"}) == NOWHERE


#: A number in the registers -> what a record has of it.
RECORDED = {
    "279": 279,
    "4095": 4095,
    "X32_SYSCALL_BIT + 533": 0x40000000 + 533,  # move_pages of x32
    "X32_SYSCALL_BIT + 4095": 0x40000000 + 4095,
    "4096": SYSCALL_UNKNOWN,
    "X32_SYSCALL_BIT + 4096": SYSCALL_UNKNOWN,
    "0x80000000LL + 279": SYSCALL_UNKNOWN,
    "NOT_THERE": SYSCALL_UNKNOWN,
    "-1": SYSCALL_NONE,
}


def test_a_number_is_recorded_with_the_bit_of_x32() -> None:
    """Nothing else that is above every table is a number."""
    lines = [
        f"\tif (recorded_syscall({number}) == {recorded})\n\t\tright |= 1 << {place};"
        for place, (number, recorded) in enumerate(RECORDED.items())
    ]
    body = "\n".join(["\tint right = 0;", "", *lines, "\treturn right;"])
    assert told(defines(), f"int told(void *ctx)\n{{\n{body}\n}}\n") == (1 << len(RECORDED)) - 1

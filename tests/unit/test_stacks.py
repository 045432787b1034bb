# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of a session: numbered once, named by another thread, bounded, unknown with a reason."""

import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from recorded_facts import facts_of

from mptrace.host import proc
from mptrace.recording.stack_layouts import (
    CUT,
    FRAME_KERNEL,
    FRAME_USER,
    NO_STACK,
    STACK_FRAME,
    STACK_OF_MIGRATION,
    STACK_OF_WAIT,
    STACK_SAMPLE,
    SYMBOL_BYTES,
    UNNAMED,
    WITHOUT_STACK,
)
from mptrace.sessions import stacks
from mptrace.sessions.stacks import Stacks
from mptrace.tracing.plan.plan import make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.program.source import size_macros, source_of

KERNEL = (0xFFFFFFFF81000010, 0xFFFFFFFF81000020)
#: Addresses by part and key; two keys of one content.
MAPS = {
    ("kernel", 7): KERNEL,
    ("kernel", 8): KERNEL,
    ("kernel", 9): (*KERNEL, 0xFFFFFFFF81000030),
    ("user", 7): (0x401005, 0x401105),
}


class Session:
    """A collector, what it read of the kernel's maps, and the frames that it gave."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, int]] = []
        self.frames: list[np.ndarray[Any, Any]] = []
        self.stacks = Stacks(self.read)
        self.stacks.start(self.frames.append)

    def read(self, part: str, key: int) -> tuple[int, ...]:
        self.reads.append((part, key))
        return MAPS.get((part, key), ())

    def add(self, *samples: dict[str, int]) -> np.ndarray[Any, Any]:
        """The uses of samples; frames that are known at once are kept, too."""
        rows = np.zeros(len(samples), STACK_SAMPLE)
        rows["user"] = NO_STACK
        for row, sample in zip(rows, samples, strict=True):
            for name, value in sample.items():
                row[name] = value
        uses, frames = self.stacks.add(rows)
        self.frames.append(frames)
        return uses

    def named(self) -> np.ndarray[Any, Any]:
        """All frames until now."""
        self.stacks.wait()
        return np.concatenate([np.empty(0, STACK_FRAME), *self.frames])


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session()
    yield made
    made.stacks.stop()


def here() -> dict[str, int]:
    """A sample of this process, as the kernel would take it."""
    pid = os.getpid()
    return {"tgid": pid, "tid": pid, "image": proc.image(pid).stack, "kernel": 7}


def test_a_use_has_what_its_sample_says(session: Session) -> None:
    """Id, thread, process and kind; a kernel thread has no stack in user space."""
    (use,) = session.add({"id": 23, "tid": 5, "tgid": 5, "kernel": 7, "kind": STACK_OF_WAIT})
    assert (use["id"], use["tid"], use["tgid"], use["kind"]) == (23, 5, 5, STACK_OF_WAIT)
    assert use["kernel_stack"] != WITHOUT_STACK
    assert use["user_stack"] == WITHOUT_STACK


def test_stacks_of_one_content_are_one(session: Session) -> None:
    """Each key is read once, and frames are recorded once, the innermost first."""
    uses = session.add(*({"kernel": key} for key in (7, 7, 8, 9, 7)))
    same, other = uses["kernel_stack"][[0, 1, 2, 4]], uses["kernel_stack"][3]
    assert np.unique(same).size == 1
    assert other != same[0]
    assert session.reads == [("kernel", 7), ("kernel", 8), ("kernel", 9)]
    frames = session.named()
    assert len(frames) == 2 + 3
    assert (frames["kind"] == FRAME_KERNEL).all()
    mine = frames[frames["stack"] == same[0]]
    assert mine["depth"].tolist() == [0, 1]
    assert mine["address"].tolist() == list(KERNEL)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (-errno.EEXIST, "another stack had its place"),
        (-errno.ENOMEM, "there were too many different stacks"),
        (-errno.EFAULT, "the kernel could not read it"),
        (-errno.EPERM - 1, "the kernel said ENOENT"),
        (4711, stacks.NOT_THERE),
    ],
)
def test_a_stack_that_could_not_be_had_says_why(session: Session, key: int, why: str) -> None:
    """One row without an address stands for all such; one in the kernel for those there."""
    uses = session.add({"kernel": key}, {"kernel": key, "user": key, "tgid": 23, "image": 1})
    assert np.unique(uses["kernel_stack"]).size == 1
    assert uses["user_stack"][1] != uses["kernel_stack"][1]
    frames = session.named()
    assert frames["unknown"].tolist() == [why.encode()] * 2
    assert frames["kind"].tolist() == [FRAME_KERNEL, FRAME_USER]
    assert not frames["address"].any()


def test_functions_of_a_living_process_have_names(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own mappings and the symbols of a library; memory without code ends the stack.

    A function returns to none: the kernel followed what was no frame pointer.
    """
    libc = ctypes.CDLL("libc.so.6")
    inside = ctypes.cast(libc.getpid, ctypes.c_void_p).value
    assert inside
    room = ctypes.create_string_buffer(16)
    heap = ctypes.addressof(room)
    monkeypatch.setitem(MAPS, ("user", 9), (inside, inside + 1, 1 << 46, heap, inside))
    session.add({**here(), "user": 9})
    frames = session.named()
    frames = frames[frames["kind"] == FRAME_USER]
    assert b"getpid" in frames["symbol"][0]
    assert frames["symbol"][1] == frames["symbol"][0]
    assert frames["offset"][:2].tolist() == [0, 1]
    assert b"libc" in frames["module"][0]
    assert frames["symbol"][2:].tolist() == [b"", b""]
    assert frames["unknown"].tolist() == [
        b"",
        b"",
        b"nothing was mapped there when its mappings were read",
        b"no code is there: the function before keeps no frame pointer",
    ]


def test_a_process_that_has_ended_is_said_to_have(session: Session) -> None:
    """Its addresses are there, without names."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    session.add({"kernel": 7, "user": 7, "tgid": child.pid, "tid": child.pid, "image": 4096})
    frames = session.named()
    frames = frames[frames["kind"] == FRAME_USER]
    assert frames["address"].tolist() == [0x401005, 0x401105]
    assert set(frames["unknown"].tolist()) == {b"it had ended"}
    assert set(frames["tgid"].tolist()) == {child.pid}


def test_another_program_does_not_name_addresses(session: Session) -> None:
    """The kernel said where the stack of the program began, and it begins elsewhere now."""
    session.add({**here(), "user": 7, "image": 4096})
    frames = session.named()
    why = set(frames[frames["kind"] == FRAME_USER]["unknown"].tolist())
    assert why == {b"it had called exec()"}


def test_a_program_that_nobody_can_tell_is_not_asked(session: Session) -> None:
    """Where the kernel does not say where its stack begins."""
    session.add({**here(), "user": 7, "image": 0})
    frames = session.named()
    why = set(frames[frames["kind"] == FRAME_USER]["unknown"].tolist())
    assert why == {b"can't tell whether it called exec()"}


def test_addresses_are_of_their_process(session: Session) -> None:
    """What two processes have at one address are two stacks."""
    uses = session.add(
        *(
            {"kernel": 7, "user": 7, "tgid": tgid, "tid": tgid, "image": 1}
            for tgid in (99991, 99992)
        )
    )
    assert np.unique(uses["user_stack"]).size == 2
    assert np.unique(uses["kernel_stack"]).size == 1


def test_there_is_an_end_to_different_stacks(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the bound are unknown, as are those with too many frames in all."""
    monkeypatch.setattr(stacks, "MAX_STACKS", 3)
    for key in range(100, 110):
        monkeypatch.setitem(MAPS, ("kernel", key), (KERNEL[0] + key,))
    uses = session.add(*({"kernel": key} for key in range(100, 110)))
    assert np.unique(uses["kernel_stack"]).size == 3 + 1
    monkeypatch.setattr(stacks, "MAX_STACKS", 100)
    monkeypatch.setattr(stacks, "MAX_FRAMES", 5)
    session.add({"kernel": 7}, {"kernel": 9})
    frames = session.named()
    assert (frames["unknown"] == stacks.TOO_MANY.encode()).sum() == 1
    assert len(frames) == 3 + 1 + 2


def test_another_recording_has_the_frames_again(session: Session) -> None:
    """Under the same numbers, and the kernel is not asked again."""
    (first,) = session.add({"kernel": 7})
    before = session.named()
    session.stacks.forget()
    (second,) = session.add({"kernel": 7})
    assert second["kernel_stack"] == first["kernel_stack"]
    frames = session.named()
    assert frames[len(before) :].tobytes() == before.tobytes()
    assert session.reads == [("kernel", 7)]


def test_what_waits_for_its_name_is_in_the_recording_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As addresses, and with names in the next one that meets it."""
    named = threading.Event()
    monkeypatch.setattr(stacks._Namer, "look_at", lambda *_: named.wait() and "")
    session = Session()
    session.add({"kernel": 7})
    rest = session.stacks.forget()
    assert rest["address"].tolist() == list(KERNEL)
    assert set(rest["unknown"].tolist()) == {UNNAMED.encode()}
    assert not len(session.stacks.forget())
    session.add({"kernel": 7})
    named.set()
    frames = session.named()
    assert frames["address"].tolist() == list(KERNEL)
    assert UNNAMED.encode() not in frames["unknown"].tolist()
    assert not len(session.stacks.stop())


def test_who_is_stuck_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that never answers: its stack has addresses, and so have those behind it."""
    answers = threading.Event()
    monkeypatch.setattr(stacks._Namer, "look_at", lambda *_: answers.wait() and "")
    monkeypatch.setattr(stacks, "NAMING_SECONDS", 1e6)
    session = Session()
    session.add({"kernel": 7}, {"kernel": 9})
    session.stacks.wait(0.01)
    session.stacks.wait(1e6)
    rest = session.stacks.stop()
    assert sorted(rest["address"].tolist()) == sorted((*KERNEL, *KERNEL, 0xFFFFFFFF81000030))
    answers.set()


def test_a_stack_has_the_mappings_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is read again for other addresses leaves earlier stacks their names."""
    monkeypatch.setattr(stacks, "_AGAIN_NS", 0)
    namer = stacks._Namer()
    pid = os.getpid()
    inside = ctypes.cast(ctypes.CDLL("libc.so.6").getpid, ctypes.c_void_p).value
    assert inside
    one, other = (
        stacks._Stack(number, (address,), pid, pid, proc.image(pid).stack)
        for number, address in ((1, inside), (2, 1 << 46))
    )
    first, second = namer.look_at(one), namer.look_at(other)
    assert first is not second
    assert b"getpid" in namer.rows(one, first)["symbol"][0]


def test_what_was_not_named_in_time_has_addresses() -> None:
    """A session that ends leaves nothing out; to end it again does nothing."""
    session = Session()
    session.stacks.stop()
    session.add({"kernel": 7})
    rest = session.stacks.stop()
    assert rest["address"].tolist() == list(KERNEL)
    assert set(rest["unknown"].tolist()) == {UNNAMED.encode()}
    assert not len(session.stacks.stop())


def test_an_error_of_the_thread_is_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the wait for names, and is raised at the end."""
    session = Session()
    monkeypatch.setattr(stacks._Namer, "look_at", _fail)
    session.add({"kernel": 7, "kind": STACK_OF_MIGRATION})
    session.stacks.wait(1e6)
    with pytest.raises(ZeroDivisionError):
        session.stacks.stop()


def _fail(*_: object) -> None:
    raise ZeroDivisionError


def test_frames_of_the_probe_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those above the function that was traced, and no others of such names."""
    names = ["bpf_prog_1_exit", "bpf_trampoline_2", "migrate_pages", "bpf_prog_3_other", "main"]

    class Kernel:
        are_known = True

        def renew(self) -> None:
            return None

        def at(self, address: int) -> object:
            return _Found(names[address + 1])

    monkeypatch.setattr(stacks, "KernelFunctions", Kernel)
    rows = stacks._Namer().rows(stacks._Stack(1, tuple(range(len(names)))), "")
    assert rows["symbol"].tolist() == [name.encode() for name in names[2:]]
    assert rows["depth"].tolist() == [0, 1, 2]


class _Found:
    def __init__(self, name: str) -> None:
        self.name, self.module, self.offset = name, "", 0


def test_a_long_name_is_cut_and_says_so() -> None:
    """A symbol of C++ may have thousands of letters; a zero byte would end it unseen."""
    text = stacks._cut(b"x" * 5000, SYMBOL_BYTES)
    assert len(text) == SYMBOL_BYTES
    assert text.endswith(CUT)
    assert stacks._cut(b"a\0b", SYMBOL_BYTES) == b"a?b"


def test_a_plan_has_stacks_only_where_they_are_asked_for() -> None:
    """Without, nothing of them is compiled, and they take no memory to speak of."""
    facts = replace(
        facts_of("6.12"),
        offsets={
            **facts_of("6.12").offsets,
            "task_struct.mm": 2344,
            "mm_struct.start_stack": 384,
        },
    )
    without, plan = make_plan(facts, Request()), make_plan(facts, Request(stacks=True))
    assert "STACKS" not in without.defines
    assert plan.defines["STACKS"] == 1
    assert (plan.defines["OFF_TASK_MM"], plan.defines["OFF_MM_STACK"]) == (2344, 384)
    assert plan.defines["MAX_STACKS"] == 1 << 14
    assert plan.notes == without.notes
    more = plan.memory_bound_bytes - without.memory_bound_bytes
    assert 2 * (1 << 14) * 127 * 8 < more < 40 << 20


def test_a_kernel_that_does_not_tell_the_program_is_noted() -> None:
    """Then addresses of user space stay without names, and the recording says so."""
    facts = facts_of("6.12")
    offsets = {name: at for name, at in facts.offsets.items() if name != "mm_struct.start_stack"}
    plan = make_plan(replace(facts, offsets=offsets), Request(stacks=True))
    assert "OFF_MM_STACK" not in plan.defines
    assert any("stacks of user space have no names" in note for note in plan.notes)


def test_a_map_of_stacks_is_resized_as_others_are() -> None:
    """What is compiled does not depend on how many there may be."""
    macros = size_macros(source_of("move_pages.c"))
    assert macros["kernel_stacks"] == macros["user_stacks"] == "MAX_STACKS"
    assert macros["stack_ring"] == "STACK_RING_PAGES"

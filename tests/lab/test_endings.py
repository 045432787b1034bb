# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session leaves in the kernel, in a guest: nothing, by the kernel's own numbers."""

import pytest
from test_run import CHECKOUT, PYTHON, assert_nothing_left, sh

from mptrace.lab.guest import Guest

#: A session, of which something is done as soon as it has said something.
SESSION = f"""
objects() {{{{ {PYTHON} {CHECKOUT}/tests/lab/bpf_objects.py; }}}}
objects >before
mptrace {{session}} >out 2>err & session=$!
until grep -q '{{says}}' out err; do kill -0 $session || break; sleep 0.02; done
{{then}} >during
wait $session; echo $?
objects >after
cat err >&2
wc -l <during
cat before after
"""
QUICK = "run --pages 67 --repeats 1 --no-cost"


@pytest.mark.parametrize(
    ("session", "says", "then", "status"),
    [
        (QUICK, "round 1", "objects", (0,)),
        # the report is printed while the probes are detached, which takes a second; on a busy
        # machine that may be over when the signal comes: Python is ending (143), or has (0)
        (QUICK, "moved", "kill -TERM $session", (130, 143, 0)),
        (QUICK, "moved", "kill -KILL $session", (137, 0)),
        ("record -a -d 3", "tracing", "objects", (0,)),
        ("stat -d 3", "counting", "objects", (0,)),
    ],
)
def test_nothing_stays_attached(
    guest: Guest, guest_dir: str, session: str, says: str, then: str, status: tuple[int, ...]
) -> None:
    """When mptrace has ended, the kernel has no program and no link more than before.

    So it is where a signal comes after the report, in the seconds in which probes are detached.
    """
    done = sh(guest, SESSION.format(session=session, says=says, then=then), guest_dir)
    told, during, *objects = done.text.splitlines()
    assert int(told) in status, done.errors
    assert int(during) > 5 or then != "objects", "nothing was attached"
    assert objects == []
    assert_nothing_left(guest)

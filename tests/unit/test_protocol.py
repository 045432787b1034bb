# SPDX-License-Identifier: GPL-2.0-or-later
"""Replies and errors between worker and client."""

import pytest

from mptrace.driving import protocol
from mptrace.driving.protocol import TeardownReply
from mptrace.errors import HostError, MptraceError


def test_a_reply_survives_the_way() -> None:
    """Fields come back as they went."""
    reply = protocol.to_reply(TeardownReply(restored=23, left=1))
    assert reply["ok"] is True
    assert protocol.from_reply(TeardownReply, reply) == TeardownReply(23, 1)


def test_an_error_keeps_class_message_and_hint() -> None:
    """So that the parent leaves with the right status."""
    reply = protocol.to_error(HostError("no memory", "buy some"))
    with pytest.raises(HostError) as caught:
        protocol.from_reply(TeardownReply, reply)
    assert (caught.value.message, caught.value.hint) == ("no memory", "buy some")


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "EXIT_OK", None])
def test_an_error_of_no_class_of_ours_is_a_plain_one(name: str | None) -> None:
    """What is named must be one of the family."""
    assert type(protocol.from_error({"error": "x", "type": name})) is MptraceError

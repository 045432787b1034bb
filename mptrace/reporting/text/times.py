# SPDX-License-Identifier: GPL-2.0-or-later
"""What the times are where they are not those of a real CPU.  Pure."""


def times_note(*, counted: bool, emulated: bool | None) -> str:
    """A phrase, "" where there is nothing to say; ``emulated`` is None where nobody knows."""
    if counted:
        return "times are instructions, 1 ns is one"
    if emulated is None:
        return "not recorded whether emulated"
    return "times are emulated" if emulated else ""

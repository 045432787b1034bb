# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames between the host and the agent in the guest, over one virtio port.

A frame is a type (one byte), the length of its payload (32 bits, big endian)
and the payload.
"""

import struct
from collections.abc import Iterator

# host -> guest
JOB = b"J"  # JSON: argv, cwd, env, tty, stdin
STDIN = b"I"  # data; empty for end of file; one frame for each READY
KILL = b"K"  # end the running job with SIGKILL
RESIZE = b"W"  # JSON [rows, columns] of the terminal
CHANGES = b"C"  # JSON: roots, exclude; answered by DATA frames of a tar, then DONE
PUT = b"P"  # JSON: path, mode; followed by one STDIN frame; answered by DONE
GET = b"G"  # JSON: path; answered by DATA frames, then DONE

# guest -> host
HELLO = b"H"  # the agent is ready
STDOUT = b"O"
STDERR = b"E"
READY = b"R"  # the job took what it was sent: send more standard input
EXIT = b"X"  # JSON: returncode
DATA = b"D"
DONE = b"Z"  # JSON: error ("" when done)

HEADER = struct.Struct(">cI")
#: The most that one frame carries of a stream.
CHUNK = 1 << 16


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return HEADER.pack(kind, len(payload)) + payload


class Unframer:
    """Cuts a byte stream, fed piece by piece, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Add ``data``; yield (kind, payload) of each frame that is complete."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield kind, payload

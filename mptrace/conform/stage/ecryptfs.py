# SPDX-License-Identifier: GPL-2.0-or-later
"""ecryptfs with a throw-away key: a file system that writes pages and can't migrate them."""

import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from mptrace.conform.stage import files

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

_ADD_KEY = {"x86_64": 248}.get(platform.machine(), 217)
_KEY_SPEC_PROCESS_KEYRING = -2

# struct ecryptfs_auth_tok in include/linux/ecryptfs.h: version 0.4, a token of type
# password (0) whose session_key_encryption_key is set (flag 2)
_HEAD = struct.Struct("=2HI")
_SESSION_KEY_BYTES, _RESERVED_BYTES = 12 + 512 + 64, 32
_PASSWORD = struct.Struct("=IiIII64s17s8s3x")
_KEY_BYTES = 16


def mounted(stage: "Stage", below: Path) -> Path:
    """The root of an ecryptfs whose encrypted files lie in the directory ``below``."""
    stage.need_module("ecryptfs")
    signature = b"0123456789abcdef"
    password = _PASSWORD.pack(0, 0, 0, _KEY_BYTES, 2, b"k" * _KEY_BYTES, signature, bytes(8))
    token = _HEAD.pack(4, 0, 0) + bytes(_SESSION_KEY_BYTES + _RESERVED_BYTES) + password
    files.syscall(_ADD_KEY, b"user", signature, token, len(token), _KEY_SPEC_PROCESS_KEYRING)
    return files.mounted(
        stage,
        "ecryptfs",
        str(below),
        ecryptfs_sig=signature.decode(),
        ecryptfs_cipher="aes",
        ecryptfs_key_bytes=str(_KEY_BYTES),
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Brings what a command changed in the guest back to the host's files."""

import contextlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..errors import LabError
from .guest import Guest

#: Names that are never brought back: what tools keep for themselves.
EXCLUDED = frozenset(
    (
        ".cache",
        ".git",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".setup",
        ".venv",
        "__pycache__",
    )
)


def bring_back(guest: Guest, roots: Sequence[str], exclude: Iterable[str] = EXCLUDED) -> int:
    """Make the host's files below ``roots`` what they are in the guest; how many changed.

    Only what the guest changed is touched: new and changed files, directories and
    symbolic links, and removed names.  Everything is received before the first is
    written, each file appears by a rename, an overwritten one keeps its owner.

    Raises LabError where the guest dies or a file can't be written.
    """
    with tempfile.TemporaryFile() as received:
        for piece in guest.changes(roots, exclude):
            received.write(piece)
        if not received.tell():
            return 0
        received.seek(0)
        return apply(received, roots)


def apply(archive: IO[bytes], roots: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """Write the members of the tar ``archive`` that lie below ``roots``; how many.

    New files belong to the user who called sudo, where ``env`` names one.

    Raises LabError for a member elsewhere, and where a path can't be written.
    """
    owner = None
    if os.geteuid() == 0 and "SUDO_UID" in env:
        owner = int(env["SUDO_UID"]), int(env.get("SUDO_GID", "-1"))
    count = 0
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        for member in tar:
            path = Path("/" + member.name.strip("/"))
            if ".." in path.parts or not any(path.is_relative_to(root) for root in roots):
                raise LabError(f"the guest wants to write {str(path)!r}, outside {list(roots)!r}")
            try:
                _apply_one(tar, member, path, owner)
            except OSError as error:
                raise LabError(
                    f"can't bring {str(path)!r} back: {error.strerror or error}"
                ) from None
            count += 1
    return count


def _apply_one(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, owner: tuple[int, int] | None
) -> None:
    before = None
    with contextlib.suppress(FileNotFoundError):
        before = path.lstat()
    was_directory = before is not None and stat.S_ISDIR(before.st_mode)
    if "MPTRACE.removed" in member.pax_headers:
        if was_directory:
            shutil.rmtree(path)
        elif before is not None:
            path.unlink()
        return
    if before is not None:
        owner = (before.st_uid, before.st_gid) if os.geteuid() == 0 else None
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        if before is not None and not was_directory:
            path.unlink()
        path.mkdir(exist_ok=True)
        path.chmod(member.mode & 0o777)
        if owner:
            os.chown(path, *owner)
        return
    content = tar.extractfile(member) if member.isreg() else None
    with tempfile.TemporaryDirectory(prefix=".mptrace-lab-", dir=path.parent) as work:
        new = Path(work) / "new"
        if content is not None:
            with new.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            new.chmod(member.mode & 0o777)
        elif member.issym():
            new.symlink_to(member.linkname)
        else:
            return
        if owner:
            os.chown(new, *owner, follow_symlinks=False)
        if was_directory:
            shutil.rmtree(path)
        new.replace(path)

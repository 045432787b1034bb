# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled programs: apart from a process, kept, and found again."""

import os
import struct
from pathlib import Path

import pytest

from mptrace.host import kept
from mptrace.tracing.program import cache
from mptrace.tracing.program.compiled import Compiled, MapSpec, compiled

KEY = cache.key_of(["text", "-DA=1"])
SPECS = (MapSpec("rows", 1, 8, 72, 1024, 0), MapSpec("ring", 27, 0, 0, 4096, 0))


def instruction(code: int, source: int = 0, imm: int = 0) -> bytes:
    """A struct bpf_insn whose target is register 1."""
    return struct.pack("=BBhi", code, source << 4 | 1, 0, imm)


#: r1 = a map's address (two slots), r1 = a 64-bit constant that looks like a descriptor, exit.
BODY = b"".join(
    (
        instruction(0x18, source=1, imm=23),
        instruction(0),
        instruction(0x18, imm=23),
        instruction(0),
        instruction(0x18, source=1, imm=7),
        instruction(0),
        instruction(0x95),
    )
)
PROGRAM = compiled(SPECS, [7, 23], {"handler": BODY})


def imms(body: bytes) -> list[int]:
    """The immediate operands."""
    return [imm for _, _, _, imm in struct.iter_unpack("=BBhi", body)]


def test_maps_are_numbers_until_there_are_descriptors() -> None:
    """Only instructions that load a map change, and to the map that was meant."""
    assert imms(PROGRAM.functions["handler"]) == [1, 0, 23, 0, 0, 0, 0]
    assert imms(PROGRAM.instructions("handler", [40, 50])) == [50, 0, 23, 0, 40, 0, 0]
    assert PROGRAM.instructions("handler", [7, 23]) == BODY


def test_a_map_of_nobody_is_refused() -> None:
    """A descriptor that no map has is no number."""
    with pytest.raises(KeyError):
        compiled(SPECS[:1], [7], {"handler": BODY})


def test_what_is_kept_is_found(tmp_path: Path) -> None:
    """The same program, by the same inputs, in a directory that is made for it."""
    directory = tmp_path / "a" / "b"
    assert cache.load(directory, KEY) is None
    assert cache.store(directory, KEY, PROGRAM)
    assert cache.load(directory, KEY) == PROGRAM
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]


@pytest.mark.parametrize(
    "inputs", [["text", "-DA=2"], ["text-DA=1"], ["tex", "t-DA=1"], ["text"], ["-DA=1", "text"]]
)
def test_other_inputs_are_another_program(inputs: list[str]) -> None:
    """However they are cut."""
    assert cache.key_of(inputs) != KEY


@pytest.mark.parametrize("kept", [b"", b"x", b"half"])
def test_a_damaged_file_is_no_program(tmp_path: Path, kept: bytes) -> None:
    """Empty, short, or another text than was written: compiled again, and then kept."""
    assert cache.store(tmp_path, KEY, PROGRAM)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if kept == b"half" else kept)
    assert cache.load(tmp_path, KEY) is None
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert cache.load(tmp_path, KEY) is None
    assert cache.store(tmp_path, KEY, PROGRAM)
    assert cache.load(tmp_path, KEY) == PROGRAM


def test_another_format_is_no_program() -> None:
    """A later mptrace's file is not read as ours."""
    with pytest.raises(ValueError, match="format 0"):
        Compiled.from_bytes(PROGRAM.to_bytes().replace(b'"format": 1', b'"format": 0'))


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_what_others_could_write_is_not_loaded(tmp_path: Path, mode: int) -> None:
    """Neither from such a directory nor from such a file."""
    assert cache.store(tmp_path, KEY, PROGRAM)
    (file,) = tmp_path.iterdir()
    file.chmod(mode & 0o666)
    assert cache.load(tmp_path, KEY) is None
    file.chmod(0o600)
    assert cache.load(tmp_path, KEY) == PROGRAM
    tmp_path.chmod(mode)
    assert cache.load(tmp_path, KEY) is None
    assert not cache.store(tmp_path, KEY, PROGRAM)


def test_what_is_somebody_elses_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where only its owner can write it."""
    assert cache.store(tmp_path, KEY, PROGRAM)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert cache.load(tmp_path, KEY) is None
    assert not cache.store(tmp_path, KEY, PROGRAM)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A file of ours elsewhere doesn't count, nor does a directory."""
    assert cache.store(tmp_path / "real", KEY, PROGRAM)
    (file,) = (tmp_path / "real").iterdir()
    os.makedirs(tmp_path / "other", 0o700)
    (tmp_path / "other" / file.name).symlink_to(file)
    assert cache.load(tmp_path / "other", KEY) is None
    (tmp_path / "other" / file.name).unlink()
    (tmp_path / "other" / file.name).mkdir()
    assert cache.load(tmp_path / "other", KEY) is None
    assert not cache.store(tmp_path / "other", KEY, PROGRAM)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert cache.load(tmp_path / "link", KEY) is None


def test_those_used_least_lately_go(tmp_path: Path) -> None:
    """The number of files is bounded; one that was read again stays."""
    keys = [cache.key_of([str(number)]) for number in range(kept.MAX_KEPT)]
    for age, key in enumerate(reversed(keys)):
        assert cache.store(tmp_path, key, PROGRAM)
        os.utime(tmp_path / f"{key}{cache.SUFFIX}", (1000 - age, 1000 - age))
    assert cache.load(tmp_path, keys[0])
    assert cache.store(tmp_path, KEY, PROGRAM)
    assert len(list(tmp_path.iterdir())) == kept.MAX_KEPT
    assert cache.load(tmp_path, keys[0])
    assert cache.load(tmp_path, KEY)


def test_only_our_own_files_go(tmp_path: Path) -> None:
    """Whatever else lies there stays; what a killed session left half written goes in time."""
    others = [tmp_path / name for name in ("a.bpf", "b.json", f"{'0' * 63}.bpf", "tmp1")]
    others += [tmp_path / f"{number}.bpf" for number in range(kept.MAX_KEPT)]
    left = [tmp_path / f"{KEY}{cache.SUFFIX}.{pid}" for pid in (1, 2)]
    for path in others + left:
        path.write_text("x")
    os.utime(left[0], (1000, 1000))
    for number in range(kept.MAX_KEPT + 3):
        assert cache.store(tmp_path, cache.key_of([str(number)]), PROGRAM)
    assert all(path.exists() for path in [*others, left[1]])
    assert not left[0].exists()
    assert len(list(tmp_path.iterdir())) == len(others) + 1 + kept.MAX_KEPT


def test_what_could_not_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or Ctrl-C in the middle, which is passed on."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        assert not cache.store(tmp_path, KEY, PROGRAM)
        patch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.store(tmp_path, KEY, PROGRAM)
    assert list(tmp_path.iterdir()) == []


def test_without_a_place_there_is_no_cache(tmp_path: Path) -> None:
    """Switched off, or where no directory can be made: no error, nothing kept."""
    assert kept.directory_of({}) == Path(kept.DIRECTORY)
    assert kept.directory_of({"MPTRACE_PROGRAMS": "/x"}) == Path("/x")
    assert kept.directory_of({"MPTRACE_PROGRAMS": ""}) is None
    assert not cache.store(None, KEY, PROGRAM)
    assert cache.load(None, KEY) is None
    (tmp_path / "file").write_text("")
    assert not cache.store(tmp_path / "file" / "x", KEY, PROGRAM)
    assert cache.load(tmp_path / "file", KEY) is None

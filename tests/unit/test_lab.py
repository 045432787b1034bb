# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's parts that need no guest: nodes, sources, images, frames, changes, the agent."""

import gzip
import io
import json
import lzma
import os
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mptrace.cli import COMMANDS, main
from mptrace.errors import LabError, UsageError
from mptrace.host.kept import DIRECTORY
from mptrace.lab import agent, wire
from mptrace.lab.apt import Source, host_sources, parse_deb822, parse_one_line, stanzas_for
from mptrace.lab.changes import apply
from mptrace.lab.guest import Completed, Guest
from mptrace.lab.image import (
    bzimage_release,
    decompress,
    extract_vmlinux,
    initramfs,
    module_closure,
)
from mptrace.lab.kernels import Kernel, cache_directory, find_kernel
from mptrace.lab.port import Port
from mptrace.lab.programs import MAX_KEPT, SharedPrograms
from mptrace.lab.runner import guest_environment, run_in_guest
from mptrace.lab.topology import GuestNode, parse_nodes

GIB, MIB = 1 << 30, 1 << 20


# -- nodes


def test_a_number_means_equal_nodes_with_a_cpu_each() -> None:
    """``--nodes 3`` is three nodes of 1G with one CPU each."""
    assert parse_nodes("3").nodes == tuple(GuestNode(GIB, (cpu,)) for cpu in range(3))


def test_memory_is_divided_and_cpus_are_dealt_out_in_turn() -> None:
    """--memory is shared equally; with more CPUs than nodes, node 0 has 0, 2, ..."""
    topology = parse_nodes("2", cpus=3, memory="1G")
    assert topology.nodes == (GuestNode(512 * MIB, (0, 2)), GuestNode(512 * MIB, (1,)))


def test_fewer_cpus_than_nodes_leave_nodes_without() -> None:
    """--cpus 1 gives node 1 memory only."""
    assert parse_nodes("2", cpus=1).nodes[1].cpus == ()


def test_a_node_of_cpus_only() -> None:
    """A node without memory has CPUs, and no memory backend in QEMU's arguments."""
    topology = parse_nodes("1G/cpus=0,0/cpus=1")
    assert topology.nodes[1] == GuestNode(0, (1,))
    assert "node,nodeid=1,cpus=1" in topology.qemu_arguments()
    assert "CPUs only" in str(topology)
    with pytest.raises(UsageError, match="neither memory nor CPUs"):
        parse_nodes("1G/cpus=0,0")


def test_sizes_and_cpus_of_each_node() -> None:
    """Where one node names its CPUs, the others have none."""
    topology = parse_nodes("1G/cpus=0-1,512M")
    assert topology.nodes == (GuestNode(GIB, (0, 1)), GuestNode(512 * MIB))
    assert topology.qemu_arguments() == [
        *("-machine", "q35", "-m", "1536M", "-smp", "2"),
        *("-object", "memory-backend-ram,id=m0,size=1024M"),
        *("-numa", "node,nodeid=0,memdev=m0,cpus=0,cpus=1"),
        *("-object", "memory-backend-ram,id=m1,size=512M"),
        *("-numa", "node,nodeid=1,memdev=m1"),
    ]


def test_a_slow_node_is_described_by_the_firmware() -> None:
    """A slow node has no CPU; latency, bandwidth and distance say that it is of a lower tier."""
    topology = parse_nodes("1G,1G,2G/slow")
    assert topology.nodes == (
        GuestNode(GIB, (0,)),
        GuestNode(GIB, (1,)),
        GuestNode(2 * GIB, slow=True),
    )
    arguments = topology.qemu_arguments()
    assert arguments[:2] == ["-machine", "q35,hmat=on"]
    assert "node,nodeid=2,memdev=m2,initiator=0" in arguments
    lb = "hmat-lb,initiator=1,target={},hierarchy=memory,data-type=access-latency,latency={}"
    assert lb.format(0, 10) in arguments
    assert lb.format(2, 60) in arguments
    distances = [word for word in arguments if word.startswith("dist,")]
    assert distances == [
        "dist,src=0,dst=1,val=20",
        "dist,src=0,dst=2,val=40",
        "dist,src=1,dst=2,val=40",
    ]
    assert "2048M slow" in str(topology)


def test_cpus_are_dealt_out_to_fast_nodes() -> None:
    """A slow node gets none of the CPUs, wherever it stands; without memory it is nothing."""
    nodes = parse_nodes("1G/slow,1G,1G", cpus=3).nodes
    assert [node.cpus for node in nodes] == [(), (0, 2), (1,)]
    with pytest.raises(UsageError, match="neither memory nor CPUs"):
        parse_nodes("1G,0/slow")


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "0",
        "65",
        "x",
        "1G,",
        "1G/cpus=1",
        "1G/cpu=0",
        "1G/cpus=0,1G/cpus=0",
        "16M",
        "1G,1M",
        "1G/slow",
        "1G/cpus=0-99999999999999",
        "1G/cpus=99999999999999",
        "1G/cpus=0-64",
        "99999999999999999999T",
        "1T,1T",
    ],
)
def test_impossible_nodes_are_usage_errors(spec: str) -> None:
    """What can't be read, has gaps in its CPUs or can't boot is refused."""
    with pytest.raises(UsageError):
        parse_nodes(spec)


def test_numbers_of_more_digits_than_int_reads_are_usage_errors() -> None:
    """Python's int() refuses more than 4,300 digits by a ValueError."""
    digits = "9" * 5000
    for spec in (digits, f"{digits}G", f"1G/cpus={digits}", f"1G/cpus=0-{digits}"):
        with pytest.raises(UsageError):
            parse_nodes(spec)


def test_leading_zeros_do_not_count() -> None:
    """A number is as large as it is, however it is written."""
    assert parse_nodes("0" * 30 + "2") == parse_nodes("2")


@pytest.mark.parametrize(
    ("spec", "cpus", "memory"),
    [
        ("1G,1G", None, "2G"),
        ("1G/cpus=0,1G", 2, None),
        ("2", None, "2X"),
        ("2", 10**20, None),
        ("2", None, "2000T"),
    ],
)
def test_contradicting_options_are_usage_errors(
    spec: str, cpus: int | None, memory: str | None
) -> None:
    """Two options that decide the same thing are refused."""
    with pytest.raises(UsageError):
        parse_nodes(spec, cpus=cpus, memory=memory)


# -- apt


DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_deb822_sources_are_read() -> None:
    """Enabled stanzas for binary packages, with a key inline or by path."""
    first, second = parse_deb822(DEB822)
    assert first == Source(
        ("http://mirror.example/debian",),
        ("bookworm", "bookworm-updates"),
        ("main", "contrib"),
        (("Signed-By", "/usr/share/keyrings/debian-archive-keyring.gpg"),),
    )
    assert second.suites == ("bookworm-security",)
    assert (
        dict(second.options)["Signed-By"].splitlines()[-1].endswith("END PGP PUBLIC KEY BLOCK-----")
    )


def test_one_line_sources_are_read() -> None:
    """``deb [options] uri suite components``; deb-src and comments are nothing."""
    text = (
        "deb-src http://a.example/debian bookworm main\n"
        "# deb http://b.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://c.example/debian bookworm main contrib # why\n"
        "deb http://d.example/flat ./\n"
    )
    assert list(parse_one_line(text)) == [
        Source(
            ("http://c.example/debian",),
            ("bookworm",),
            ("main", "contrib"),
            (("Signed-By", "/k.gpg"),),
        )
    ]


def test_host_sources_come_from_all_files(tmp_path: Path) -> None:
    """sources.list and both kinds of files beside it count, other files don't."""
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (parts / "b.list").write_text("deb http://b.example/debian bookworm main\n")
    (parts / "c.sources").write_text(DEB822)
    (parts / "d.save").write_text("deb http://d.example/debian bookworm main\n")
    uris = [source.uris[0] for source in host_sources(tmp_path)]
    assert uris == [
        "http://a.example/debian",
        "http://b.example/debian",
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
    ]


def test_backports_come_from_the_mirror_of_the_release() -> None:
    """The entry for backports has the mirror, components and key of the release's entry."""
    assert stanzas_for("bookworm-backports", "bookworm", parse_deb822(DEB822)) == (
        "Types: deb\n"
        "URIs: http://mirror.example/debian\n"
        "Suites: bookworm-backports\n"
        "Components: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_the_release_comes_with_its_companions() -> None:
    """Kernels of the release itself come from its updates and security suites too."""
    suites = [
        source.suites
        for source in parse_deb822(stanzas_for("bookworm", "bookworm", parse_deb822(DEB822)))
    ]
    assert suites == [("bookworm", "bookworm-updates"), ("bookworm-security",)]


def test_a_host_of_another_release_is_told_the_way_out() -> None:
    """Without an entry for the release the error names --kernel PATH."""
    with pytest.raises(LabError) as caught:
        stanzas_for("bookworm-backports", "bookworm", [])
    assert "--kernel PATH" in caught.value.hint


# -- images


def _bzimage(payload: bytes, release: str = "6.1.0-x") -> bytes:
    """A file with the header fields of a bzImage around a ``payload``."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    struct.pack_into("<II", head, 0x248, 7, len(payload))
    text = f"{release} (me) #1".encode()
    head[0x300 : 0x300 + len(text)] = text
    return bytes(head) + b"padding" + payload + b"after"


ELF = b"\x7fELF" + bytes(range(256)) * 17


@pytest.mark.parametrize("codec", ["xz", "gzip", "zstd"])
def test_a_kernel_is_extracted(tmp_path: Path, codec: str) -> None:
    """The payload comes out as it went in, with the size that the kernel's build appends."""
    if codec == "zstd":
        packed = subprocess.run(["zstd", "-c"], input=ELF, capture_output=True, check=True).stdout
    else:
        packed = lzma.compress(ELF) if codec == "xz" else gzip.compress(ELF)
    path = tmp_path / "vmlinuz"
    path.write_bytes(_bzimage(packed + struct.pack("<I", len(ELF))))
    assert extract_vmlinux(path, tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == ELF
    assert bzimage_release(path) == "6.1.0-x"


def test_an_unknown_codec_leaves_the_bzimage(tmp_path: Path) -> None:
    """A payload that can't be read is no error: the bzImage itself boots, only slower."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(_bzimage(b"LZ4 or so"))
    assert not extract_vmlinux(path, tmp_path / "vmlinux")
    assert not (tmp_path / "vmlinux").exists()


def test_no_bzimage_is_an_error(tmp_path: Path) -> None:
    """Something else than a kernel is refused by name."""
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(LabError, match=r"notes\.txt.*not a bzImage"):
        find_kernel(str(path), cache=tmp_path)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A directory of modules: overlay alone, 9p through two others, virtio built in."""
    directory = tmp_path / "6.1.0-x"
    (directory / "kernel").mkdir(parents=True)
    for name in ("overlay", "9p", "9pnet", "netfs", "9pnet_virtio"):
        (directory / "kernel" / f"{name}.ko").write_bytes(b"\x7fELF" + name.encode())
    (directory / "modules.dep").write_text(
        "kernel/overlay.ko:\n"
        "kernel/netfs.ko:\n"
        "kernel/9pnet.ko:\n"
        "kernel/9p.ko: kernel/netfs.ko kernel/9pnet.ko\n"
        "kernel/9pnet_virtio.ko: kernel/9pnet.ko\n"
    )
    (directory / "modules.builtin").write_text("kernel/virtio_pci.ko\nkernel/virtio_console.ko\n")
    return directory


def test_modules_load_after_what_they_need(modules: Path) -> None:
    """Dependencies come first, each once; built-in modules need no file."""
    names = [path.name for path in module_closure(modules, ["virtio_pci", "9p", "9pnet_virtio"])]
    assert names == ["9pnet.ko", "netfs.ko", "9p.ko", "9pnet_virtio.ko"]


def test_a_kernel_without_9p_is_refused(modules: Path) -> None:
    """A cloud kernel lacks what the lab needs, and the error says so."""
    with pytest.raises(LabError, match="fuse"):
        module_closure(modules, ["fuse"])


def test_the_initramfs_is_a_cpio_archive(modules: Path, tmp_path: Path) -> None:
    """busybox's own cpio unpacks what we write."""
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"odd" * 7)
    archive = initramfs(modules, busybox, {"lab_boot": "/a path/with 'quotes'"})
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(
        ["busybox", "cpio", "-i"], input=archive, cwd=out, check=True, capture_output=True
    )
    assert (out / "bin/busybox").read_bytes() == b"odd" * 7
    assert stat.S_IMODE((out / "init").stat().st_mode) == 0o755
    assert (out / "modules/00-9pnet.ko").read_bytes() == b"\x7fELF9pnet"
    shown = subprocess.run(
        ["sh", "-c", '. ./settings; printf %s "$lab_boot"'],
        cwd=out,
        capture_output=True,
        check=True,
    )
    assert shown.stdout == b"/a path/with 'quotes'"


def test_the_guests_scripts_are_valid_shell() -> None:
    """sh -n takes both."""
    directory = Path(agent.__file__).parent
    for name in ("init", "stage2"):
        subprocess.run(["sh", "-n", str(directory / name)], check=True)


def test_an_unknown_compression_is_named() -> None:
    """The path is quoted in the error."""
    with pytest.raises(LabError, match=r"some\.ko"):
        decompress(b"????", "some.ko")


# -- programs that guests share


class FakeGuest:
    """A guest's kernel and files, in a dict."""

    kernel = Kernel("6.1.0", Path(), Path(), Path())

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        assert mode == 0o600, "mptrace loads only what nobody else can have written"
        self.files[path] = data

    def get(self, path: str) -> bytes:
        return self.files[path]

    def run(self, argv: list[str], timeout: float) -> Completed:
        assert argv == ["ls", DIRECTORY]
        assert timeout > 0
        names = [Path(path).name for path in self.files if path.startswith(DIRECTORY)]
        return Completed(0, "\n".join(names).encode(), b"")


def test_what_one_guest_compiled_the_next_one_gets(tmp_path: Path) -> None:
    """Programs alone go over, once each; the guest keeps them where mptrace looks."""
    one, two = FakeGuest(), FakeGuest()
    name = f"{DIRECTORY}/{'a' * 64}.bpf"
    first = SharedPrograms(one, tmp_path)  # type: ignore[arg-type]
    first.lend()
    assert not one.files
    one.files = {name: b"program", f"{DIRECTORY}/../x": b"no", f"{DIRECTORY}/note": b"no"}
    first.collect()
    second = SharedPrograms(two, tmp_path)  # type: ignore[arg-type]
    second.lend()
    assert two.files == {name: b"program"}
    two.files[name] = b"changed"
    second.collect()
    assert (tmp_path / Path(name).name).read_bytes() == b"program"


def test_answers_about_a_kernels_types_become_more(tmp_path: Path) -> None:
    """What a guest added to them goes over to the next one; other files of a boot stay."""
    guest = FakeGuest()
    name = f"{DIRECTORY}/{'a' * 64}.types"
    for text in (b"some", b"more"):
        shared = SharedPrograms(guest, tmp_path)  # type: ignore[arg-type]
        shared.lend()
        guest.files[name] = text
        guest.files[f"{DIRECTORY}/{'b' * 64}.symbols"] = b"of this boot"
        shared.collect()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            Path(name).name: text
        }


def test_old_programs_go(tmp_path: Path) -> None:
    """The cache is bounded: those collected first are removed."""
    guest = FakeGuest()
    for number in range(MAX_KEPT + 5):
        (tmp_path / f"{number:064x}.bpf").write_bytes(b"old")
        os.utime(tmp_path / f"{number:064x}.bpf", (number, number))
    (tmp_path / "something else").write_bytes(b"")
    SharedPrograms(guest, tmp_path).collect()  # type: ignore[arg-type]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"something else", *(f"{n:064x}.bpf" for n in range(5, MAX_KEPT + 5))}


# -- kernels and the environment


def test_the_cache_is_where_the_environment_says() -> None:
    """$MPTRACE_CACHE, then $XDG_CACHE_HOME, then ~/.cache."""
    assert cache_directory({"MPTRACE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_directory({"XDG_CACHE_HOME": "/b"}) == Path("/b/mptrace")
    assert cache_directory({}) == Path.home() / ".cache" / "mptrace"


def test_a_kernel_that_is_not_there(tmp_path: Path) -> None:
    """The error lists what could be asked for."""
    with pytest.raises(LabError, match=r"'9\.9'") as caught:
        find_kernel("9.9", cache=tmp_path)
    assert "6.1" in caught.value.hint


def test_the_guests_environment_is_chosen() -> None:
    """Secrets of the host's environment stay there; MPTRACE_* goes along."""
    env = guest_environment({"PATH": "/p", "MPTRACE_X": "1", "LC_ALL": "C", "TOKEN": "secret"})
    assert env == {
        "PATH": "/p",
        "HOME": "/root",
        "MPTRACE_X": "1",
        "LC_ALL": "C",
        "MPTRACE_IN_LAB": "1",
    }


def test_a_directory_that_the_guest_cannot_see() -> None:
    """A current directory below /dev, say, is refused before anything boots."""
    with pytest.raises(LabError, match="its own /dev"):
        run_in_guest(["true"], cwd="/dev/shm")


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without QEMU and busybox the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError) as caught:
        Guest(Kernel("x", tmp_path, tmp_path, tmp_path), parse_nodes()).boot()
    assert caught.value.hint == "apt-get install qemu-system-x86 busybox-static"


# -- frames


def test_frames_survive_any_cut() -> None:
    """Fed byte by byte, the same frames come out."""
    data = wire.frame(wire.STDOUT, b"abc") + wire.frame(wire.READY) + wire.frame(wire.EXIT, b"{}")
    unframer = wire.Unframer()
    frames = [found for byte in data for found in unframer.feed(bytes([byte]))]
    assert frames == [(wire.STDOUT, b"abc"), (wire.READY, b""), (wire.EXIT, b"{}")]


# -- changes


def _archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    file.seek(0)
    return file


def _member(path: Path, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(str(path))
    info.type, info.mode = kind, mode
    return info


def _removed(path: Path) -> tarfile.TarInfo:
    info = _member(path)
    info.pax_headers = {"MPTRACE.removed": "1"}
    return info


def test_changes_are_applied(tmp_path: Path) -> None:
    """Files, directories and removals; a file may take a directory's place and back."""
    (tmp_path / "was-file").write_text("x")
    (tmp_path / "was-dir" / "deep").mkdir(parents=True)
    (tmp_path / "gone").mkdir()
    archive = _archive(
        (_member(tmp_path / "was-file", tarfile.DIRTYPE, 0o750), b""),
        (_member(tmp_path / "was-file" / "in", mode=0o4600), b"inside"),
        (_member(tmp_path / "was-dir"), b"now a file"),
        (_removed(tmp_path / "gone"), b""),
        (_removed(tmp_path / "never-there"), b""),
    )
    assert apply(archive, [str(tmp_path)]) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["was-dir", "was-file"]
    assert (tmp_path / "was-file" / "in").read_bytes() == b"inside"
    assert stat.S_IMODE((tmp_path / "was-file" / "in").stat().st_mode) == 0o600
    assert (tmp_path / "was-dir").read_bytes() == b"now a file"


def test_a_symlink_on_the_host_is_replaced_not_followed(tmp_path: Path) -> None:
    """A changed file that is a link on the host doesn't write where the link points."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    apply(_archive((_member(root / "link"), b"new")), [str(root)])
    assert outside.read_text() == "precious"
    assert (root / "link").read_bytes() == b"new"
    assert not (root / "link").is_symlink()


@pytest.mark.parametrize("name", ["elsewhere", "root/../elsewhere", "root-too"])
def test_members_outside_are_refused(tmp_path: Path, name: str) -> None:
    """A guest can't make the host write beside the directories it may write."""
    with pytest.raises(LabError, match="outside"):
        apply(_archive((_member(tmp_path / name), b"x")), [str(tmp_path / "root")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_are_kept_or_the_caller_of_sudo(tmp_path: Path) -> None:
    """New files belong to who called sudo, overwritten ones stay whose they were."""
    (tmp_path / "old").write_text("x")
    os.chown(tmp_path / "old", 12345, 54321)
    archive = _archive((_member(tmp_path / "old"), b"y"), (_member(tmp_path / "new"), b"z"))
    apply(archive, [str(tmp_path)], {"SUDO_UID": "1000", "SUDO_GID": "1001"})
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert owners == {"old": (12345, 54321), "new": (1000, 1001)}


# -- the agent, served over a socket pair on this machine


class Host:
    """The host's side of an agent that runs in a thread."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(30)
        self._unframer = wire.Unframer()
        self._frames: list[tuple[bytes, bytes]] = []
        self._thread = threading.Thread(target=self._serve, args=(theirs,))
        self._thread.start()
        assert self.next() == (wire.HELLO, b"")

    @staticmethod
    def _serve(end: socket.socket) -> None:
        with end:
            agent.serve(Port(end.fileno()))

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        self._socket.sendall(wire.frame(kind, payload))

    def job(self, *argv: str, stdin: bool = False, cwd: str = "/") -> None:
        request = {"argv": argv, "cwd": cwd, "env": dict(os.environ), "stdin": stdin, "tty": None}
        self.send(wire.JOB, json.dumps(request).encode())

    def next(self) -> tuple[bytes, bytes]:
        while not self._frames:
            self._frames += self._unframer.feed(self._socket.recv(4096))
        return self._frames.pop(0)

    def until_exit(self) -> tuple[int, bytes, bytes]:
        """The status, standard output and standard error of the job."""
        output = {wire.STDOUT: b"", wire.STDERR: b""}
        while True:
            kind, payload = self.next()
            if kind == wire.EXIT:
                return json.loads(payload)["returncode"], *output.values()
            if kind in output:
                output[kind] += payload

    def close(self) -> None:
        self._socket.close()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def host() -> Iterator[Host]:
    """An agent on this machine; it ends when its host goes away."""
    host = Host()
    yield host
    host.close()


def test_the_agent_runs_one_job_after_the_other(host: Host) -> None:
    """Streams and statuses are each job's own, and no descriptor is left open."""
    before = None
    for number in range(5):
        host.job("sh", "-c", f"echo {number}; echo e{number} >&2; exit {number}")
        assert host.until_exit() == (number, f"{number}\n".encode(), f"e{number}\n".encode())
        count = len(os.listdir("/proc/self/fd"))
        before = before or count
        assert count == before


def test_the_agent_explains_what_it_cannot_start(host: Host, tmp_path: Path) -> None:
    """127 for a missing command or directory, 126 for one that can't be executed."""
    host.job("no-such-command")
    status, _, errors = host.until_exit()
    assert (status, errors) == (127, b"mptrace lab: no-such-command: No such file or directory\n")
    host.job(str(tmp_path))
    assert host.until_exit()[0] == 126
    host.job("true", cwd="/no-such-directory")
    status, _, errors = host.until_exit()
    assert status == 127
    assert b"directory '/no-such-directory'" in errors


def test_the_agent_feeds_input_on_demand(host: Host) -> None:
    """Each piece is asked for; an empty one is the end of file."""
    host.job("cat", stdin=True)
    for piece in (b"one ", b"two ", b""):
        while host.next()[0] != wire.READY:
            pass
        host.send(wire.STDIN, piece)
    assert host.until_exit()[0] == 0


def test_the_agent_survives_a_job_that_reads_nothing(host: Host) -> None:
    """Input for a command that doesn't want it is dropped, and the next job runs."""
    host.job("true", stdin=True)
    host.send(wire.STDIN, b"x" * wire.CHUNK)
    host.send(wire.STDIN)
    assert host.until_exit()[0] == 0
    host.job("echo", "next")
    assert host.until_exit() == (0, b"next\n", b"")


def test_the_agent_kills_the_whole_session(host: Host, tmp_path: Path) -> None:
    """KILL ends the command and what it started, also in a process group of its own."""
    script = f"set -m; sleep 4322 & echo $! > {tmp_path}/pid; echo up; wait"
    host.job("bash", "-c", script)
    while (answer := host.next())[0] == wire.STDERR:
        pass
    assert answer == (wire.STDOUT, b"up\n")
    host.send(wire.KILL)
    assert host.until_exit()[0] == 137
    child = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_agent_reads_and_writes_files(host: Host, tmp_path: Path) -> None:
    """PUT makes directories; GET of what isn't there is an error, not a death."""
    path = tmp_path / "new" / "file"
    host.send(wire.PUT, json.dumps({"path": str(path), "mode": 0o640}).encode())
    host.send(wire.STDIN, b"content")
    assert host.next() == (wire.DONE, b'{"error": ""}')
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    host.send(wire.GET, json.dumps({"path": str(path)}).encode())
    assert host.next() == (wire.DATA, b"content")
    assert host.next()[0] == wire.DONE
    host.send(wire.GET, json.dumps({"path": "/no/such/file"}).encode())
    kind, payload = host.next()
    assert kind == wire.DONE
    assert "/no/such/file" in json.loads(payload)["error"]


# -- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["lab", "--nodes", "x", "--", "true"],
        ["lab", "--no-bring", "--bring", "y", "--", "true"],
        ["lab", "--timeout", "0", "--", "true"],
        ["lab", "--cpus", "99999999999999999999", "--", "true"],
        ["lab", "--cpus", "65", "--", "true"],
        ["lab", "--count", "--host-threads", "multi", "--", "true"],
        ["no-such-command"],
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    """A wrong request is status 2 and a message on standard error."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert not result.stdout


def test_errors_have_a_message_and_a_hint() -> None:
    """`mptrace: message`, the way out indented below it, nothing on standard output."""
    result = CliRunner().invoke(main, ["lab", "--kernel", "/no/such/kernel", "--", "true"])
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()[:2]
    assert first == "mptrace: there is no kernel '/no/such/kernel'"
    assert second.startswith("  give a series")
    assert not result.stdout


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C anywhere below a command is status 130, without a traceback."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mptrace.cli.lab.run_in_guest", interrupt)
    assert CliRunner().invoke(main, ["lab", "--", "true"]).exit_code == 130


def test_every_command_has_help() -> None:
    """Each of the commands loads and says what it does and what its options are."""
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str()
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_a_command_loads_only_what_it_needs() -> None:
    """`mptrace lab --help` imports neither numpy nor bcc."""
    script = (
        "import sys; from mptrace.cli import main; main(['lab', '--help'], standalone_mode=False);"
        "print([name for name in ('numpy', 'pyarrow', 'bcc') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"

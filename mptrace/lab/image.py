# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU boots: the uncompressed kernel out of a bzImage, and an initramfs.

Booting the ELF vmlinux through PVH saves the guest the decompression (4-5 s of
emulated CPU); the initramfs holds busybox, `init` and only the modules that
reach the 9p root.
"""

import gzip
import lzma
import shlex
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import LabError

#: Modules that the initramfs needs to reach its root and its command port.
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")

_HERE = Path(__file__).parent
_ELF_MAGIC = b"\x7fELF"


def decompress(data: bytes, path: str) -> bytes:
    """The content of a compressed kernel payload or module.

    Raises LabError for a codec that neither Python nor the zstd command reads.
    """
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        if shutil.which("zstd") is None:
            raise LabError(
                f"{path!r} is compressed with zstd and the command zstd is not installed",
                "apt-get install zstd",
            )
        done = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=False)
        if done.returncode:
            raise LabError(
                f"zstd can't read {path!r}: {done.stderr.decode(errors='replace').strip()}"
            )
        return done.stdout
    if data.startswith(_ELF_MAGIC):
        return data
    raise LabError(f"{path!r} is compressed in a way that mptrace does not know")


def bzimage_release(path: Path) -> str:
    """The release (``uname -r``) that a bzImage names in its header.

    Offsets are of Documentation/arch/x86/boot.rst: "HdrS" at 0x202, kernel_version
    at 0x20e, relative to 0x200.

    Raises LabError where ``path`` is no bzImage.
    """
    try:
        with path.open("rb") as file:
            head = file.read(0x20000)
    except OSError as error:
        raise LabError(f"can't read the kernel {str(path)!r}: {error.strerror}") from None
    if head[0x202:0x206] != b"HdrS":
        raise LabError(f"{str(path)!r} is not a bzImage (a vmlinuz of x86)")
    (offset,) = struct.unpack_from("<H", head, 0x20E)
    text = head[0x200 + offset : 0x200 + offset + 256].split(b"\0")[0]
    return text.decode(errors="replace").split()[0] if text else ""


def extract_vmlinux(bzimage: Path, target: Path) -> bool:
    """Write the ELF kernel inside ``bzimage`` to ``target``; False where its codec is unknown.

    The payload lies payload_offset (0x248) behind the real-mode code, which is
    setup_sects (0x1f1) + 1 sectors long; of its payload_length (0x24c) bytes, the
    last four are the uncompressed size for the codecs that don't know it themselves.
    """
    data = bzimage.read_bytes()
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = data[start : start + length]
    # Where xz ends, it says itself; that size behind it is garbage to lzma.
    is_xz = payload.startswith(b"\xfd7zXZ\0")
    payload = _xz_stream(payload) if is_xz else payload[:-4]
    try:
        vmlinux = decompress(payload, str(bzimage))
    except (LabError, lzma.LZMAError, OSError, EOFError):
        return False
    if not vmlinux.startswith(_ELF_MAGIC):
        return False
    target.write_bytes(vmlinux)
    return True


def _xz_stream(payload: bytes) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    unpacker.decompress(payload)
    return payload[: len(payload) - len(unpacker.unused_data)]


def module_closure(modules: Path, wanted: Iterable[str]) -> list[Path]:
    """The files of the ``wanted`` modules and what they depend on, dependencies first.

    ``modules`` is a directory lib/modules/RELEASE with depmod's files.  Built-in
    modules need no file.

    Raises LabError where a module is neither there nor built in.
    """
    try:
        dep_lines = (modules / "modules.dep").read_text().splitlines()
    except OSError:
        raise LabError(
            f"{str(modules)!r} has no modules.dep", "run depmod for this kernel's modules"
        ) from None
    needs = {}
    for line in dep_lines:
        path, _, rest = line.partition(":")
        needs[_module_name(path)] = (path, [_module_name(word) for word in rest.split()])
    try:
        built_in = {_module_name(x) for x in (modules / "modules.builtin").read_text().splitlines()}
    except OSError:
        built_in = set()
    order: list[Path] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        if name not in needs:
            if name in built_in:
                return
            raise LabError(
                f"the kernel in {str(modules)!r} has no module {name!r}",
                "the lab needs 9p and virtio: cloud kernels lack them; try --kernel 6.1",
            )
        path, dependencies = needs[name]
        # modules.dep lists all dependencies, the innermost last.
        for dependency in reversed(dependencies):
            visit(dependency)
        order.append(modules / path)

    for name in wanted:
        visit(name.replace("-", "_"))
    return order


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def initramfs(modules: Path, busybox: Path, settings: Mapping[str, str]) -> bytes:
    """A cpio archive with busybox, our scripts and the boot modules (numbered in load order).

    ``settings`` are the shell variables that stage2 reads.
    """
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"")
        for name in ("bin", "dev", "proc", "sys", "modules", "host", "layer", "root")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    for name in ("init", "stage2"):
        entries.append((name, stat.S_IFREG | 0o755, (_HERE / name).read_bytes()))
    assignments = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    entries.append(("settings", stat.S_IFREG | 0o644, assignments.encode()))
    for number, path in enumerate(module_closure(modules, BOOT_MODULES)):
        data = decompress(path.read_bytes(), str(path))
        entries.append(
            (f"modules/{number:02d}-{_module_name(path.name)}.ko", stat.S_IFREG | 0o644, data)
        )
    return b"".join(_newc(entries))


def _newc(entries: Iterable[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """The "newc" cpio format of Documentation/driver-api/early-userspace/buffer-format.rst."""
    for number, (name, mode, data) in enumerate((*entries, ("TRAILER!!!", 0, b"")), start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        yield head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)

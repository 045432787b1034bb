# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the kernel of a guest: the host's own, a path, or a Debian series fetched by apt.

Kernels of a series are unpacked into a cache of mptrace's own; nothing is
installed into the host's /boot.  A cache entry appears by one rename, under a
lock, so that an interrupted or a second fetch never leaves half of one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import LabError
from .apt import PrivateApt, host_sources, stanzas_for
from .image import bzimage_release, extract_vmlinux

Say = Callable[[str], None]


@dataclass(frozen=True)
class Series:
    """Where Debian serves a kernel series: a suite of the release ``base``, a metapackage in it."""

    suite: str
    base: str
    metapackage: str


#: The only place that knows kernel versions by number.
SERIES: Mapping[str, Series] = {
    "6.1": Series("bookworm", "bookworm", "linux-image-amd64"),
    "6.12": Series("bookworm-backports", "bookworm", "linux-image-amd64"),
}


@dataclass(frozen=True)
class Kernel:
    """A kernel on disk, ready to boot.

    ``image`` is the uncompressed vmlinux, or the bzImage where that can't be
    extracted; ``modules`` the directory lib/modules/RELEASE with depmod's files;
    ``boot`` where config-RELEASE and System.map-RELEASE may lie.
    """

    release: str
    image: Path
    modules: Path
    boot: Path
    package: str = ""
    version: str = ""

    def __str__(self) -> str:
        origin = f" ({self.package} {self.version})" if self.package else f" ({self.image})"
        return self.release + origin


def cache_directory(env: Mapping[str, str] = os.environ) -> Path:
    """The cache: $MPTRACE_CACHE, else mptrace below $XDG_CACHE_HOME or ~/.cache."""
    if own := env.get("MPTRACE_CACHE"):
        return Path(own).absolute()
    if xdg := env.get("XDG_CACHE_HOME"):
        return Path(xdg).absolute() / "mptrace"
    return Path.home() / ".cache" / "mptrace"


def find_kernel(spec: str, *, cache: Path | None = None, say: Say = lambda _: None) -> Kernel:
    """The kernel that ``spec`` names, fetched and unpacked if need be.

    ``spec`` is a series of `SERIES`, ``host``, or the path of a .deb, a vmlinuz or
    a directory into which a kernel package was unpacked.  ``say`` gets a line for
    each step that takes more than a moment.

    Raises LabError where there is no such kernel or it can't be fetched.
    """
    cache = cache or cache_directory()
    if spec in SERIES:
        return _series_kernel(spec, cache, say)
    if spec == "host":
        return _host_kernel(cache)
    path = Path(spec).absolute()
    if path.is_dir():
        return _directory_kernel(path, cache)
    if path.is_file() and path.suffix == ".deb":
        return _deb_kernel(path, cache, say)
    if path.is_file():
        return _image_kernel(path, cache)
    raise LabError(
        f"there is no kernel {spec!r}",
        f"give a series ({', '.join(SERIES)}), 'host', or the path of a vmlinuz, a .deb "
        "or an unpacked directory",
    )


def _series_kernel(name: str, cache: Path, say: Say) -> Kernel:
    entry = cache / "kernels" / name
    if (entry / "kernel.json").exists():
        return _load(entry)
    with _locked(cache, f"kernel-{name}", say):
        if (entry / "kernel.json").exists():
            return _load(entry)
        if platform.machine() != "x86_64":
            raise LabError(f"the lab needs an x86-64 machine, not {platform.machine()!r}")
        series = SERIES[name]
        stanzas = stanzas_for(series.suite, series.base, host_sources())
        with _new_entry(entry) as new, tempfile.TemporaryDirectory(dir=new.parent) as work:
            say(f"lab: fetching the package lists of {series.suite}")
            apt = PrivateApt(Path(work), stanzas)
            apt.update()
            depends = apt.show(series.metapackage).get("Depends", "")
            match = re.search(r"\blinux-image-\S+", depends)
            if not match:
                raise LabError(f"{series.metapackage!r} of {series.suite!r} names no kernel")
            package = match[0]
            version = apt.show(package).get("Version", "")
            if not version.startswith(f"{name}."):
                raise LabError(
                    f"{series.suite!r} now has {package!r} {version}, not {name}",
                    "pass the kernel you want: --kernel PATH",
                )
            say(f"lab: fetching {package} {version}")
            deb = apt.download(package, Path(work))
            _unpack(deb, new, package, version, say)
        return _load(entry)


def _deb_kernel(deb: Path, cache: Path, say: Say) -> Kernel:
    entry = cache / "kernels" / f"{deb.stem}-{_identity(deb)}"
    if (entry / "kernel.json").exists():
        return _load(entry)
    with _locked(cache, entry.name, say):
        if not (entry / "kernel.json").exists():
            fields = _call("dpkg-deb", "-f", str(deb), "Package", "Version")
            found = dict(line.split(": ", 1) for line in fields.splitlines() if ": " in line)
            with _new_entry(entry) as new:
                _unpack(deb, new, found.get("Package", ""), found.get("Version", ""), say)
        return _load(entry)


def _unpack(deb: Path, into: Path, package: str, version: str, say: Say) -> None:
    say(f"lab: unpacking {deb.name}")
    _call("dpkg-deb", "-x", str(deb), str(into))
    vmlinuz, modules = _inside(into)
    if not (modules / "modules.dep").exists():
        base = modules.parents[2]
        _call("depmod", "-b", str(base), modules.name)
    image = into / "vmlinux"
    if not extract_vmlinux(vmlinuz, image):
        image = vmlinuz
    record = {
        "release": modules.name,
        "image": str(image.relative_to(into)),
        "modules": str(modules.relative_to(into)),
        "boot": str(vmlinuz.parent.relative_to(into)),
        "package": package,
        "version": version,
    }
    (into / "kernel.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _load(entry: Path) -> Kernel:
    try:
        record = json.loads((entry / "kernel.json").read_text(encoding="utf-8"))
        return Kernel(
            record["release"],
            entry / record["image"],
            entry / record["modules"],
            entry / record["boot"],
            record["package"],
            record["version"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise LabError(
            f"the cached kernel {str(entry)!r} is damaged: {error}", f"rm -r {entry}"
        ) from None


def _inside(directory: Path) -> tuple[Path, Path]:
    """The one bzImage below an unpacked ``directory`` and the modules of its release."""
    images = sorted(
        path
        for pattern in (
            "boot/vmlinuz-*",
            "vmlinuz-*",
            "usr/lib/modules/*/vmlinuz",
            "lib/modules/*/vmlinuz",
        )
        for path in directory.glob(pattern)
    )
    if len(images) != 1:
        found = ", ".join(path.name for path in images) or "none"
        raise LabError(
            f"{str(directory)!r} should hold one vmlinuz, found: {found}",
            "unpack one kernel package into it (dpkg-deb -x)",
        )
    release = bzimage_release(images[0])
    return images[0], _modules_of(release, [directory / "usr", directory])


def _modules_of(release: str, bases: list[Path]) -> Path:
    for base in bases:
        if (modules := base / "lib" / "modules" / release).is_dir():
            return modules
    looked = ", ".join(str(base / "lib" / "modules") for base in bases)
    raise LabError(f"found no modules of kernel {release!r} in {looked}")


def _directory_kernel(directory: Path, cache: Path) -> Kernel:
    vmlinuz, modules = _inside(directory)
    return Kernel(modules.name, _cached_image(vmlinuz, cache), modules, vmlinuz.parent)


def _image_kernel(vmlinuz: Path, cache: Path) -> Kernel:
    release = bzimage_release(vmlinuz)
    modules = _modules_of(release, [vmlinuz.parent.parent, Path("/usr"), Path("/")])
    return Kernel(release, _cached_image(vmlinuz, cache), modules, vmlinuz.parent)


def _host_kernel(cache: Path) -> Kernel:
    release = os.uname().release
    vmlinuz = Path("/boot") / f"vmlinuz-{release}"
    if not vmlinuz.is_file():
        raise LabError(
            f"the host's own kernel can't be booted: there is no {str(vmlinuz)!r}",
            f"use a series: --kernel {next(iter(SERIES))}",
        )
    return _image_kernel(vmlinuz, cache)


def _cached_image(vmlinuz: Path, cache: Path) -> Path:
    """The uncompressed kernel of ``vmlinuz``, kept in the cache; itself where that fails."""
    image = cache / "images" / f"{vmlinuz.name}-{_identity(vmlinuz)}"
    if image.exists():
        return image
    image.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=image.parent) as work:
        new = Path(work) / "vmlinux"
        if not extract_vmlinux(vmlinuz, new):
            return vmlinuz
        new.replace(image)
    return image


def _identity(path: Path) -> str:
    """A short name for the content of ``path``, from its place, size and time of change."""
    status = path.stat()
    text = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _new_entry(entry: Path) -> Iterator[Path]:
    """A directory that becomes ``entry`` by one rename when the block ends well."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        new.chmod(0o755)
        yield new
        if entry.exists():
            shutil.rmtree(entry)  # without kernel.json: of a broken copy
        new.rename(entry)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def _locked(cache: Path, name: str, say: Say) -> Iterator[None]:
    """Hold the lock ``name`` of the cache; a second process waits for the first."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        file = (cache / f"{name}.lock").open("w")
    except OSError as error:
        raise LabError(
            f"can't write the cache {str(cache)!r}: {error.strerror}",
            "set MPTRACE_CACHE to a directory",
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"lab: waiting for another mptrace to prepare {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _call(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError(f"{argv[0]!r} is not installed", "apt-get install kmod dpkg") from None
    if done.returncode:
        raise LabError(f"{argv[0]!r} failed: {done.stderr.strip()}")
    return done.stdout

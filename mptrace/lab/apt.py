# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages fetched by apt into a directory of ours; the host's apt stays as it is.

apt itself downloads and authenticates: the source entry is derived from the
mirror and the key that the host's apt is configured with, the state (lists,
archives) is private.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import LabError


@dataclass(frozen=True)
class Source:
    """One entry of apt's sources: where, which suites, which components, and its options.

    ``options`` are deb822 fields such as ``("Signed-By", "/usr/share/keyrings/...")``.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def deb822(self, suites: Iterable[str]) -> str:
        """The entry as a deb822 stanza for these ``suites``."""
        lines = [
            "Types: deb",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {' '.join(suites)}",
            f"Components: {' '.join(self.components)}",
            *(f"{key}: {value}" for key, value in self.options),
        ]
        return "\n".join(lines) + "\n"


# One-line options and the deb822 fields they become (sources.list(5)); the other
# options (lang, target, ...) don't decide where packages come from or whom we trust.
_ONE_LINE_OPTIONS = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "snapshot": "Snapshot",
}
_KEPT_FIELDS = tuple(_ONE_LINE_OPTIONS.values())


def parse_one_line(text: str) -> Iterator[Source]:
    """The binary-package entries of a ``sources.list`` (``deb [options] uri suite comp...``)."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>[^#]*)", line)
        if not match:
            continue
        words = match["rest"].split()
        if len(words) < 3:
            continue
        options = []
        for option in (match["options"] or "").split():
            key, _, value = option.partition("=")
            if field := _ONE_LINE_OPTIONS.get(key.lower()):
                options.append((field, value.replace(",", " ")))
        yield Source((words[0],), (words[1],), tuple(words[2:]), tuple(options))


def parse_deb822(text: str) -> Iterator[Source]:
    """The enabled binary-package entries of a ``*.sources`` file.

    Multi-line values (an inline key below ``Signed-By``) are kept as they are.
    """
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and key:
                fields[key] += "\n" + line
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        options = tuple(
            (name, fields[name.lower()]) for name in _KEPT_FIELDS if name.lower() in fields
        )
        yield Source(
            tuple(fields.get("uris", "").split()),
            tuple(fields.get("suites", "").split()),
            tuple(fields.get("components", "").split()),
            options,
        )


def host_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """All entries that the host's apt is configured with, in apt's order of files."""
    sources: list[Source] = []
    files = [etc_apt / "sources.list"]
    parts = etc_apt / "sources.list.d"
    if parts.is_dir():
        files += sorted(parts.iterdir())
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError:
            continue
        if file.suffix == ".list":
            sources += parse_one_line(text)
        elif file.suffix == ".sources":
            sources += parse_deb822(text)
    return sources


def stanzas_for(suite: str, base: str, sources: Iterable[Source]) -> str:
    """The deb822 text that serves ``suite``, a suite of the release ``base`` (``bookworm``).

    The release itself comes with its configured companions (updates, security);
    another suite (backports) comes from the mirror that serves ``base``.

    Raises LabError where no entry serves ``base``.
    """
    sources = list(sources)
    serving = [source for source in sources if base in source.suites]
    if not serving:
        raise LabError(
            f"no apt source of this host serves {base!r}, so {suite!r} has no known mirror",
            "pass a kernel of your own: --kernel PATH (a .deb, a vmlinuz or an unpacked directory)",
        )
    if suite != base:
        return serving[0].deb822([suite])
    companions = {base, f"{base}-updates", f"{base}-security"}
    return "\n".join(
        source.deb822([name for name in source.suites if name in companions])
        for source in sources
        if companions.intersection(source.suites)
    )


class PrivateApt:
    """apt with its own lists, archives and one source; authentication can't be switched off."""

    def __init__(self, directory: Path, stanzas: str) -> None:
        self._directory = directory
        for name in ("lists/partial", "archives/partial"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        (directory / "lab.sources").write_text(stanzas, encoding="utf-8")
        # The hooks that #clear removes act on the host (package caches, appstream, dbus).
        (directory / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{directory}/lab.sources";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            f'Dir::State "{directory}";\n'
            f'Dir::State::lists "{directory}/lists";\n'
            f'Dir::State::status "{directory}/status";\n'
            f'Dir::Cache "{directory}";\n'
            f'Dir::Cache::archives "{directory}/archives";\n'
            'APT::Get::AllowUnauthenticated "false";\n'
            'Acquire::AllowInsecureRepositories "false";\n'
            'Acquire::Retries "3";\n'
            'Acquire::Languages "none";\n'
            'Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";\n'
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
            "#clear DPkg::Post-Invoke;\n",
            encoding="utf-8",
        )

    def _call(self, *argv: str, cwd: Path | None = None) -> str:
        command = [argv[0], "-c", str(self._directory / "apt.conf"), *argv[1:]]
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise LabError(
                f"{argv[0]!r} is not installed, and mptrace fetches Debian kernels with apt",
                "pass a kernel of your own: --kernel PATH",
            ) from None
        if done.returncode:
            raise LabError(
                f"{shlex.join(argv)!r} failed: {done.stderr.strip() or done.stdout.strip()}",
                "check the network and `apt-get update`, or pass --kernel PATH",
            )
        return done.stdout

    def update(self) -> None:
        """Fetch and authenticate the lists of the source."""
        self._call("apt-get", "-q", "-y", "--error-on=any", "update")

    def show(self, package: str) -> dict[str, str]:
        """The fields of the candidate version of ``package``."""
        text = self._call("apt-cache", "--no-all-versions", "show", package)
        return dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", text, re.MULTILINE))

    def download(self, package: str, into: Path) -> Path:
        """Download ``package`` into the directory ``into``; the path of its .deb."""
        self._call("apt-get", "-q", "download", package, cwd=into)
        debs = sorted(into.glob(f"{package}_*.deb"))
        if not debs:
            raise LabError(f"apt downloaded {package!r} but left no .deb in {str(into)!r}")
        return debs[-1]

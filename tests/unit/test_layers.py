# SPDX-License-Identifier: GPL-2.0-or-later
"""The import directions of docs/architecture.md hold."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mptrace"

#: Lower layers first; a module imports from its own layer or a lower one.
LAYERS = (
    {"__init__", "causes", "errors", "facts", "records", "statuses", "units"},
    {
        "align",
        "arrays",
        "bpf_program",
        "budget",
        "calibrate",
        "candidates",
        "correlate",
        "counting.counts",
        "counting.events",
        "counting.plan",
        "diagnose",
        "doctor",
        "evidence",
        "explain",
        "explain_folios",
        "findings",
        "history",
        "initiators",
        "later",
        "meta",
        "misled",
        "obstacles",
        "own",
        "paths",
        "patterns",
        "places",
        "plan",
        "profile",
        "protocol",
        "refusals",
        "rendering",
        "replay",
        "report",
        "rows",
        "scope",
        "shared_pages",
        "stalls",
        "sums",
        "syscalls",
        "tracepoints.formats",
        "tracepoints.nesting",
        "tracepoints.page_pairs",
        "tracepoints.perf_records",
        "tracepoints.rows",
        "tracepoints.selection",
        "tracepoints.tier",
        "verdicts",
        "workloads",
    },
    {
        "addrspace",
        "bpf_cache",
        "bpf_compiler",
        "bpf_map",
        "bpf_source",
        "command",
        "counting.screen",
        "counting.tracepoints",
        "counting.tracer",
        "driver",
        "foreign",
        "heap",
        "interrupts",
        "joined",
        "kernel",
        "lab",
        "mappers",
        "memory",
        "prepared",
        "processes",
        "pump",
        "recording",
        "ring",
        "rotation",
        "rounds",
        "scenarios",
        "stage",
        "tracepoints.perf_events",
        "tracepoints.threads",
        "tracer",
        "wanted",
        "where",
        "worker",
        "workerclient",
    },
    {
        "bpf_session",
        "conform",
        "counting.session",
        "parts",
        "proved",
        "record",
        "session",
        "tracepoints.session",
    },
    {"__main__", "cli"},
)
#: Third-party module -> the rooms that may import it.
ONLY_IN = {"bcc": {"bpf_compiler"}, "click": {"cli"}, "tabulate": {"report", "rendering"}}
DRIVING = {"driver", "foreign", "memory", "prepared", "rounds", "worker", "workerclient"}
PURE_LAYERS = 2
#: Packages with pure modules and others: each module is a room of its own, __init__ is empty.
MIXED = {"counting", "tracepoints"}


def room(path: Path) -> str:
    """The room of a file: its module, or the package below mptrace that it is in."""
    return room_of(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module by its name's parts below mptrace."""
    return ".".join(parts[: 2 if parts[0] in MIXED else 1])


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    package = ["mptrace", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{name.name}" for name in node.names)}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(["mptrace", *f.relative_to(PACKAGE).with_suffix("").parts]) for f in FILES}


def rooms_imported(path: Path) -> set[str]:
    """Rooms of mptrace that a file imports from, its own left out."""
    rooms = set()
    for name in imports(path):
        parts = name.split(".")
        while (
            parts
            and ".".join(parts) not in MODULES
            and ".".join([*parts, "__init__"]) not in MODULES
        ):
            parts.pop()
        if len(parts) > 1:
            rooms.add(room_of(tuple(parts[1:])))
        elif parts == ["mptrace"]:
            rooms.add("__init__")
    return rooms - {room(path)} - MIXED


def layer(name: str) -> int:
    """Number of the layer of a room; fails for a room that no layer names."""
    for number, rooms in enumerate(LAYERS):
        if name in rooms:
            return number
    raise AssertionError(f"'{name}' is in no layer: add it here and to docs/architecture.md")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_from_its_layer_or_below(path: Path) -> None:
    """No module imports from a layer above its own."""
    above = {other for other in rooms_imported(path) if layer(other) > layer(room(path))}
    assert not above


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_library_is_imported_in_its_room_only(path: Path) -> None:
    """bcc only in bpf_compiler, click only in cli, tabulate only in the report's renderers."""
    for library, rooms in ONLY_IN.items():
        if library in {name.split(".")[0] for name in imports(path)}:
            assert room(path) in rooms, library


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_measured_does_not_know_the_measurer(path: Path) -> None:
    """Driver and tracer never import each other."""
    others = rooms_imported(path)
    if room(path) in DRIVING:
        assert "tracer" not in others
    if room(path) in {"tracer", "ring"}:
        assert not others & DRIVING


def test_every_room_is_documented() -> None:
    """docs/architecture.md names every module."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rooms = {room(path).replace(".", "/") for path in FILES if not path.stem.startswith("__")}
    assert {
        name for name in rooms if f"`{name}.py`" not in text and f"`{name}/`" not in text
    } == set()


@pytest.mark.parametrize(
    "path",
    [f for f in FILES if room(f) in set.union(*LAYERS[:PURE_LAYERS])],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_a_pure_module_asks_the_machine_nothing(path: Path) -> None:
    """Pure modules import no clock, process, file or system-call module."""
    asking = {"ctypes", "mmap", "os", "pathlib", "signal", "socket", "subprocess", "time"}
    assert not asking & {name.split(".")[0] for name in imports(path)}

# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages of docs/architecture.md exist, and import in the directions that stand there."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mptrace"
ALL = "every module"


@dataclass(frozen=True)
class Row:
    """A package, or a module that lies beside the packages, and the rows that it may import.

    ``edge`` names its modules that ask the machine something; the others are pure.
    """

    name: str
    may_import: str = ""
    edge: str = ""


#: Each row imports from rows above it only, so that there is no circle.
ROWS = (
    Row("errors"),
    Row("units", "errors"),
    Row("arrays"),
    Row(
        "recording",
        "arrays errors units",
        edge="clock directory reader rotated rotation series writer",
    ),
    Row(
        "host",
        "arrays errors recording",
        edge="access bpf bpf_support btf elf heap images kept kernel_functions kernel_methods"
        " kernel_symbols kernel_types maps maps_reader names page_nodes parent privileges proc"
        " processes read settings signals symbols topology tracefs",
    ),
    Row("lab", "errors units", edge=ALL),
    # the measured
    Row("driver", "arrays errors", edge=ALL),
    Row(
        "driving",
        "arrays driver errors host recording units",
        edge="address_space in_place memory other_process rounds where worker worker_client",
    ),
    # the measurer
    Row("tracing.plan", "arrays host recording units"),
    Row(
        "tracing.program",
        "errors host recording tracing.plan",
        edge="cache compiler map program ring source",
    ),
    Row("tracer", "arrays recording tracing.plan tracing.program", edge=ALL),
    Row(
        "tracing.tracepoints",
        "arrays errors host recording tracing.plan units",
        edge="perf_events session threads",
    ),
    Row(
        "tracing.counting",
        "arrays errors host tracing.plan tracing.program tracing.tracepoints",
        edge="intervals sampler tracepoints tracer",
    ),
    # what became of each page, and why
    Row("outcomes.causes", "arrays recording"),
    Row("outcomes", "arrays outcomes.causes recording"),
    Row("explain", "arrays errors outcomes outcomes.causes recording units"),
    # both together
    Row(
        "sessions",
        "arrays driving errors host outcomes.causes recording tracer tracing.plan tracing.program"
        " tracing.counting tracing.tracepoints",
        edge=ALL,
    ),
    Row("conform.stage", "driver driving errors host", edge=ALL),
    Row("conform.scenarios", "conform.stage driver errors host", edge=ALL),
    Row(
        "conform",
        "arrays conform.scenarios conform.stage driver driving errors host outcomes outcomes.causes"
        " recording sessions tracer tracing.plan tracing.program units",
        edge="run scenario_client scenario_server watch",
    ),
    # what is printed
    Row("reporting.numbers", "arrays explain outcomes outcomes.causes recording units"),
    Row(
        "reporting.text",
        "conform driving explain host outcomes outcomes.causes reporting.numbers tracing.counting"
        " tracing.plan units",
    ),
    Row("report", "reporting.text"),
    Row(
        "cli",
        "conform conform.scenarios driver driving errors explain host lab outcomes recording"
        " report reporting.numbers reporting.text sessions tracing.counting tracing.plan units",
        edge=ALL,
    ),
    Row("__main__", "cli", edge=ALL),
)
TABLE = {row.name: row for row in ROWS}
#: Third-party module -> the packages, or the module, that may import it.
ONLY_IN = {
    "bcc": {"tracing.program.compiler"},
    "click": {"cli"},
    "prometheus_client": {"cli.exporter", "reporting.text.openmetrics"},
    "tabulate": {"report", "reporting.text"},
}
#: What a pure module doesn't import.
ASKING = {"ctypes", "mmap", "os", "pathlib", "signal", "socket", "subprocess", "time"}


def module_of(path: Path) -> str:
    """The name of a file's module below mptrace, "" for mptrace itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def row_of(module: str) -> str:
    """The name of a module's row: its package, or itself where it lies beside the packages."""
    if FILES[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0] or module


def imported(module: str) -> set[str]:
    """Full names of all that a module imports, wherever in it."""
    path, found = FILES[module], set()
    package = ["mptrace", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{name}.{each.name}" for each in node.names}
    return found


def own_imports(module: str) -> set[str]:
    """Modules of mptrace that a module imports; mptrace itself, which has a number, left out."""
    found = set()
    for name in imported(module):
        parts = name.split(".")
        if parts.pop(0) == "mptrace":
            while ".".join(parts) not in FILES:
                parts.pop()
            found.add(".".join(parts))
    return found - {"", module}


IMPORTS = {module: own_imports(module) for module in FILES}


def is_pure(module: str) -> bool:
    """Whether the table says that a module asks the machine nothing."""
    row = TABLE.get(row_of(module))
    if row is None or row.edge == ALL:
        return row is None
    return module.removeprefix(f"{row.name}.") not in row.edge.split()


def test_the_table_is_what_exists() -> None:
    """A row for each folder with modules, for each module beside them, and no other."""
    rows = {row_of(name) for name, path in FILES.items() if path.name != "__init__.py"}
    assert rows == set(TABLE)
    modules = {f"{row.name}.{name}" for row in ROWS if row.edge != ALL for name in row.edge.split()}
    assert modules <= set(FILES)


def test_a_row_imports_from_rows_above_it() -> None:
    """The table has no circle: what a row may import stands above it."""
    above: set[str] = set()
    for row in ROWS:
        assert set(row.may_import.split()) <= above, row.name
        above.add(row.name)


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_what_its_row_may(module: str) -> None:
    """No module imports from a package that its row doesn't name."""
    others = {row_of(name) for name in IMPORTS[module]} - {row_of(module)}
    row = TABLE.get(row_of(module))
    assert others <= set(row.may_import.split() if row else ())


def test_modules_import_each_other_in_no_circle() -> None:
    """Inside a package neither."""
    rest = dict(IMPORTS)
    while free := {name for name, others in rest.items() if not others & rest.keys()}:
        rest = {name: others for name, others in rest.items() if name not in free}
    assert not rest


@pytest.mark.parametrize("module", FILES)
def test_a_library_is_imported_in_its_place_only(module: str) -> None:
    """bcc in the compiler of programs only, click in cli, tabulate in the renderers, ..."""
    for library, places in ONLY_IN.items():
        if library in {name.split(".")[0] for name in imported(module)}:
            assert places & {module, row_of(module)}, library


@pytest.mark.parametrize("module", FILES)
def test_the_measured_does_not_know_the_measurer(module: str) -> None:
    """Driver and tracer, and what belongs to each, never import each other."""
    measured, measurer = {"driver", "driving"}, {"tracer", "tracing"}
    own = module.split(".")[0]
    others = {name.split(".")[0] for name in IMPORTS[module]}
    if own in measured:
        assert not others & measurer
    if own in measurer:
        assert not others & measured


@pytest.mark.parametrize("module", [name for name in FILES if is_pure(name)])
def test_a_pure_module_asks_the_machine_nothing(module: str) -> None:
    """Pure modules import no clock, process, file or system-call module, nor what does."""
    assert not ASKING & {name.split(".")[0] for name in imported(module)}
    assert {name for name in IMPORTS[module] if not is_pure(name)} == set()


@pytest.mark.parametrize("row", [row.name for row in ROWS if not row.name.startswith("__")])
def test_every_row_is_documented(row: str) -> None:
    """docs/architecture.md names every package."""
    name = row.replace(".", "/")
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert f"`{name}.py`" in text or f"`{name}/`" in text


@pytest.mark.parametrize(
    "path",
    [path for suffix in ("py", "c", "h") for path in sorted(PACKAGE.rglob(f"*.{suffix}"))],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_a_file_is_read_in_one_go(path: Path) -> None:
    """At most 400 lines: a file that outgrows them is split."""
    assert len(path.read_text().splitlines()) <= 400

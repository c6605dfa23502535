"""The floors of the house: which package may import which, who prints, how long things are, and where tests lie.

Imports are read from the source, not from what happens to be loaded. An import inside a function counts like any other:
it is the same arrow, drawn late for the sake of start-up. So does one under `if TYPE_CHECKING`, by which a reader
follows.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import mops_jobs
from mopsjobs.cli.commands import COMMANDS
from support.sources import nodes, statements

ROOT = Path(mops_jobs.__file__).parent
MAX_TEST_NAME = 69
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

FLOORS = (
    ("version", "errors"),
    ("utils",),
    ("console", "engines", "store"),
    ("registry",),
    ("bundles",),
    ("events", "ledger"),
    ("studies",),
    ("cache", "modelops", "submission"),
    ("runner",),
    ("app",),
    ("api", "web"),
    ("cli",),
    ("mops_jobs",),
)
"""Lowest first. A module imports from lower floors, or from its own package; rooms of one floor do not know each other.

`mopsjobs/__init__.py`, which looks the public names up late (PEP 562), belongs to no floor.
"""

OUTSIDE = {
    "azure": "store.azure",
    "boto3": "store.aws",
    "botocore": "store.aws",
    "requests": "store.azure",
    "urllib3": "store.azure",
    "sqlite3": "utils.sqlite_file store.sqlite cache app web cli.commands",
    "sqlite_utils": "cache.schema",
    "tabulate": "console.table",
    "shtab": "cli.commands.care.completion",
    "filelock": "cache.sync.lock engines utils.files",
    "tomllib": "app.run.config engines.worker",
    "pathspec": "bundles.packing",
    "prometheus_client": "app.care.metrics",
    "yaml": "utils.yaml_strict engines.kubernetes.client",
    "lightkube": "engines.kubernetes",
    "distributed": "engines.dask runner.pools",
    "dask": "runner.pools.process",
    "httpx": "engines.kubernetes",
    "flask": "web",
    "werkzeug": "web",
    "waitress": "web.server.server",
    "markupsafe": "web.queries.view_models",
    "argparse": "cli",
    "IPython": "api.live_view",
}
"""Which of our modules, or packages, may import each of these; they are costly, replaceable, or mark a layer."""


class Import(NamedTuple):
    module: str
    line: int


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in [*sorted((ROOT / "mopsjobs").rglob("*.py")), ROOT / "mops_jobs.py"]}
RANKS = {room: rank for rank, floor in enumerate(FLOORS) for room in floor}


def _room(module: str) -> str:
    """Return the package that a module is in, or the module itself; `mopsjobs` for its `__init__.py`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@functools.cache
def _imports(module: str) -> list[Import]:
    """Return everything that a module imports, wherever in it."""
    return [imported for imported, _ in _imports_of(module)]


@functools.cache
def _imports_of(module: str) -> list[tuple[Import, bool]]:
    """Return what a module imports, each with whether only a type checker sees that."""
    blocks = [node for node in statements(_tree(module)) if isinstance(node, ast.If) and _is_for_types(node.test)]
    typed = {line for block in blocks for line in range(block.lineno, (block.end_lineno or 0) + 1)}
    found = []
    for node in statements(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: line {node.lineno} is a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import module` means the module.
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        found += [(Import(name, node.lineno), node.lineno in typed) for name in names]
    return found


def _is_for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _libraries(module: str) -> set[str]:
    """Return the top-level packages that a module imports when it runs: a type costs nothing and ties to nothing."""
    return {imported.module.partition(".")[0] for imported, is_typed in _imports_of(module) if not is_typed}


def _is_within(module: str, places: str) -> bool:
    return any(
        module == name or f"{module}.".startswith(f"{name}.")
        for place in places.split()
        for name in [place if place == "mops_jobs" else f"mopsjobs.{place}"]
    )


def test_a_module_imports_from_lower_floors_alone() -> None:
    """A module imports from lower floors, or within its package. A package without a place in FLOORS is on none."""
    upward = []
    for module in sorted(MODULES.keys() - {"mopsjobs"}):
        room = _room(module)
        for imported in _imports(module):
            if imported.module.partition(".")[0] not in ("mopsjobs", "mops_jobs") or imported.module == "mopsjobs":
                continue
            other = _room(imported.module)
            if other != room and RANKS.get(other, len(FLOORS)) >= RANKS.get(room, -1):
                upward.append(f"{module}, line {imported.line}: {imported.module}")
    assert upward == []


def test_every_floor_is_lived_in() -> None:
    """Each room of FLOORS is there: the list says no more than is true."""
    assert set(RANKS) == {_room(module) for module in MODULES if module != "mopsjobs"}


def test_documents_show_the_same_floors() -> None:
    """The docstring of the package and the diagram of docs/architecture.md have these floors, in this order."""
    docstring = ast.get_docstring(_tree("mopsjobs")) or ""
    listed = [tuple(line.strip().split(", ")) for line in docstring.splitlines() if line.startswith("    ")]
    assert listed == [floor for floor in FLOORS if floor != ("mops_jobs",)]
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Floors")[2].split("```")[1]
    diagram = [re.findall(r"[a-z_]+", line[:27].replace(".py", "")) for line in page.strip().splitlines()]
    assert [tuple(rooms) for rooms in reversed(diagram)] == [tuple(floor) for floor in FLOORS]


def test_the_modules_of_a_package_form_no_circle() -> None:
    """Following the imports of modules never leads back to where they began."""
    below = {
        module: {
            one.module
            for one in _imports(module)
            if one.module in MODULES and one.module != module and not module.startswith(one.module + ".")
        }
        for module in MODULES.keys() - {"mopsjobs"}  # it hands on names, which it looks up late
    }
    done: set[str] = {"mopsjobs"}
    while below.keys() - done:
        ready = {module for module in below.keys() - done if below[module] <= done}
        assert ready, f"a circle among {below.keys() - done}"
        done |= ready


HALLS = ("app", "web", "cli.commands")
"""Packages of several rooms, each of one subject."""


@pytest.mark.parametrize("hall", HALLS)
def test_the_rooms_of_a_hall_form_no_circle(hall: str) -> None:
    """A room whose modules import from another is not imported by it in turn."""
    above: dict[str, set[str]] = {}
    for module in MODULES:
        if module.startswith(f"mopsjobs.{hall}."):
            rooms = {_room_of(imported.module, hall) for imported in _imports(module)}
            above.setdefault(_room_of(module, hall), set()).update(rooms - {"", _room_of(module, hall)})
    assert len(above) > 2
    while above:
        lowest = {room for room, others in above.items() if not others & above.keys()}
        assert lowest, f"a circle among {above.keys()}"
        above = {room: others for room, others in above.items() if room not in lowest}


def _room_of(module: str, hall: str) -> str:
    """Return the room of a module in a hall; "" if it is elsewhere."""
    return module.removeprefix(f"mopsjobs.{hall}.").partition(".")[0] if module.startswith(f"mopsjobs.{hall}.") else ""


@pytest.mark.parametrize("package", OUTSIDE)
def test_each_library_has_its_place(package: str) -> None:
    """An SDK is imported by the one module, or the few, that stand between it and the rest."""
    importers = {module for module in MODULES if package in _libraries(module)}
    assert importers, f"no module imports {package} any more: take it out of this list"
    assert not {module for module in importers if not _is_within(module, OUTSIDE[package])}
    unused = [place for place in OUTSIDE[package].split() if not any(_is_within(one, place) for one in importers)]
    assert not unused, f"{unused} may import {package}, but does not"


def test_nothing_else_comes_from_outside() -> None:
    """Besides those, the standard library is all that is imported."""
    known = {*sys.stdlib_module_names, *OUTSIDE, "mopsjobs", "mops_jobs"}
    assert {library for module in MODULES for library in _libraries(module)} <= known


PROGRAMS = (
    "mops_jobs",
    "mopsjobs.engines.worker",
    "mopsjobs.engines.interpreter_script",
    "mopsjobs.engines.reduce_script",
    "mopsjobs.engines.sampler_script",
)
"""The command, and the scripts that run in the model's interpreter."""


def test_one_module_prints() -> None:
    """`print` and the streams are for console/printer.py, which mops_jobs.py hands them."""
    printing = []
    for module in sorted(MODULES.keys() - {"mopsjobs.console.printer"}):
        names = {"stdout", "stderr"} if module not in PROGRAMS else set()
        for node in nodes(_tree(module)):
            is_print = (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input")
            )
            is_of_sys = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys"
            if is_print or (is_of_sys and node.attr in {"exit", *names} and module != "mops_jobs"):
                printing.append(f"{module}, line {node.lineno}")
    assert printing == []


def test_one_module_ends_the_program() -> None:
    """It is mops_jobs.py, where errors are caught for good. Scripts end too, and a task that has saved."""
    ending, programs = [], {*PROGRAMS, "mopsjobs.api.checkpoint"}
    for module, node in ((name, node) for name in MODULES if name not in programs for node in statements(_tree(name))):
        raised = node.exc if isinstance(node, ast.Raise) else None
        name = raised.func if isinstance(raised, ast.Call) else raised
        if isinstance(name, ast.Name) and name.id in ("SystemExit", "KeyboardInterrupt"):
            ending.append(f"{module}, line {name.lineno}")
    assert ending == []


def test_names_of_tests_are_short() -> None:
    """The name of a test is its claim in short; the docstring has the rest."""
    names = [name for path in TESTS for name in re.findall(r"^ *def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)]
    assert len(names) > 1000
    assert [name for name in names if len(name) > MAX_TEST_NAME] == []


UNIT = sorted((ROOT / "tests" / "unit").rglob("test_*.py"))
OF_COMMANDS = sorted((ROOT / "tests" / "commands").rglob("test_*.py"))


def test_a_unit_test_lies_where_its_module_lies() -> None:
    """A test file is named after a module or a package, and maybe a part of it, in the folder of the same name."""
    assert UNIT
    lost = []
    for path in UNIT:
        folder = ROOT / "mopsjobs" / path.parent.relative_to(ROOT / "tests" / "unit")
        words = path.stem.removeprefix("test_").split("_")
        names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
        if not any((folder / name).is_dir() or (folder / f"{name}.py").is_file() for name in names):
            lost.append(path)
    assert lost == []


def test_a_test_of_a_command_lies_in_the_file_of_the_command() -> None:
    """A file of tests/commands is named after its command, or after the command line, and maybe a part of it."""
    assert OF_COMMANDS
    beginnings = tuple(f"test_{name}_" for name in (*COMMANDS, "command_line"))
    assert [path for path in OF_COMMANDS if not f"{path.stem}_".startswith(beginnings)] == []

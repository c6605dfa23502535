"""`list` must be instant: on a filled cache it imports next to nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import mops_jobs
from support.cli import Cli, Remote, environment, foreign, key
from support.sources import statements

HEAVY = {
    "asyncio", "azure", "base64", "boto3", "botocore", "bz2", "concurrent", "ctypes", "dataclasses", "email",
    "filelock", "hashlib",
    "hmac", "http", "inspect", "jsonschema", "logging", "lzma", "multiprocessing", "pathlib", "platform", "queue",
    "random", "requests", "secrets", "shtab", "shutil", "socket", "sqlite_utils", "ssl", "subprocess", "tabulate",
    "tempfile", "threading", "tomllib", "tqdm", "typing", "typing_extensions", "urllib3", "uuid", "xml", "zipfile",
}  # fmt: skip
"""Modules that cost more than a listing may take, or that a listing has no business with."""

PACKAGE = Path(mops_jobs.__file__).with_name("mopsjobs")

LOOK = """
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv.pop(1))
import mops_jobs
code = mops_jobs.main(sys.argv[1:])
print(*sorted(set(sys.modules) - before), file=sys.stderr)
sys.exit(code)
"""

OF_A_LISTING = {
    "app", "app.jobs", "app.run", "app.run.app", "app.run.cache_access", "app.run.config",
    "app.run.embedded_registry", "app.run.freshness",
    "app.run.job_arguments", "app.run.project_file", "cache", "cache.database", "cache.job_json", "cache.queries",
    "cache.queries.filters", "cache.queries.jobs", "cache.sync_state",
    "cli", "cli.commands", "cli.commands.view", "cli.flags", "cli.parser",
    "console", "console.printer", "console.result", "console.terminal", "errors", "registry", "registry.status",
    "store", "store.urls", "utils", "utils.hosts", "utils.sqlite_file", "utils.text",
    "utils.times", "utils.user_dirs", "version",
}  # fmt: skip
"""Our modules that a view of the cache imports. Each costs a tenth of a millisecond."""

OF_STATUS = {
    "app.jobs.current_jobs", "app.jobs.find_job", "app.jobs.job_card", "app.jobs.next_steps",
    "cache.queries.families", "cli.commands.view.status", "engines", "registry.job_id", "registry.notes",
}  # fmt: skip
"""Those that `status` imports besides. The record is not among them, since it costs `dataclasses`."""

LISTINGS = [
    ("list", "--json"), ("list", "--offline", "--jsonl"), ("list", "--hours", "48", "--json"), ("list", "-q"),
    ("list", "--tsv", "--status", "active", "--label", "a=b", "--match", "x", "--sort", "-updated,name"),
    ("list", "--json", "--name", "a*", "--owner", "ada", "--namespace", "n", "--stuck", "--max-age", "9999d"),
]  # fmt: skip


def _imported(cli: Cli, argv: tuple[str, ...], *, packages: bool = False, code: int = 0) -> set[str]:
    """Return what a run imports on top of a bare interpreter; without site-packages, unless it may use `packages`."""
    directory = mops_jobs.__file__.rpartition("/")[0]
    ran = subprocess.run(
        [sys.executable, "-S", "-c", LOOK, directory, *argv],
        capture_output=True,
        env={**environment(cli), **({"PYTHONPATH": sysconfig.get_path("purelib")} if packages else {})},
        text=True,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    return set(ran.stderr.split())


def _ours(imported: set[str]) -> set[str]:
    return {name.removeprefix("mopsjobs.") for name in imported if name.startswith("mopsjobs.")}


@pytest.mark.parametrize("argv", LISTINGS, ids=" ".join)
def test_a_listing_imports_next_to_nothing(cli: Cli, remote: Remote, argv: tuple[str, ...]) -> None:
    """On a filled cache of a registry in Azure, `list` runs on the standard library alone, and on little of that."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    imported = _imported(cli, argv)
    assert not {name for name in imported if name.partition(".")[0] in HEAVY}
    assert _ours(imported) - {"cache.queries.matching"} == OF_A_LISTING | {
        "app.jobs.current_jobs",
        "cli.commands.view.list",
    }


NETWORK = {"email", "http", "multiprocessing", "requests", "socket", "ssl", "urllib3", "mopsjobs.store.network"}


def test_a_listing_of_the_embedded_registry_imports_no_network(cli: Cli) -> None:
    """It syncs each time, from a file of this machine."""
    cli.ok("register", "a")
    imported = _imported(cli, ("list", "--json"), packages=True)
    assert "mopsjobs.cache.sync.mirror" in imported
    assert imported & (NETWORK | {"urllib.request"}) == set()


def test_a_listing_of_an_unchanged_embedded_registry_imports_no_registry(cli: Cli) -> None:
    """Its file tells that the cache is right."""
    cli.ok("register", "a")
    registry = cli.cache.with_name("registry.db")
    then = registry.stat().st_mtime - 60
    os.utime(registry, (then, then))
    assert "mopsjobs.cache.sync.mirror" in _imported(cli, ("list", "--json"), packages=True)
    imported = _imported(cli, ("list", "--json"))
    assert not {name for name in imported if name.partition(".")[0] in HEAVY}
    assert _ours(imported) - {"cache.queries.matching"} == OF_A_LISTING | {
        "app.jobs.current_jobs",
        "cli.commands.view.list",
    }


def test_a_table_adds_tabulate_alone(cli: Cli, remote: Remote) -> None:
    """A table is made by tabulate, without what tabulate imports for other things than such a table."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    imported = _imported(cli, ("list",), packages=True)
    assert {name.partition(".")[0] for name in imported} & HEAVY == {"tabulate"}
    assert not {name for name in imported if name.startswith(("html", "importlib.metadata", "unicodedata"))}


def _run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that imports mopsjobs, in a process of its own. It has to end with 0."""
    return subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )


AFTER_A_TABLE = """
import mopsjobs.console.table
tabulate = mopsjobs.console.table.import_tabulate()
from importlib.metadata import version, files
import dataclasses
Row = dataclasses.make_dataclass("Row", ["name"])
print(version("tabulate"))
print(tabulate.tabulate([Row("<a>")], headers="keys", tablefmt="html"))
"""


def test_modules_and_tabulate_are_whole_after_a_table() -> None:
    """The stand-ins that tabulate was given are gone. What a program then wants of it is done by the real modules."""
    first, *table = _run(AFTER_A_TABLE).stdout.splitlines()
    assert first == metadata.version("tabulate")
    assert "".join(table).count("&lt;a&gt;") == 1


A_TABLE_BESIDE_A_THREAD = """
import sys
import threading
import mopsjobs.console.table

is_imported = threading.Event()


def use():
    is_imported.wait()
    from dataclasses import dataclass
    from html import unescape
    from importlib.metadata import files
    print("whole")


def import_beside(event, args):
    if event == "import" and args[0] == "tabulate":
        is_imported.set()
        thread.join()


thread = threading.Thread(target=use)
thread.start()
sys.addaudithook(import_beside)
mopsjobs.console.table.import_tabulate()
"""


def test_other_threads_get_whole_modules_during_a_table() -> None:
    """A thread may import an SDK while the main thread imports tabulate. A stand-in would end that with an error."""
    ran = _run(A_TABLE_BESIDE_A_THREAD)
    assert ran.stdout == "whole\n", ran.stderr


@pytest.mark.parametrize("argv", [("status", "a"), ("status", "a", "--json")], ids=" ".join)
def test_a_cached_job_is_shown_without_any_sdk(cli: Cli, remote: Remote, argv: tuple[str, ...]) -> None:
    """`status` of a job in the cache imports no library, no store and no record, and little besides a listing."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    imported = _imported(cli, argv)
    assert not {name for name in imported if name.partition(".")[0] in HEAVY - {"typing"}}
    assert _ours(imported) == OF_A_LISTING | OF_STATUS


@pytest.mark.parametrize("argv", [("list",), ("sync", "-q")], ids=" ".join)
def test_a_new_cache_needs_no_sqlite_utils(cli: Cli, argv: tuple[str, ...]) -> None:
    """Its import takes a third of a second where numpy is installed, which it looks for."""
    imported = _imported(cli, argv, packages=True)
    assert "mopsjobs.cache.sync.mirror" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("sqlite_utils", "click", "numpy")}


@pytest.mark.parametrize("argv", [("--version",), ("list", "--fields"), ("schema", "job")], ids=" ".join)
def test_what_needs_no_registry_opens_none(cli: Cli, argv: tuple[str, ...]) -> None:
    """What can be said without a registry imports neither a backend nor a library."""
    imported = _imported(cli, argv)
    assert not {name for name in imported if name.startswith(("azure", "sqlite_utils", "filelock", "tabulate"))}


def test_a_command_imports_no_other_command(cli: Cli, remote: Remote) -> None:
    """`config show` imports its own module of the commands alone, and no SDK."""
    imported = _imported(cli, ("config", "show", "--json"))
    commands = {name for name in imported if name.startswith("mopsjobs.cli.commands.")}
    assert commands == {"mopsjobs.cli.commands.care", "mopsjobs.cli.commands.care.config"}
    assert not {name for name in imported if name.startswith(("azure", "sqlite_utils", "tqdm"))}


def test_only_modules_of_a_listing_assign_type_checking(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """They do without `typing`, which costs a listing 3 ms. Every other module imports the name from there."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    imported = _imported(cli, ("list",), packages=True)
    for url in ("dynamodb://jobs", "s3://jobs/a"):
        argv = ("list", "--registry", url, "--cache", str(tmp_path / "other.db"), "--offline")
        imported |= _imported(cli, argv, code=5)
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    assigning = {
        name.removesuffix(".__init__")
        for path, name in names.items()
        if "\nTYPE_CHECKING = False\n" in path.read_text(encoding="utf-8")
    }
    assert "mopsjobs.cli.flags" in assigning
    assert assigning - imported == set()


def _imports(path: Path) -> tuple[set[str], set[str]]:
    """Return the modules that a file may import whole, and those from which it imports names."""
    imports = [node for node in statements(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{name.name}" for node in imports for name in node.names}, {
        str(node.module) for node in imports
    }


def test_a_module_is_imported_whole_or_by_its_names() -> None:
    """A file that did both would call one thing by two names."""
    imports = {path: _imports(path) for path in PACKAGE.rglob("*.py")}
    assert imports
    assert {path: both for path, (whole, by_name) in imports.items() if (both := whole & by_name)} == {}


def test_every_imported_package_is_declared() -> None:
    """In `pyproject.toml`, unless the program of the user brings it, or a declared one is its other half."""
    project = tomllib.loads(PACKAGE.with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = (project["dependencies"], *project["optional-dependencies"].values())
    declared = {re.split(r"[<>=]", name)[0].lower() for names in lists for name in names}
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in statements(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    packages = metadata.packages_distributions()
    undeclared = {
        name
        for name in imported - sys.stdlib_module_names - {"mopsjobs"}
        if declared.isdisjoint(package.lower().replace("_", "-") for package in packages.get(name, []))
    }
    assert undeclared == {"IPython", "pandas", "polars", "botocore", "dask"}


def test_a_unit_test_runs_with_pytest_alone(tmp_path: Path) -> None:
    """`tests/conftest.py` imports neither servers nor libraries: each fixture imports what it needs."""
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        package = metadata.distribution(name)
        for top in {path.parts[0] for path in package.files or ()} - {"..", "__pycache__"}:
            (tmp_path / top).symlink_to(str(package.locate_file(top)))
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import pytest; sys.exit(pytest.main())"
    units = ("registry/test_transitions.py", "studies/test_reductions.py")
    argv = [sys.executable, "-S", "-c", program, "-q", f"--basetemp={tmp_path / 'run'}"]
    argv += [f"tests/unit/{unit}" for unit in units]
    ran = subprocess.run(argv, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout

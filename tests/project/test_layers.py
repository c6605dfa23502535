"""The layers, as arrows that can be run: who imports whom, who prints, and how long things are.

Read from the source, not from what happens to be loaded: an import inside a function counts like any other, since it is
the same arrow, drawn late for the sake of start-up. An import under `if TYPE_CHECKING` does not count, since it is not
there when the program runs: it names what is handed in from above, such as the registry of a context.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

import pytest

import mops_jobs

ROOT = Path(mops_jobs.__file__).parent
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50

ARROWS = {
    "mopsjobs": "",
    "mopsjobs.errors": "",
    "mopsjobs.private": "",
    "mopsjobs.sqlite_file": "whole_file",
    "mopsjobs.whole_file": "private",
    "mopsjobs.times": "errors",
    "mopsjobs.status": "errors",
    "mopsjobs.outcome": "errors",
    "mopsjobs.environment": "",
    "mopsjobs.memory": "",
    "mopsjobs.job": "errors status times strict_json",
    "mopsjobs.strict_json": "errors",
    "mopsjobs.rules": "errors status job times",
    "mopsjobs.store": (
        "directories errors store.memory store.sqlite store.azure store.azure_url store.dynamodb store.dynamodb_url"
    ),
    "mopsjobs.store.base": "errors",
    "mopsjobs.store.cas": "errors store.base",
    "mopsjobs.store.memory": "errors store.base",
    "mopsjobs.store.sqlite": "errors private store.base store.thread_connection sqlite_file",
    "mopsjobs.store.thread_connection": "errors sqlite_file",
    "mopsjobs.store.azure": (
        "mopsjobs errors store.base store.azure_credentials store.azure_errors store.azure_inline store.azure_listing"
        " store.azure_transport store.outages"
    ),
    "mopsjobs.store.azure_errors": "errors store.outages",
    "mopsjobs.store.azure_inline": "",
    "mopsjobs.store.azure_listing": "store.azure_inline",
    "mopsjobs.store.outages": "errors",
    "mopsjobs.store.azure_credentials": "errors store.azure_url",
    "mopsjobs.store.azure_url": "errors",
    "mopsjobs.store.azure_transport": "errors store.outages",
    "mopsjobs.store.dynamodb": "errors store.base store.dynamodb_errors store.outages",
    "mopsjobs.store.dynamodb_errors": "errors store.outages",
    "mopsjobs.store.dynamodb_url": "errors",
    "mopsjobs.delivery": "errors store.base",
    "mopsjobs.documents": "errors store.base store.cas strict_json",
    "mopsjobs.changes": "errors job store.base",
    "mopsjobs.registry": "errors status times job rules changes store.base store.cas",
    "mopsjobs.chunks": "errors times job strict_json",
    "mopsjobs.events": "errors times job store.base chunks",
    "mopsjobs.cache": "",
    "mopsjobs.cache.queries": "errors status times job cache.matching",
    "mopsjobs.cache.matching": "errors",
    "mopsjobs.cache.counters": "cache.state",
    "mopsjobs.cache.tallies": "",
    "mopsjobs.cache.pruning": "cache.state cache.tallies",
    "mopsjobs.cache.rows": (
        "errors status times job store.base cache.counters cache.pruning cache.queries cache.tallies"
    ),
    "mopsjobs.cache.statistics": "status cache.queries",
    "mopsjobs.cache.streaming": "cache.queries cache.state",
    "mopsjobs.cache.asking": "errors",
    "mopsjobs.cache.words": "",
    "mopsjobs.cache.schema": "cache.tallies",
    "mopsjobs.cache.file": "errors private cache.matching cache.schema sqlite_file",
    "mopsjobs.cache.state": "",
    "mopsjobs.cache.taking": "job store.base cache.pruning cache.rows cache.tallies",
    "mopsjobs.cache.merge": "errors job changes registry store.base cache.rows cache.state cache.taking",
    "mopsjobs.cache.delta": "errors registry store.base cache.merge cache.rows cache.state cache.taking",
    "mopsjobs.cache.witnesses": "errors times job registry cache.file cache.state",
    "mopsjobs.cache.mirror": (
        "errors times changes registry store.base cache.counters cache.delta cache.file cache.merge cache.rows"
        " cache.state cache.witnesses cache.taking"
    ),
    "mopsjobs.cache.sync_lock": "cache.file private times",
    "mopsjobs.cache.events": "errors times store.base chunks cache.pruning cache.state",
    "mopsjobs.submit": "",
    "mopsjobs.submit.seeds": "",
    "mopsjobs.submit.study": "errors strict_json submit.seeds submit.yaml_text",
    "mopsjobs.submit.yaml_text": "errors strict_json",
    "mopsjobs.submit.ignore": "",
    "mopsjobs.submit.unpack": "errors",
    "mopsjobs.submit.bundle": "errors private store.base submit.ignore submit.unpack whole_file",
    "mopsjobs.submit.kept": (
        "delivery errors outputs registry status store.base store.sqlite whole_file job strict_json times"
    ),
    "mopsjobs.submit.family": "errors job outputs registry store.base",
    "mopsjobs.submit.table": "csv_text output_directory outputs store.base submit.seeds submit.study",
    "mopsjobs.submit.client": (
        "errors times status outputs registry store.base store.sqlite engines.base submit.bundle submit.kept"
        " submit.study"
    ),
    "mopsjobs.output_directory": "whole_file",
    "mopsjobs.outputs": "errors job store.base strict_json submit.study",
    "mopsjobs.validation": "errors times status job outputs registry store.base",
    "mopsjobs.engines": "errors engines.local engines.kubernetes engines.dask",
    "mopsjobs.engines.base": "",
    "mopsjobs.engines.trust": "errors private whole_file",
    "mopsjobs.engines.local": "directories errors private engines.base engines.trust whole_file",
    "mopsjobs.engines.child": "environment errors",
    "mopsjobs.engines.dask_client": "environment errors engines.child",
    "mopsjobs.engines.dask": "errors engines.base engines.dask_client engines.local",
    "mopsjobs.engines.ask": "errors engines engines.base engines.local engines.kubernetes",
    "mopsjobs.engines.k8s_manifest": "errors engines.base",
    "mopsjobs.engines.k8s_client": "directories errors",
    "mopsjobs.engines.k8s_logs": "errors times engines.k8s_client engines.k8s_manifest",
    "mopsjobs.engines.kubernetes": (
        "errors times engines.base engines.k8s_client engines.k8s_logs engines.k8s_manifest engines.local engines.trust"
    ),
    "mopsjobs.reconcile": "errors job outputs registry status times validation engines.base",
    "mopsjobs.runner": "",
    "mopsjobs.runner.worker": "",
    "mopsjobs.runner.model": "errors",
    "mopsjobs.runner.pool": "runner.model submit.study",
    "mopsjobs.runner.dask_task": "",
    "mopsjobs.runner.dask_pool": "errors engines.dask_client runner.model runner.pool submit.study",
    "mopsjobs.runner.dask_child": "engines.child runner.dask_pool runner.model runner.pool submit.study",
    "mopsjobs.runner.dask_process": ("errors engines.child engines.dask_client runner.model runner.pool submit.study"),
    "mopsjobs.runner.patience": "errors",
    "mopsjobs.runner.spool": "delivery errors store.base",
    "mopsjobs.runner.manifest": "advice errors outputs runner.patience",
    "mopsjobs.runner.reporter": "errors job registry rules",
    "mopsjobs.runner.pools": (
        "environment outputs private submit.bundle submit.unpack runner.patience runner.pool runner.dask_process"
    ),
    "mopsjobs.runner.run": (
        "errors status times rules job events outputs registry validation store.base store.sqlite submit.kept"
        " submit.study submit.unpack runner.manifest runner.model runner.patience runner.pool runner.pools"
        " runner.reporter runner.spool"
    ),
    "mopsjobs.terminal": "",
    "mopsjobs.output": "errors terminal csv_text",
    "mopsjobs.csv_text": "terminal",
    "mopsjobs.metrics": (
        "mopsjobs errors status times whole_file cache.counters cache.file cache.queries cache.statistics terminal"
    ),
    "mopsjobs.config": "directories errors project_file times store",
    "mopsjobs.project_file": "directories errors",
    "mopsjobs.directories": "errors",
    "mopsjobs.freshness": "times",
    "mopsjobs.embedded": "directories errors sqlite_file store config output cache.file cache.witnesses",
    "mopsjobs.context": (
        "directories errors sqlite_file times store config output freshness registry events embedded cache.counters"
        " cache.file cache.mirror cache.queries cache.events cache.sync_lock"
    ),
    "mopsjobs.retention": "errors times changes chunks registry store.base",
    "mopsjobs.feed": "errors status times job context freshness output cache.queries cache.events cache.pruning",
    "mopsjobs.foreground": "context engines.local private runner.run",
    "mopsjobs.naming": "advice errors job context freshness cache.queries engines.local submit.kept",
    "mopsjobs.waiting": "advice errors status terminal times job outcome context naming engines.local cache.queries",
    "mopsjobs.commands": "",
    "mopsjobs.commands.arguments": "errors status times freshness cache.queries",
    "mopsjobs.commands.cluster": "errors",
    "mopsjobs.commands.trusting": "errors context engines.base engines.kubernetes engines.trust",
    "mopsjobs.commands.job_table": "output times context",
    "mopsjobs.commands.launching": (
        "environment commands.arguments errors times context engines.dask_client runner.pools submit.bundle"
    ),
    "mopsjobs.advice": "engines.k8s_manifest",
    "mopsjobs.cache.pages": "cache.events cache.queries",
    "mopsjobs.cache.charts": "cache.queries cache.statistics",
    "mopsjobs.web": "",
    "mopsjobs.web.svg": "",
    "mopsjobs.web.security": "",
    "mopsjobs.web.asked": "errors cache.queries commands.arguments",
    "mopsjobs.web.live": "errors context cache.file sqlite_file",
    "mopsjobs.web.site": "errors times context freshness web.live cache.state web.readers",
    "mopsjobs.web.shown": "status terminal times feed cache.charts cache.events web.svg",
    "mopsjobs.web.readers": "context cache.file sqlite_file",
    "mopsjobs.web.stream": "errors cache.events web.shown web.site",
    "mopsjobs.web.preload": "cache.file web.openapi",
    "mopsjobs.web.openapi": "mopsjobs status cache.queries commands.arguments web.asked",
    "mopsjobs.web.api": (
        "errors metrics output freshness cache.events cache.queries commands.arguments web.asked web.openapi web.site"
    ),
    "mopsjobs.web.app": (
        "mopsjobs errors terminal freshness advice cache.charts cache.events cache.pages cache.queries web.api"
        " web.asked web.preload web.security web.shown web.site web.stream"
    ),
    "mopsjobs.web.connections": "",
    "mopsjobs.web.server": (
        "errors context memory web.api web.app web.connections web.live web.security web.site web.stream"
    ),
    "mops_jobs": "mopsjobs errors output config context commands commands.arguments",
}
"""What each module may import of ours. Nothing else, and a module that is not here is a command."""

COMMANDS_MAY = (
    "mopsjobs errors times status job outcome output terminal context freshness store cache.queries cache.rows"
    " cache.taking cache.events cache.witnesses feed"
    " commands.arguments commands.cluster commands.job_table commands.launching commands.trusting"
    " engines engines.trust engines.k8s_client runner.pools"
    " engines.ask engines.base engines.dask_client engines.local engines.k8s_manifest engines.kubernetes"
    " foreground output_directory outputs reconcile runner.model runner.run submit.bundle submit.client submit.family"
    " submit.kept"
    " submit.study submit.table submit.unpack validation naming waiting store.base cache.asking cache.pruning"
    " cache.statistics cache.streaming metrics advice web.security web.server cache.words"
    " submit.study submit.table submit.unpack validation naming waiting store.base cache.asking cache.pages"
    " cache.pruning cache.statistics cache.streaming csv_text metrics advice web.security web.server cache.words"
    " changes retention memory"
)

OUTSIDE = {
    "azure": "store.azure store.azure_credentials store.azure_errors store.azure_transport",
    "boto3": "store.dynamodb",
    "botocore": "store.dynamodb store.dynamodb_errors",
    "requests": "store.azure_errors store.azure_transport",
    "urllib3": "store.azure_errors store.azure_transport",
    "sqlite3": (
        "sqlite_file store.sqlite store.thread_connection cache.charts cache.delta cache.file cache.merge"
        " cache.mirror cache.pages cache.queries cache.rows cache.schema cache.state cache.taking cache.witnesses"
        " cache.events context cache.asking cache.counters cache.matching cache.pruning cache.statistics"
        " cache.streaming metrics feed commands.cancel commands.doctor commands.export commands.listing"
        " commands.metrics commands.prune commands.query commands.status commands.summary commands.version"
        " commands.watch web.api web.app web.live web.readers web.site cache.tallies cache.words"
    ),
    "sqlite_utils": "cache.schema",
    "tabulate": "output",
    "tqdm": "output",
    "shtab": "commands.completion",
    "filelock": "cache.sync_lock engines.local",
    "tomllib": "config",
    "pathspec": "submit.ignore",
    "prometheus_client": "metrics",
    "yaml": "submit.yaml_text engines.k8s_client",
    "lightkube": "engines.k8s_client",
    "distributed": "engines.dask_client runner.dask_pool runner.dask_task",
    "httpx": "engines.k8s_client",
    "flask": "web.api web.app web.preload web.security web.stream",
    "werkzeug": "web.app",
    "waitress": "web.connections",
    "markupsafe": "web.shown",
    "argparse": "mops_jobs context commands commands.* web.asked",
}
"""Which of our modules may import each of these; they are costly, replaceable, or mark a layer."""


class Import(NamedTuple):
    module: str
    line: int


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in [*sorted((ROOT / "mopsjobs").rglob("*.py")), ROOT / "mops_jobs.py"]}


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@functools.cache
def _imports(module: str) -> list[Import]:
    """Everything that a module imports when it runs, wherever in it."""
    skipped = {node for block in ast.walk(_tree(module)) if _is_for_types(block) for node in _lines(block)}
    found = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: line {node.lineno} is a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import module` means the module.
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        found += [Import(name, node.lineno) for name in names if node.lineno not in skipped]
    return found


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _lines(node: ast.AST) -> range:
    return range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]


def _ours(names: str) -> set[str]:
    return {name if name in ("mopsjobs", "mops_jobs") else f"mopsjobs.{name}" for name in names.split()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    """A module imports only what lies below it; backends and commands do not know each other."""
    is_command = module.startswith("mopsjobs.commands.") and module not in ARROWS
    assert is_command or module in ARROWS, f"{module} has no place in the layers yet: give it one here"
    allowed = _ours(COMMANDS_MAY if is_command else ARROWS[module])
    for imported in _imports(module):
        if imported.module.partition(".")[0] in ("mopsjobs", "mops_jobs"):
            assert imported.module in allowed, f"{module}, line {imported.line}, imports {imported.module}"


@pytest.mark.parametrize("package", OUTSIDE)
def test_each_library_has_its_place(package: str) -> None:
    """An SDK is imported by the one module, or the few, that stand between it and the rest."""
    allowed = _ours(OUTSIDE[package])
    importers = {module for module in MODULES for one in _imports(module) if one.module.partition(".")[0] == package}
    if "mopsjobs.commands.*" in allowed:
        importers = {module for module in importers if not module.startswith("mopsjobs.commands.")}
    assert importers <= allowed
    assert importers, f"nobody imports {package} any more: take it out of this list"


def test_nothing_else_comes_from_outside() -> None:
    """Besides those, the standard library is all that is imported."""
    import sys

    known = {*sys.stdlib_module_names, *OUTSIDE, "mopsjobs", "mops_jobs"}
    imported = {one.module.partition(".")[0] for module in MODULES for one in _imports(module)}
    assert imported <= known


def test_every_arrow_is_used() -> None:
    """The table says no more than is true: every module in it exists, and imports what it may."""
    for module, names in ARROWS.items():
        unused = _ours(names) - {one.module for one in _imports(module)}
        assert not unused, f"{module} may import {unused}, but does not"


def test_the_arrows_have_no_circle_but_one() -> None:
    """Layers are layers: following the arrows never leads back, but for a cache file that is built when missing."""
    below = {module: _ours(names) for module, names in ARROWS.items()}
    below["mopsjobs.cache.schema"] = set()  # it takes the number of the schema from the module that calls it
    done: set[str] = set()
    while done != below.keys():
        ready = {module for module in below.keys() - done if below[module] <= done}
        assert ready, f"a circle among {below.keys() - done}"
        done |= ready


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"mopsjobs.output"}))
def test_one_module_prints(module: str) -> None:
    """`print` and the streams are for output.py, which mops_jobs.py hands them; the worker is a program of its own."""
    names = {"stdout", "stderr"} if module not in ("mops_jobs", "mopsjobs.runner.worker") else set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input"), f"{module}, line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            assert node.attr not in {"exit", *names} or module == "mops_jobs", f"{module}, line {node.lineno}"


def test_one_module_ends_the_program() -> None:
    """The process ends in mops_jobs.py alone, where errors are caught for good; and in the worker, its own program."""
    for module in MODULES.keys() - {"mops_jobs", "mopsjobs.runner.worker"}:
        for node in ast.walk(_tree(module)):
            raised = node.exc if isinstance(node, ast.Raise) else None
            name = raised.func if isinstance(raised, ast.Call) else raised
            assert not (isinstance(name, ast.Name) and name.id in ("SystemExit", "KeyboardInterrupt")), module


@pytest.mark.parametrize("module", MODULES)
def test_no_module_and_no_function_is_too_long(module: str) -> None:
    """A module above 400 lines or a function above 50 is asking for a better cut. Docstrings count for nobody."""
    text = MODULES[module].read_text("utf-8")
    assert text.count("\n") <= MAX_MODULE_LINES
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            body = node.body[1:] if documented and len(node.body) > 1 else node.body
            length = (body[0].lineno - node.body[0].lineno if documented else 0) or 0
            assert len(_lines(node)) - length <= MAX_FUNCTION_LINES, f"{node.name}, line {node.lineno}"

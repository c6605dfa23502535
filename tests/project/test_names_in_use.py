"""The names of mopsjobs that benchmarks and reliability runs use: CI runs few of them, and mypy reads none."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from support.sources import nodes, statements

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(path for folder in ("bench", "reliability", "docs/tools") for path in (ROOT / folder).rglob("*.py"))


def test_each_name_of_mopsjobs_in_use_exists() -> None:
    """Each imported name, each attribute of a module or a class, and each named argument of a call."""
    assert PROGRAMS
    assert [f"{path}, {missing}" for path in PROGRAMS for missing in _missing(path)] == []


def _missing(path: Path) -> Iterator[str]:
    """Yield the names that a program uses and that do not exist."""
    tree = ast.parse(path.read_text("utf-8"))
    imported = dict(_imported(tree))
    for node in nodes(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            owner = imported[node.value.id]
            if (inspect.ismodule(owner) or inspect.isclass(owner)) and not _has(owner, node.attr):
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        if isinstance(node, ast.Call):
            accepted = _parameters(_called(node.func, imported))
            named = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            yield from (f"line {node.lineno}: {name}=" for name in sorted(named - accepted) if accepted)


def _imported(tree: ast.Module) -> Iterator[tuple[str, object]]:
    """Yield each name that a module imports from mopsjobs, and its object."""
    for node in statements(tree):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] != "mopsjobs":
            continue
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            if not hasattr(module, alias.name):  # a module of a package
                importlib.import_module(f"{node.module}.{alias.name}")
            yield alias.asname or alias.name, getattr(module, alias.name)


def _has(owner: object, name: str) -> bool:
    """Return whether a module or a class has a name. Fields without a default are annotations only."""
    return hasattr(owner, name) or name in getattr(owner, "__annotations__", ())


def _called(function: ast.expr, imported: dict[str, object]) -> object:
    """Return what is called; None if it is not of mopsjobs."""
    if isinstance(function, ast.Name):
        return imported.get(function.id)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return getattr(imported.get(function.value.id), function.attr, None)
    return None


def _parameters(called: object) -> set[str]:
    """Return the names of the parameters; none if any name is accepted, or nothing is known."""
    try:
        parameters = inspect.signature(called).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return set()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return set()
    return set(parameters)

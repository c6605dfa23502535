"""The syntax trees of sources, walked faster than by `ast.walk`: tests look at every module of the package."""

from __future__ import annotations

import ast

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def nodes(tree: ast.AST) -> list[ast.AST]:
    """Return all nodes of a tree."""
    found = [tree]
    for node in found:
        for value in vars(node).values():
            if isinstance(value, list):
                found += [child for child in value if isinstance(child, ast.AST)]
            elif isinstance(value, ast.AST):
                found.append(value)
    return found


def statements(tree: ast.AST) -> list[ast.AST]:
    """Return the nodes of a tree that are statements, such as imports, and those that have some: one in ten."""
    found = [tree]
    for node in found:
        for block in _BLOCKS:
            inner = getattr(node, block, ())
            if isinstance(inner, list):  # a conditional expression has one expression there
                found += inner
    return found

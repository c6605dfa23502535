"""Read the prose of a Python source: its docstrings and comments, as blocks of one line."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from typing import TYPE_CHECKING, NamedTuple

from support.docs import Block

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STARTS_A_BLOCK = re.compile(r"(?:[-*]|\d+\.) ")
_ROW = re.compile(r"\S {3,}\S")
_SECTION = re.compile(r"(?:Raises|Args|Returns|Yields):$")
_ENTRY = re.compile(r"\w+(?:Error|Exception|Interrupt): ")

_KINDS: dict[type[ast.AST], str] = {
    ast.Module: "module",
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
}


class Docstring(NamedTuple):
    """A docstring: `kind` is `module`, `class`, `function` or `value`. The name of a value is empty."""

    line: int
    kind: str
    name: str
    text: str


def docstrings(nodes: Iterable[ast.AST]) -> Iterator[Docstring]:
    """Yield each docstring of a source, also of the values that have one in the line below."""
    for node in nodes:
        body = getattr(node, "body", None)
        for number, statement in enumerate(body if isinstance(body, list) else []):
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                continue
            if isinstance(statement.value.value, str):
                kind = _KINDS.get(type(node), "value") if number == 0 else "value"
                name = getattr(node, "name", "") if number == 0 else ""
                yield Docstring(statement.lineno, kind, name, inspect.cleandoc(statement.value.value))


def docstring_blocks(docstring: Docstring) -> Iterator[Block]:
    """Yield the prose of a docstring: paragraphs, items of a list, entries of `Raises:`, rows, and indented lines.

    A line that is indented deeper continues the line above.
    """
    lines: list[str] = []
    start, indent = docstring.line, 0
    for number, line in enumerate([*docstring.text.split("\n"), ""], start=docstring.line):
        words = line.strip()
        depth = len(line) - len(line.lstrip())
        begins = (
            not words
            or _STARTS_A_BLOCK.match(words)
            or _ROW.search(words)
            or depth < indent
            or (depth and depth == indent)
        )
        if lines and (begins or _SECTION.match(lines[0])):
            yield Block(start, " ".join(lines))
            lines = []
        if words:
            if not lines:
                start, indent = number, depth
            lines.append(words if lines else _ENTRY.sub("", _STARTS_A_BLOCK.sub("", words, count=1), count=1))


def comments(source: str) -> Iterator[Block]:
    """Yield the comments, those of adjacent lines as one."""
    block: list[str] = []
    start, place = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        stands_alone = token.line.strip().startswith("#")
        if block and not (stands_alone and token.start == (place[0] + 1, place[1])):
            yield Block(start, " ".join(block))
            block = []
        if not block:
            start = token.start[0]
        block.append(token.string.lstrip("#!: "))
        place = token.start
    if block:
        yield Block(start, " ".join(block))

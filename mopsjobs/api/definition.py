"""The source of one function or class of a notebook or a script, as it was when it was defined."""

from __future__ import annotations
import __future__

import ast
import inspect
import symtable
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

HOME = "__main__"
"""The module of notebooks and scripts."""

_FUTURE_FLAGS = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

_NOT_KNOWN = "its source is not known here, as after %%time, exec or an interactive prompt"

_NO_STATEMENT = "a function within a larger statement; define it with def, or as name = lambda"


class NoSourceError(Exception):
    """The source of a function or class cannot be used. The text says why, as a clause."""


class Definition(NamedTuple):
    """The source of a function or a class, as the notebook has it."""

    name: str
    """The name that it defines."""
    text: str
    tree: ast.Module
    is_decorated: bool


def read_definition(value: types.FunctionType | type) -> Definition:
    """Return the source of a function or a class.

    Raises:
        NoSourceError: if it is not known, or not that of this function.
    """
    return _read_class(value) if isinstance(value, type) else _read_function(value)


def namespace_of(value: Any) -> dict[str, Any]:
    """Return the variables that a function or a class sees: those of its module, and of functions around it."""
    if isinstance(value, type):
        return vars(sys.modules[HOME])
    around: dict[str, Any] = {}
    for name, variable in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            around[name] = variable.cell_contents
        except ValueError:  # not assigned yet
            continue
    return {**value.__globals__, **around}


def _read_function(function: types.FunctionType) -> Definition:
    try:
        text, lines = inspect.getsource(function), inspect.findsource(function)[0]
    except (OSError, TypeError):
        raise NoSourceError(_NOT_KNOWN) from None
    definition = _parse(text)
    node = definition.tree.body[0]
    if not isinstance(node.value if isinstance(node, ast.Assign) else node, _FUNCTIONS):
        raise NoSourceError(_NO_STATEMENT)
    code = function.__code__
    # The code of a call depends on imports beside the function. IPython compiles each statement of a cell alone.
    found = (one for source in (definition.text, "".join(lines)) for one in _codes(source, code))
    if function.__closure__ is None and not any(_is_same_code(one, code) for one in found):
        raise NoSourceError("its source has changed since it was defined")
    if changed := _changed_defaults(node.value if isinstance(node, ast.Assign) else node, function):
        raise NoSourceError(f"{changed[0]}, a default of an argument, has changed since it was defined")
    return definition


def _changed_defaults(node: ast.AST, function: types.FunctionType) -> list[str]:
    """Return the names in defaults of a function that have another value now: the file would evaluate them again."""
    assert isinstance(node, _FUNCTIONS)  # noqa: S101 - the caller has checked it
    arguments, namespace = node.args, namespace_of(function)
    by_name = function.__kwdefaults__ or {}
    pairs = [
        *zip(arguments.defaults, function.__defaults__ or (), strict=False),
        *(
            (default, by_name.get(one.arg))
            for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ),
    ]
    names = ((default.id, value) for default, value in pairs if isinstance(default, ast.Name))
    return [name for name, value in names if repr(namespace.get(name, value)) != repr(value)]


def _codes(source: str, like: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of the functions in a text that have the name of another one."""
    try:
        pending = [compile(source, "<cell>", "exec", like.co_flags & _FUTURE_FLAGS, dont_inherit=True)]
    except SyntaxError:  # a cell may await something outside of functions
        return
    while pending:
        inner = [one for one in pending.pop().co_consts if isinstance(one, types.CodeType)]
        pending += inner
        yield from (one for one in inner if one.co_name == like.co_name)


def _read_class(kind: type) -> Definition:
    """Return the source of a class: that of the last cell that defines it, or that of the script."""
    cells = getattr(sys.modules[HOME], "In", None)  # of IPython, where `inspect` finds none before Python 3.13
    if not isinstance(cells, list):
        try:
            return _parse(inspect.getsource(kind))
        except (OSError, TypeError):
            raise NoSourceError(_NOT_KNOWN) from None
    for text in reversed(cells):
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                lines = text.splitlines(keepends=True)[first - 1 : node.end_lineno]
                return _parse("".join(lines))
    raise NoSourceError(_NOT_KNOWN)


def _parse(text: str) -> Definition:
    """Return the definition that a text has. A definition in a block keeps its place in it: its texts may have lines.

    Raises:
        NoSourceError: if it is none.
    """
    text = text.rstrip() + "\n"
    try:
        if text[0].isspace():
            text = f"if True:\n{text}"
            block = ast.parse(text).body[0]
            assert isinstance(block, ast.If)  # noqa: S101 - as it is written above
            tree = ast.Module(block.body, [])
        else:
            tree = ast.parse(text)
        symtable.symtable(text, "<cell>", "exec")
    except SyntaxError:
        raise NoSourceError("its source cannot stand alone") from None
    node = tree.body[0]
    if isinstance(node, ast.Assign) and len(tree.body) == len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            return Definition(target.id, text, tree, is_decorated=False)
    if len(tree.body) != 1 or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        raise NoSourceError(_NO_STATEMENT)
    return Definition(node.name, text, tree, is_decorated=bool(node.decorator_list))


def _is_same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """Return whether two functions were compiled from the same source, wherever it stands."""
    same = (one.co_code, one.co_names, one.co_varnames) == (other.co_code, other.co_names, other.co_varnames)
    return same and len(one.co_consts) == len(other.co_consts) and all(map(_is_same, one.co_consts, other.co_consts))


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, types.CodeType) and isinstance(other, types.CodeType):
        return _is_same_code(one, other)
    return repr(one) == repr(other)  # 1 is not True, and nan is nan

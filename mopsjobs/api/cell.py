"""A function of a notebook or a script as the model of a study: a file with its source, and all that it uses.

The compiler's own table of symbols says which names a function takes from its module. The value of each decides how it
gets into the file. Modules and what they export become imports. Functions and classes of the notebook come by their
source, numbers, texts and containers of them as literals. One error names all other values.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import inspect
import math
import symtable
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mopsjobs.engines.worker import CELL_HEAD
from mopsjobs.errors import UsageError

HOME = "__main__"
"""The module of notebooks and scripts."""

_FUTURE_FLAGS = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

_NOT_KNOWN = "its source is not known here, as after %%time, exec or an interactive prompt"

_NO_STATEMENT = "a function within a larger statement; define it with def, or as name = lambda"

MAX_LITERAL = 100_000
"""Characters of a value in the file."""

MAX_SHOWN = 10
"""Problems that an error names."""

_OWN_NAMES = frozenset({*dir(types.ModuleType("m")), "__file__", "__builtins__"})
"""Names that every module has itself."""

NOT_IMPORTED = "not imported"

_HEAD = CELL_HEAD + "{name} of a notebook or a script.\n\n"

_HINT = (
    "Create it in the function, or pass it as a parameter. Or put the function into a file, and submit that as"
    " 'module:function' with code='.'."
)


class Cell:
    """A generated file with a function. `cell` makes it."""

    def __init__(self, function: str, source: str, names: tuple[str, ...]) -> None:
        """Keep the text of the file; see `cell`."""
        self.function = function
        """The name of the function."""
        self.source = source
        """The text of the file."""
        self.names = names
        """The names of the notebook that the function uses, directly or not, in alphabetical order."""

    @property
    def file(self) -> str:
        """Return the name of the file in the bundle."""
        return f"cell_{self.function}.py"

    @property
    def model(self) -> str:
        """Return the function as a study names it."""
        return f"cell_{self.function}:{self.function}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and (self.function, self.source) == (other.function, other.source)

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"<Cell {self.function}{' with ' * bool(self.names)}{', '.join(self.names)}>"


def cell(function: Callable[..., Any]) -> Cell:
    """Return a function of a notebook or a script as the model of a study.

    Its source goes into a generated file, and with it what it uses. These are imports, other functions and classes of
    the notebook, and plain values as they are now. `Cell.source` has the text.

    Args:
        function: a function that is defined in `__main__`, with `def` or as a named lambda.

    Raises:
        UsageError: if it is defined elsewhere or has no source, or if it uses something that cannot go into a file.
            The message names all of it.
    """
    inner: object = inspect.unwrap(function)
    if not isinstance(inner, types.FunctionType):
        raise UsageError(f"invalid cell of type {type(function).__name__}: expected a function.")
    name = inner.__name__
    if inner.__module__ != HOME:
        raise UsageError(
            f"{name} is defined in the module {inner.__module__}, not in a notebook or a script.",
            hint=f"Name it in the study as '{inner.__module__}:{name}', and submit its directory with code=.",
        )
    parts = _Parts()
    try:
        defined = parts.define(function)
    except NoSourceError as error:
        raise UsageError(f"{name} cannot be packed: {error}.", hint=_HINT) from None
    if parts.problems:
        shown = [f"{one} ({why})" for one, why in sorted(parts.problems.items())]
        more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
        missing = [one for one, why in sorted(parts.problems.items()) if why == NOT_IMPORTED]
        hint = f"Import it in the notebook: import {', '.join(missing)}" if missing else _HINT
        raise UsageError(f"{defined} cannot be packed: it uses {', '.join(shown[:MAX_SHOWN])}{more}.", hint=hint)
    return Cell(defined, parts.text(defined), tuple(sorted(parts.bound.keys() - {defined})))


class _Parts:
    """The parts of a file, collected by following names."""

    def __init__(self) -> None:
        self.bound: dict[str, object] = {}
        """The names that the file defines, with their values here."""
        self.problems: dict[str, str] = {}
        """Names that cannot go into the file, each with the reason."""
        self._imports: set[str] = set()
        self._values: dict[str, str] = {}
        self._definitions: list[str] = []
        self._complete: set[str] = set()
        self._aliases: list[str] = []
        """Other names of functions that use them themselves."""

    def text(self, name: str) -> str:
        """Return the text of the file."""
        imports = "".join(f"{line}\n" for line in sorted(self._imports, key=_import_order))
        values = "".join(f"{name} = {literal}\n" for name, literal in sorted(self._values.items()))
        blocks = [block for block in (imports, values) if block]
        text = _HEAD.format(name=name) + "from __future__ import annotations\n\n" + "\n".join(blocks)
        return text + ("\n\n" if blocks else "\n") + "\n\n".join(self._definitions + self._aliases)

    def define(self, value: Any) -> str:
        """Add a function or a class with all that it uses, and return the name that it defines.

        Raises:
            NoSourceError: if its source cannot be used.
        """
        inner = inspect.unwrap(value)
        definition = read_definition(inner)
        namespace = namespace_of(inner)
        is_given = namespace.get(definition.name) is value if definition.is_decorated else inner is value
        if not is_given and definition.name not in namespace:
            raise NoSourceError("its definition has not ended: call cell where you submit, not as a decorator")
        if not is_given:
            raise NoSourceError("a decorator or a call has replaced what its source defines")
        if self._is_bound(definition.name, value):
            return definition.name
        self.bound[definition.name] = value
        needed = _used_names(ast.unparse(_without_annotations(definition.tree)))
        in_classes = {name for name in _read_in_classes(definition.text) if name in namespace}
        for name in sorted(_used_names(definition.text) | in_classes):
            if name == definition.name and name not in namespace:
                continue
            if name in needed:
                self._add_name(name, namespace, definition.tree)
            else:
                self._try_name(name, namespace, definition.tree)
        self._definitions.append(definition.text)
        self._complete.add(definition.name)
        return definition.name

    def _is_bound(self, name: str, value: object) -> bool:
        """Return whether the file has this value under this name. Note the problem if it has another one."""
        if name not in self.bound:
            return False
        if self.bound[name] is not value and (_literal(value) or 0) != _literal(self.bound[name]):
            self.problems[name] = "two different values have this name"
        return True

    def _try_name(self, name: str, namespace: Mapping[str, Any], tree: ast.Module) -> None:
        """Add a name that may be needless, if that works: of an annotation, or of the body of a class."""
        before = dict(self.bound), dict(self.problems), set(self._imports), dict(self._values), list(self._definitions)
        self._add_name(name, namespace, tree)
        if len(self.problems) > len(before[1]):
            self.bound, self.problems, self._imports, self._values, self._definitions = before

    def _add_name(self, name: str, namespace: Mapping[str, Any], tree: ast.Module) -> None:
        """Add what a name stands for."""
        if name in _OWN_NAMES:
            return
        if name not in namespace and not hasattr(builtins, name):
            if name not in _assigned_globals(tree):
                self.problems[name] = NOT_IMPORTED if name in sys.stdlib_module_names else "not defined"
            return
        value = namespace[name] if name in namespace else getattr(builtins, name)
        if _is_of_python(value) if name not in namespace else _is_builtin_by_ipython(name, value):
            return
        if isinstance(value, types.ModuleType):  # each use may name other modules within it
            self._imports.update(_imports_within(name, value, tree))
        if self._is_bound(name, value):
            return
        inner = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, types.ModuleType):
            self._add_module(name, value)
        elif isinstance(inner, (types.FunctionType, type)) and inner.__module__ == HOME:
            self._add_definition(name, value)
        elif (literal := _literal(value)) is not None:
            self.bound[name] = value
            self._values[name] = literal
            if len(literal) > MAX_LITERAL:
                self.problems[name] = f"{len(literal):,} characters: too large for code"
        elif (place := _exported(name, value)) is not None:
            self.bound[name] = value
            module, own = place
            self._imports.add(f"from {module} import {own}{'' if own == name else f' as {name}'}")
        else:
            self.problems[name] = f"of type {type(value).__name__}"

    def _add_module(self, name: str, module: types.ModuleType) -> None:
        path = module.__name__
        if path == HOME:
            self.problems[name] = "the notebook itself"
            return
        self.bound[name] = module
        self._imports.add(f"import {path}" if path == name else f"import {path} as {name}")

    def _add_definition(self, name: str, value: Any) -> None:
        try:
            defined = self.define(value)
        except NoSourceError as error:
            self.problems[name] = str(error)
            return
        if defined != name:
            self.bound[name] = value
            (self._definitions if defined in self._complete else self._aliases).append(f"{name} = {defined}\n")


# --- names ----------------------------------------------------------------------------------------------------------


def _tables(text: str) -> Iterator[symtable.SymbolTable]:
    pending = [symtable.symtable(text, "<cell>", "exec")]
    while pending:
        table = pending.pop()
        pending += table.get_children()
        yield table


def _used_names(text: str) -> set[str]:
    """Return the names that a definition takes from its module or from builtins."""
    return {
        symbol.get_name()
        for table in _tables(text)
        for symbol in table.get_symbols()
        if symbol.is_referenced() and symbol.is_global()
    }


def _read_in_classes(text: str) -> set[str]:
    """Return the names that the body of a class both reads and defines: in `beta = beta`, the module has the first."""
    return {
        symbol.get_name()
        for table in _tables(text)
        if table.get_type() == "class"
        for symbol in table.get_symbols()
        if symbol.is_referenced() and symbol.is_local()
    }


def _assigned_globals(tree: ast.Module) -> set[str]:
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}


def _without_annotations(tree: ast.Module) -> ast.Module:
    """Return a copy of a definition whose annotations name nothing. The file does not evaluate them."""
    copied = ast.parse(ast.unparse(tree))
    for node in ast.walk(copied):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
    return copied


def _is_of_python(value: Any) -> bool:
    """Return whether a builtin is one of every Python. IPython adds some."""
    home = getattr(value, "__module__", None) or "builtins"
    return home.partition(".")[0] in sys.stdlib_module_names


def _is_builtin_by_ipython(name: str, value: Any) -> bool:
    """Return whether a variable of a notebook is a wrapper of IPython around a builtin, as it has one of `open`."""
    module = getattr(value, "__globals__", {}).get("__name__", "")
    return module.startswith("IPython.") and inspect.unwrap(value) is getattr(builtins, name, None)


# --- values ---------------------------------------------------------------------------------------------------------


def _literal(value: object) -> str | None:
    """Return a value as an expression; None if it is not a plain value."""
    try:
        return _expression(value)
    except (TypeError, RecursionError):
        return None


def _expression(value: Any) -> str:
    kind = type(value)
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _expression(value.item())  # as parameters do
    if kind is float and not math.isfinite(value):
        return f"float({str(value)!r})"
    if value is None or kind in (bool, int, float, str, bytes, range):
        return repr(value)
    if kind is dict:
        return "{" + ", ".join(f"{_expression(key)}: {_expression(one)}" for key, one in value.items()) + "}"
    if kind in (set, frozenset):
        return f"{kind.__name__}([{', '.join(sorted(map(_expression, value)))}])"
    items = ", ".join(map(_expression, value)) if kind in (list, tuple) else None
    if items is None:
        raise TypeError
    return f"[{items}]" if kind is list else f"({items}{',' * (len(value) == 1)})"


def _exported(name: str, value: Any) -> tuple[str, str] | None:
    """Return the module that exports a value, and the name there; None if none does. Public and short paths win."""
    owner = type(getattr(value, "__self__", value))  # the functions of `random` are methods
    homes = {type(value).__module__, owner.__module__} - {"builtins"} | {getattr(value, "__module__", None)}
    roots = {home.partition(".")[0].lstrip("_") for home in homes if isinstance(home, str) and home != HOME}
    names = [one for one in (getattr(value, "__name__", None), name) if isinstance(one, str) and one.isidentifier()]
    found = [
        (any(part.startswith("_") for part in path.split(".")), path.count("."), path, own)
        for path, module in list(sys.modules.items())
        if path.partition(".")[0].lstrip("_") in roots and isinstance(module, types.ModuleType)
        for own in names
        if _has(module, own, value)
    ]
    return min(found)[2:] if found else None


def _has(module: types.ModuleType, name: str, value: object) -> bool:
    if name in vars(module) or "." in module.__name__:
        return vars(module).get(name) is value
    # Some packages import what they export when it is asked for.
    return name in getattr(module, "__all__", ()) and getattr(module, name, None) is value


def _imports_within(name: str, module: types.ModuleType, tree: ast.Module) -> Iterator[str]:
    """Yield imports of the modules within a module that are used as its attributes, as in `scipy.optimize.brentq`."""
    for node in ast.walk(tree):
        words = ast.unparse(node).split(".") if isinstance(node, ast.Attribute) else []
        path = ".".join([module.__name__, *words[1:]])
        if words[:1] == [name] and path in sys.modules:
            yield f"import {path}"


def _import_order(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line


# --- the source of a function or a class ----------------------------------------------------------------------------


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

"""Functions of a notebook as generated files."""

from __future__ import annotations

import ast
import linecache
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from mopsjobs.api.cell import Cell, cell
from mopsjobs.api.study import Study
from mopsjobs.errors import UsageError
from support.runs import all_of, pool_of, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Notebook = dict[str, Any]
Run = Callable[..., Notebook] if TYPE_CHECKING else Any


SAME = """
def fact(n):
    return 6 if n < 0 else again(n - 1)
again = fact
def f(params, seed):
    return fact(2)
# ---
k = 3
class P:
    k = k
def f(params, seed):
    return P.k * params["x"]
# ---
import functools
def twice(function):
    @functools.wraps(function)
    def inner(params, seed):
        return 2 * function(params, seed)
    return inner
@twice
def f(params, seed):
    return 3
# ---
count = 5
def f(params, seed):
    global count, fresh
    count += 1
    fresh = count
    return fresh
# ---
if True:
    def f(params, seed):
        text = '''
  a'''
        return len(text) + 2
# ---
from dataclasses import dataclass
@dataclass
class P:
    x: int = 1
def f(params, seed):
    return P(**params).x * 3
# ---
from typing import TypeVar
T = TypeVar("T")
Row = dict[str, T]
def f(params: Row, seed: int) -> Row:
    x: Row = params["x"]
    return x * 3
# ---
def make(k, g):
    def h():
        return g() * k if g else k
    return h
a = make(1000, None)
b = a
def f(params, seed):
    return (a() + b()) * 3 // 1000
"""
"""Functions that give 6 for `x=2`: closures, other names, lambdas, recursion, decorators, global variables, a block."""

REFUSED = """
from json import dumps as f
# dumps is defined in the module json, not in a notebook or a script
# ---
f = [lambda params, seed: 1][0]
# a function within a larger statement; define it with def, or as name = lambda
# ---
exec("def f(params, seed): return 1")
# its source is not known here
# ---
def deco(f):
    def h(params, seed):
        return f(params, seed)
    return h
@deco
def f(params, seed):
    return 1
# h cannot be packed: it uses f .a decorator or a call has replaced what its source defines
# ---
import mopsjobs as mj
@mj.cell
def f(params, seed):
    return 1
# f cannot be packed: its definition has not ended: call cell where you submit, not as a decorator
# ---
import mopsjobs as mj
def f(params, seed):
    return 1
g = f
def f(params, seed):
    return g(params, seed)
# it uses f .two different values have this name
# ---
def make():
    n = 0
    def f(params, seed):
        nonlocal n
        n += 1
    return f
f = make()
# its source cannot stand alone
# ---
def f(params, seed):
    return math.sqrt(params["x"])
# f cannot be packed: it uses math .not imported
"""
"""Functions without a source that could stand for them, each with the error."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run cells as IPython does, and return their names: each statement is compiled alone, sources lie in linecache."""
    main = types.ModuleType("__main__")
    main.In = [""]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", main)
    names = []

    def ran(*cells: str) -> Notebook:
        for text in cells:
            main.In.append(text)
            names.append(f"<cell {len(names)}>")
            linecache.cache[names[-1]] = (len(text), None, text.splitlines(keepends=True), names[-1])
            for node in ast.parse(text).body:
                exec(compile(ast.Module([node], []), names[-1], "exec", dont_inherit=True), vars(main))
        return vars(main)

    yield ran
    for name in names:
        linecache.cache.pop(name, None)


def _in_a_file(made: Cell) -> Any:
    """Return the function of a file as its own module has it."""
    module = sys.modules["cell_f"] = types.ModuleType("cell_f")
    exec(compile(made.source, made.file, "exec", dont_inherit=True), vars(module))
    del sys.modules["cell_f"]
    return getattr(module, made.function)


def test_the_file_has_what_the_function_uses(run: Run) -> None:
    """Imports, values as they are now, other functions and classes; nothing else of the notebook."""
    notebook = run(
        "import math as m\nimport xml.dom\nfrom collections import OrderedDict, Counter as Count\nunused = object()",
        "BETA = 0.5\nAGES = {'a': (1, 2.5), 'b': [float('inf'), None, {True}]}\nDAYS = range(3)",
        "def helper(x):\n    return m.sqrt(x) * BETA\ndouble = lambda x: 2 * x",
        "class Base:\n    def __init__(self, x):\n        self.x = x\n\n\nclass State(Base):\n    y = BETA",
        "def f(params, seed, days=DAYS):\n"
        '    """Say what it does.\n\n  With its own indent."""\n'
        "    node = xml.dom.Node.ELEMENT_NODE\n"
        "    state = State(double(helper(params['x'])))\n"
        "    return OrderedDict(y=[state.x, state.y, node], n=Count('aa'), ages=repr(AGES), days=list(days))",
        "BETA = 0.25",
    )
    made = cell(notebook["f"])
    names = ("AGES", "BETA", "Base", "Count", "DAYS", "OrderedDict", "State", "double", "helper", "m", "xml")
    assert made.names == names
    assert made.source == (
        "# Generated by mops-jobs from the function f of a notebook or a script.\n\n"
        "from __future__ import annotations\n\n"
        "import math as m\nimport xml\nimport xml.dom\n"
        "from collections import Counter as Count\nfrom collections import OrderedDict\n\n"
        "AGES = {'a': (1, 2.5), 'b': [float('inf'), None, set([True])]}\nBETA = 0.25\nDAYS = range(0, 3)\n\n\n"
        "class Base:\n    def __init__(self, x):\n        self.x = x\n\n\n"
        "class State(Base):\n    y = BETA\n\n\n"
        "double = lambda x: 2 * x\n\n\n"
        "def helper(x):\n    return m.sqrt(x) * BETA\n\n\n"
        "def f(params, seed, days=DAYS):\n"
        '    """Say what it does.\n\n  With its own indent."""\n'
        "    node = xml.dom.Node.ELEMENT_NODE\n"
        "    state = State(double(helper(params['x'])))\n"
        "    return OrderedDict(y=[state.x, state.y, node], n=Count('aa'), ages=repr(AGES), days=list(days))\n"
    )
    result = _in_a_file(made)({"x": 4}, 0)
    assert result["y"] == [1.0, 0.25, 1]
    assert (result["n"], result["days"]) == ({"a": 2}, [0, 1, 2])
    assert repr(made) == f"<Cell f with {', '.join(names)}>"


@pytest.mark.parametrize(
    "line",
    [
        "from functools import reduce",
        "from random import random",
        "from time import sleep as wait",
        "from os.path import join",
        "from collections.abc import Sequence",
        "import xml.etree.ElementTree as tree",
        "from numpy import exp",
        "from scipy.optimize import brentq",
    ],
)
def test_an_import_is_as_public_as_it_can_be(run: Run, line: str) -> None:
    """Whatever the module in which the value was made. The file also runs."""
    name = line.rsplit(maxsplit=1)[-1]
    made = cell(run(line, f"def f(params, seed):\n    return {name}")["f"])
    expected = line.replace("os.path", "posixpath")  # which it is
    assert [one for one in made.source.splitlines() if "import" in one][1:] == [expected]
    assert _in_a_file(made)({}, 0) is not None


def test_a_study_takes_a_cell(run: Run) -> None:
    """It names the function in the file. Two studies are equal if their files are."""
    notebook = run("def f(params, seed):\n    return 1")
    study = Study(cell(notebook["f"]), [{"x": 1}])
    assert study.definition.model == "cell_f:f"
    assert study == Study(cell(notebook["f"]), [{"x": 1}])
    assert study != Study(cell(run("def f(params, seed):\n    return 2")["f"]), [{"x": 1}])
    assert study != Study("cell_f:f", [{"x": 1}])


def test_one_error_names_all_that_cannot_be_packed(run: Run) -> None:
    """With the type or the reason of each, also of what a helper uses."""
    notebook = run(
        "import io, sys\nfile = io.StringIO()\nlarge = 'x' * 200_000\nhere = sys.modules['__main__']",
        "def helper():\n    return [file, missing]",
        "def f(params, seed):\n    return [large, helper(), here, len(params), __name__]",
    )
    with pytest.raises(UsageError) as error:
        cell(notebook["f"])
    assert str(error.value) == (
        "f cannot be packed: it uses file (of type StringIO), here (the notebook itself),"
        " large (200,002 characters: too large for code), missing (not defined)."
    )
    assert "pass it as a parameter" in str(error.value.hint)


@pytest.mark.parametrize("text", SAME.split("# ---\n"))
def test_a_function_gives_the_same_in_its_file(run: Run, text: str) -> None:
    """Closures, other names, lambdas, recursion, decorators, global variables, blocks and annotations work."""
    f = run(text)["f"]
    assert _in_a_file(cell(f))({"x": 2}, 0) == 6


@pytest.mark.parametrize("text", REFUSED.split("# ---\n"))
def test_what_has_no_source_of_its_own_is_refused(run: Run, text: str) -> None:
    """The error says why. Nothing is packed that would do something else."""
    text, _, problem = text.rpartition("# ")
    with pytest.raises(UsageError, match=problem.strip()):
        cell(run(text)["f"])


def test_the_version_that_the_notebook_holds_is_packed(run: Run) -> None:
    """A cell that ran again has another source; a function keeps its own, a class that of the last cell."""
    notebook = run("class P:\n    x = 1", "def f(params, seed):\n    return P.x")
    first = notebook["f"]
    run("class P:\n    x = 2", "def f(params, seed):\n    return -P.x")
    assert _in_a_file(cell(notebook["f"]))({}, 0) == -2
    assert _in_a_file(cell(first))({}, 0) == 2
    run("class P:\n    x = 1")
    assert _in_a_file(cell(first))({}, 0) == 1


def test_a_script_that_was_changed_is_refused(run: Run) -> None:
    """The source that is found now is not that of the function."""
    f = run("def f(params, seed):\n    return 1 + 2")["f"]
    name = f.__code__.co_filename
    text = "def f(params, seed):\n    return 1 + 3"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    with pytest.raises(UsageError, match="f cannot be packed: its source has changed since it was defined"):
        cell(f)


@pytest.mark.parametrize("arguments", ["params, seed, rate=RATE", "params, seed, *, rate=RATE"])
def test_a_default_that_was_changed_is_refused(run: Run, arguments: str) -> None:
    """The file would give the function another value than it has in the notebook."""
    f = run(f"RATE = 0.5\ndef f({arguments}):\n    return rate")["f"]
    assert _in_a_file(cell(f))({}, 0) == 0.5
    f.__globals__["RATE"] = 0.7
    with pytest.raises(UsageError, match="f cannot be packed: RATE, a default of an argument, has changed since"):
        cell(f)


def test_the_open_of_a_notebook_is_that_of_python(run: Run) -> None:
    """IPython gives a notebook a wrapper of it, which only guards the streams of the kernel."""
    from IPython.core import interactiveshell

    names = run("def f(params, seed):\n    return open(params['path']).read()\n")
    names["open"] = vars(interactiveshell)["_modified_open"]
    assert names["open"] is not open
    assert cell(names["f"]).names == ()


def test_an_error_names_the_line_in_its_cell_function(run: Run, tmp_path: Path) -> None:
    """Not that of the generated file: in a function, a method, a decorated function, and one of a block."""
    notebook = run(
        "import functools\n\ndef deep(x):\n\n    if x == 0:\n        raise ValueError('deep')",
        "class State:\n    def method(self, x):\n        if x == 1:\n            raise ValueError('method')",
        "@functools.lru_cache\ndef kept(x):\n    if x == 2:\n        raise ValueError('kept')",
        "if True:\n    def inner(x):\n        if x == 3:\n            raise ValueError('inner')",
        "# A comment above.\ndef simulate(params, seed):\n    x = params['x']\n    deep(x)\n    State().method(x)\n"
        "    kept(x)\n    inner(x)\n    import absent",
    )
    made = cell(notebook["simulate"])
    directory = tree(tmp_path / "code", {made.file: made.source})
    pool = pool_of(directory, 1, entrypoint=f"{made.model}/baseline")
    results = all_of(pool, [{"x": x} for x in range(5)])
    errors = [result.error or {} for result in results]
    places = ["cell deep:4", "cell State:4", "cell kept:4", "cell inner:3", "cell simulate:7"]
    assert [error["at"] for error in errors] == places
    frame = 'File "cell simulate", line 3, in simulate\n    deep(x)\n'
    assert frame in errors[0]["traceback"]
    assert made.file not in "".join(error["traceback"] for error in errors)

"""The worker script as a process of its own: the JSON lines it takes and gives, whatever the model does."""

from __future__ import annotations

import ast
import base64
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.engines.model_process import SOURCE, WORKER, describe_interpreter
from mopsjobs.engines.worker import INLINE_BYTES, _to_json, real_numbers
from mopsjobs.ledger.environment import environment_of_worker, normalise_name
from support.model_worker import Worker, decoded_outputs, wire_manifest
from support.runs import code, is_alive, make_venv, tree, until

# --- the two kinds of model -----------------------------------------------------------------------------------------


def test_a_plain_function_gives_json(run: Worker) -> None:
    source = "def f(params, seed):\n    return {'sum': params['x'] + seed, 'a': [1.5, None]}\n"
    talk = run(source, {"params": {"x": 1}, "seed": 2}, {"params": {"x": 3}, "seed": 2**63})
    assert talk.answers[0]["ready"] is True
    assert [answer["task"] for answer in talk.answers[1:]] == [0, 1]
    assert decoded_outputs(talk.answers[1]) == {"result.json": b'{"a": [1.5, null], "sum": 3}'}
    assert json.loads(decoded_outputs(talk.answers[2])["result.json"])["sum"] == 2**63 + 3
    assert (talk.err, talk.code) == ("\x1e0\n\x1e1\n", 0)  # the marks of the two tasks, and nothing else


def test_a_wire_function_is_told_the_entrypoint(run: Worker) -> None:
    """As ModelOps calls it: from the manifest, by path, with the bundle's own modules at hand."""
    source = (
        "import beside\n"
        "def wire(entrypoint, params, seed):\n"
        "    return {'told': f'{entrypoint} {params} {seed} {beside.WORD}'.encode()}\n"
    )
    talk = run(
        "import os\nopen('beside.py', 'w').write('WORD = 1')\n" + source,
        {"params": {"x": 1}, "seed": 7},
        entrypoint="models.main:Sir/closed",
        wire=wire_manifest("model.py:wire"),
    )
    assert talk.answers[0]["ready"] is True
    assert decoded_outputs(talk.answers[1]) == {"told": b"models.main:Sir/closed {'x': 1} 7 1"}


SAYS = "def wire(entrypoint, params, seed): return {{'from': b'{}'}}\n"

WIRES = {
    "wire.py": SAYS.format("convention"),
    ".modelops/modelops.toml": '[modelops]\nwire = "toml.py:wire"\n',
    "toml.py": SAYS.format("toml"),
    ".modelops/manifest.json": wire_manifest("package.inner:wire"),
    "package/inner.py": SAYS.format("module of the manifest"),
    "own.egg-info/entry_points.txt": "[modelops.wire]\nexecute = installed.wire:wire [extra]\n",
    "own.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: own\nVersion: 1\n",
    "installed/wire.py": SAYS.format("entry point"),
}
"""All places of a wire function, the last one first in ModelOps' order."""


@pytest.mark.parametrize(
    ("names", "origin"),
    [
        (["wire.py"], "convention"),
        (["wire.py", ".modelops/modelops.toml", "toml.py"], "toml"),
        ([*WIRES][:5], "module of the manifest"),
        ([*WIRES], "entry point"),
    ],
)
def test_the_wire_function_is_found_in_the_order_of_modelops(
    run: Worker, tmp_path: Path, names: list[str], origin: str
) -> None:
    """Entry point of the interpreter, manifest, modelops.toml, then the usual file; whatever model the study names."""
    tree(tmp_path / "code", {name: WIRES[name] for name in names})
    for entrypoint in ("model:f/baseline", "models.sir/baseline"):
        talk = run("def f(params, seed): return 'plain'\n", {}, entrypoint=entrypoint, check=True)
        assert decoded_outputs(talk.answers[1]) == {"from": origin.encode()}
        assert ("entry_point" in talk.answers[0]) == (origin == "entry point")


def test_a_manifest_without_a_wire_leaves_the_choice_to_the_next_place(run: Worker, tmp_path: Path) -> None:
    tree(tmp_path / "code", {"wire.py": SAYS.format("convention"), ".modelops/modelops.toml": "[other]\n"})
    assert decoded_outputs(run("", {}, wire="{}").answers[1]) == {"from": b"convention"}


def test_a_file_of_that_name_without_a_wire_function_is_a_module(run: Worker, tmp_path: Path) -> None:
    tree(tmp_path / "code", {"wire.py": "def f(params, seed): return 1\n"})
    assert decoded_outputs(run("", {}, entrypoint="wire:f/baseline").answers[1]) == {"result.json": b"1"}


def test_several_entry_points_are_refused_by_name(run: Worker, tmp_path: Path) -> None:
    """As in ModelOps: nothing says which one is meant."""
    for name in ("one", "two"):
        points = {"PKG-INFO": f"Name: {name}\n", "entry_points.txt": f"[modelops.wire]\n{name} = {name}:wire\n"}
        tree(tmp_path / "code", {f"{name}.egg-info/{file}": text for file, text in points.items()})
    broken = run("").answers[0]["broken"]
    named = "one = one:wire, two = two:wire"
    assert broken["message"] == f"expected one entry point modelops.wire in {sys.executable}, not {named}"


def test_the_model_runs_in_its_own_directory_and_finds_its_modules(run: Worker, tmp_path: Path) -> None:
    (tmp_path / "code" / "package").mkdir(parents=True)
    (tmp_path / "code" / "package" / "inner.py").write_text(
        "import model, os\ndef f(params, seed): return os.getcwd()\n"
    )
    talk = run("", {}, entrypoint="package.inner:f/baseline")
    assert json.loads(decoded_outputs(talk.answers[1])["result.json"]) == str(tmp_path / "code")


TRACES = """
import os
from pathlib import Path

def f(params, seed):
    directory = Path(os.environ["MOPS_JOBS_TASK_DIR"])
    found = [str(directory), os.getcwd(), os.listdir(directory)]
    (directory / "trace.csv").write_text(str(seed))
    (directory / "more").mkdir()
    (directory / "more" / "trace.csv").write_text(str(seed))
    return found
"""


@pytest.mark.parametrize("scratch", [False, True])
def test_each_attempt_has_an_empty_directory_while_it_runs(run: Worker, tmp_path: Path, *, scratch: bool) -> None:
    """With `scratch` it is the working directory, else that of the code is. Afterwards it is gone, with its files."""
    talk = run(TRACES, {}, {"task": 0, "attempt": 2}, {}, scratch=scratch)
    found = [json.loads(decoded_outputs(answer)["result.json"]) for answer in talk.answers[1:]]
    assert len({directory for directory, _, _ in found}) == 3  # each task left something
    for directory, working, names in found:
        assert working == (directory if scratch else str(tmp_path / "code"))
        assert names == []
        assert not Path(directory).exists()


# --- nothing disturbs the answers -----------------------------------------------------------------------------------


def test_what_the_model_prints_goes_beside_the_answers(run: Worker) -> None:
    source = (
        "import os, subprocess, sys\nprint('on import')\n"
        "def f(params, seed):\n"
        "    print('printed'); sys.stdout.write('{\"ready\": true}\\n'); sys.stdout.flush()\n"
        "    os.write(1, b'raw\\n'); subprocess.run(['echo', 'child'], check=True)\n"
        "    return 1\n"
    )
    talk = run(source, {}, {})
    assert ["outputs" in answer for answer in talk.answers] == [False, True, True]
    for word in ("on import", "printed", "raw", "child"):
        assert word in talk.err


def test_what_the_model_reads_is_empty_and_never_a_task(run: Worker) -> None:
    source = (
        "import subprocess, sys\n"
        "def f(params, seed):\n"
        "    child = subprocess.run(['cat'], stdout=subprocess.PIPE, check=True).stdout.decode()\n"
        "    return [sys.stdin.read(), child]\n"
    )
    talk = run(source, {}, {}, {})
    assert [json.loads(decoded_outputs(answer)["result.json"]) for answer in talk.answers[1:]] == [["", ""]] * 3


def test_a_model_that_closes_its_streams_does_not_end_the_conversation(run: Worker) -> None:
    source = "import sys\ndef f(params, seed):\n    sys.stdout.close(); sys.stdin.close(); return 1\n"
    talk = run(source, {}, {})
    assert [answer.get("task") for answer in talk.answers] == [None, 0, 1]


# --- tasks that fail ------------------------------------------------------------------------------------------------


RAISED = [
    ("raise ValueError('so it is')", "ValueError", "so it is"),
    ("import sys; sys.exit(3)", "SystemExit", "3"),
    ("return f(params, seed)", "RecursionError", "maximum recursion depth exceeded"),
    ("return {1, 2}", "ResultError", "the returned value: set: return it by sorted()"),
    ("return {'a': b'', 1: b''}", "TypeError", "invalid name of an output 1: expected a text"),
    ("return {'a': {(1, 2): 3}}", "ResultError", "key 'a': its key (1, 2) is a tuple: expected a text"),
    ("raise type('Own', (BaseException,), {})('mine')", "Own", "mine"),
    ("raise type('Own', (Exception,), {'__str__': lambda self: 1 / 0})", "Own", "<exception str() failed>"),
]
"""What a task does, and the error that it ends with."""


def test_whatever_a_task_raises_ends_that_task_and_no_other(run: Worker) -> None:
    bodies = "".join(f"def g{number}(params, seed):\n    {row[0]}\n" for number, row in enumerate(RAISED))
    source = f"{bodies}def f(params, seed):\n    return globals()[params['call']](params, seed) if params else 'well'\n"
    talk = run(source, *({"params": {"call": f"g{number}"}} for number in range(len(RAISED))), {})
    for (_, kind, message), answer in zip(RAISED, talk.answers[1:], strict=False):
        error = answer["error"]
        assert error["type"] == kind
        assert error["message"].startswith(message)
        assert "model.py" in error["traceback"] or kind == "TypeError"
        assert len(error["traceback"]) <= 8000
    assert decoded_outputs(talk.answers[-1]) == {"result.json": b'"well"'}
    assert talk.code == 0


def test_a_traceback_begins_in_the_model(run: Worker) -> None:
    """The frames of the worker say nothing of the model. That of a value that cannot be stored is where it returns."""
    source = "def f(params, seed):\n    return g() if params else {1, 2}\n\n\ndef g():\n    raise ValueError('mine')\n"
    talk = run(source, {"params": {"x": 1}}, {})
    raised, returned = (talk.answers[number]["error"]["traceback"] for number in (1, 2))
    assert [line.partition("in ")[2] for line in raised.splitlines() if line.startswith("  File")] == ["f", "g"]
    assert raised.startswith("Traceback (most recent call last):\n")
    assert "line 2, in f\n    return g() if params else {1, 2}\nResultError: the returned value: set" in returned


def test_a_wire_function_that_gives_no_outputs_is_told_so(run: Worker) -> None:
    cases = {
        "None": "invalid result of the model: expected a dict of outputs, not NoneType",
        "[b'']": "invalid result of the model: expected a dict of outputs, not list",
        "{1: b''}": "invalid name of an output 1: expected a text",
    }
    source = f"def wire(entrypoint, params, seed): return [{', '.join(cases)}][seed]\n"
    talk = run(source, *({"seed": number} for number in range(len(cases))), wire=wire_manifest("model.py:wire"))
    assert [answer["error"]["message"] for answer in talk.answers[1:]] == list(cases.values())


# --- models that cannot be loaded -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "wire", "entrypoint", "kind"),
    [
        ("import not_there", None, "model:f/b", "ModuleNotFoundError"),
        ("def f(:", None, "model:f/b", "SyntaxError"),
        ("", None, "model:f/b", "AttributeError"),
        ("def wire(params, seed): 1", wire_manifest("model.py:wire"), "model:f/b", "TypeError"),
        ("", None, "model/b", "ValueError"),
        ("f = 3", None, "model:f/b", "TypeError"),
        ("", "{", "model:f/b", "JSONDecodeError"),
        ("", wire_manifest("model.py:nothing"), "model:f/b", "AttributeError"),
        ("", wire_manifest("nothing.py:wire"), "model:f/b", "FileNotFoundError"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_told_once_and_takes_no_task(
    run: Worker, source: str, wire: str | None, entrypoint: str, kind: str
) -> None:
    talk = run(source, {}, {}, wire=wire, entrypoint=entrypoint)
    assert [sorted(answer) for answer in talk.answers] == [["broken"]]
    assert talk.answers[0]["broken"]["type"] == kind
    assert talk.answers[0]["broken"]["message"] or kind == "SystemExit"
    assert "Traceback" in talk.answers[0]["broken"]["traceback"]
    assert talk.code == 1


def test_no_python_since_3_8_finds_anything_new_in_the_script() -> None:
    """Neither in its grammar nor, as it needs nothing else, in what it imports."""
    tree = ast.parse(WORKER.read_text(), feature_version=(3, 8))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names
    assert not {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & {
        "removeprefix",
        "removesuffix",
    }


# --- what becomes of values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "expected", "outputs"),
    [
        ("'text'", None, {"result.json": b'"text"'}),
        ("b'\\xff'", None, {"result.bin": b"\xff"}),
        ("{'a': 'x', 'b': 'y'}", None, {"result.json": b'{"a": "x", "b": "y"}'}),
        ("{'a.csv': 't\\u00e9', 'n': [1]}", ["a.csv"], {"a.csv": "t\u00e9".encode(), "n": b"[1]"}),
        ("{'a.csv': 'x'}", ["a.csv", "b.csv"], {"result.json": b'{"a.csv": "x"}'}),
        ("{'a': b'x', 'b': 'y', 'c': {'z': None}}", None, {"a": b"x", "b": b"y", "c": b'{"z": null}'}),
        ("{'a': bytearray(b'x'), 'b': memoryview(b'y')}", None, {"a": b"x", "b": b"y"}),
        ("{}", ["a"], {"result.json": b"{}"}),
        ("array.array('d', [0.5])", None, {"result.json": b"[0.5]"}),
    ],
)
def test_texts_and_bytes_become_outputs(
    run: Worker, returned: str, expected: object, outputs: dict[str, bytes]
) -> None:
    """A dict with bytes, or with all outputs of the study, has an output per entry; any other result is one output."""
    talk = run(f"import array\ndef f(params, seed): return {returned}\n", {}, outputs=expected)
    assert decoded_outputs(talk.answers[1]) == outputs


NUMPY_AND_PANDAS = """
import math, numpy as np, pandas as pd
frame = pd.DataFrame({'day': [1, 2], 'cases': [0.5, 1.5]})
"""
"""Begins a model. Each worker imports them for longer than all else takes, so one worker has all tasks of a test."""

RETURNED: tuple[tuple[str, dict[str, bytes]], ...] = (
    ("np.float32(0.5)", {"result.json": b"0.5"}),
    ("np.arange(4).reshape(2, 2)", {"result.json": b"[[0, 1], [2, 3]]"}),
    (
        "{'n': np.int64(3), 'ok': np.bool_(True), 'x': [np.float64(0.1), np.uint8(7)], 's': np.str_('a')}",
        {"result.json": b'{"n": 3, "ok": true, "s": "a", "x": [0.1, 7]}'},
    ),
    ("{'by': dict(zip(*np.unique([5, 5, 7], return_counts=True)))}", {"result.json": b'{"by": {"5": 2, "7": 1}}'}),
    (
        "{'loss': np.float32('nan'), 'fit': {'a/b': [1, np.array([np.inf])]}}",
        {
            "result.json": b'{"$not_finite": {"/fit/a~1b/1/0": "inf", "/loss": "nan"},'
            b' "fit": {"a/b": [1, [null]]}, "loss": null}'
        },
    ),
    ("np.array([1, np.nan])", {"result.json": b'{"$not_finite": {"/1": "nan"}, "$value": [1.0, null]}'}),
    ("{'$value': -math.inf}", {"result.json": b'{"$not_finite": {"/$value": "-inf"}, "$value": {"$value": null}}'}),
    ("{'$not_finite': 1}", {"result.json": b'{"$not_finite": {}, "$value": {"$not_finite": 1}}'}),
    ("{'x': b'', 'y': {'z': math.nan}}", {"x": b"", "y": b'{"$not_finite": {"/z": "nan"}, "z": null}'}),
    ("pd.DataFrame({'x': [math.nan, -math.inf]})", {"result.csv": b",x\n0,nan\n1,-inf\n"}),
    ("pd.DataFrame({'x': [math.nan], 't': [None]})", {"result.csv": b",x,t\n0,,\n"}),
    ("frame", {"result.csv": b",day,cases\n0,1,0.5\n1,2,1.5\n"}),
    ("frame.set_index('day')['cases']", {"result.csv": b"day,cases\n1,0.5\n2,1.5\n"}),
    (
        "{'curve.csv': frame.set_index('day'), 'peak': frame['cases'].max(), 'days': frame['day'].to_numpy()}",
        {"curve.csv": b"day,cases\n1,0.5\n2,1.5\n", "peak": b"1.5", "days": b"[1, 2]"},
    ),
)
"""What a model returns, and its outputs."""

CIRCLE, DEEP = "(lambda a: a.update(b=a) or a)({})", "__import__('functools').reduce(lambda a, _: [a], range(9999), 1)"

REFUSED = (
    ("[pd.DataFrame({'a': [1]})]", "key '0': DataFrame of shape (1, 1): return it by .to_dict()"),
    ("{'a': {'b': pd.Series([1])}}", "key 'a/b': Series of shape (1,): return it by .to_dict()"),
    ("{'a': {'b': {1, 2}}}", "key 'a/b': set: return it by sorted()"),
    ("{'a': [0, np.array([1j])]}", "key 'a/1/0': complex: return its .real and .imag"),
    ("{'a': pd.Timestamp(0)}", "key 'a': Timestamp: return it by .isoformat()"),
    ("{'a': {'b': b''}}", "key 'a/b': bytes: return it as an output of its own"),
    ("{'a': range(3)}", "key 'a': range: return it by list()"),
    ("{'a': object()}", "key 'a': object: expected numbers, texts, truth values, None, and lists and dicts of them"),
    (CIRCLE, "key 'b': it contains itself"),
    (f"{{'a': {DEEP}}}", "key 'a': more than 100 lists and dicts within each other"),
    ("{'a': 10**5000}", "key 'a': int of 16,610 bits: return it by hex()"),
    ("{1: 0, '1': 0}", "the returned value: two of its keys are '1' as texts"),
)


def _answers(run: Worker, returned: Sequence[str]) -> list[Any]:
    """Run a task for each of these expressions, which returns its value."""
    source = f"def f(params, seed): return eval({list(returned)}[params['number']], globals())\n"
    return run(NUMPY_AND_PANDAS + source, *({"params": {"number": number}} for number in range(len(returned)))).answers[
        1:
    ]


def test_numbers_of_numpy_and_tables_of_pandas_become_outputs(run: Worker) -> None:
    """In an interpreter that has both."""
    answers = _answers(run, [returned for returned, _ in RETURNED])
    assert [decoded_outputs(answer) for answer in answers] == [outputs for _, outputs in RETURNED]


def test_what_json_cannot_hold_fails_its_task(run: Worker) -> None:
    """With its key and type, and how it can be returned."""
    answers = _answers(run, [returned for returned, _ in REFUSED])
    for answer, (_, message) in zip(answers, REFUSED, strict=True):
        assert answer["error"]["message"] == message


NAMES = st.sampled_from(["$not_finite", "$value", "", "a/b", "~1", "0"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(VALUES)
def test_a_result_comes_back_as_it_was_returned(value: object) -> None:
    """Also NaN and infinities, whatever the names of its keys. The JSON is strict."""
    found = real_numbers(json.loads(_to_json(value), parse_constant=pytest.fail))
    assert json.dumps(found, sort_keys=True) == json.dumps(value, sort_keys=True)


NAN_REFUSED = (
    ("{'fit': {'loss': np.float64('nan')}}", "key 'fit/loss' is nan"),
    ("[0, -math.inf]", "key '1' is -inf"),
    ("math.inf", "the returned value is inf"),
    ("{'result.json': b'{\"a\": [NaN]}'}", "key 'result.json/a/0' is nan"),
    ("{'a': b'', 'b': pd.DataFrame({'x': [0, math.nan]})}", "key 'b/x/1' is nan"),
)


def test_a_study_may_refuse_numbers_that_are_not_finite(run: Worker) -> None:
    """Also in bytes and tables. Other tasks go on, and the error has the line that returns the key."""
    values = [*(value for value, _ in NAN_REFUSED), "{'NaN.json': b'\"NaN\"', 'x.json': b'NaN?'}"]
    source = f"def f(params, seed):\n    return eval({values}[params['number']], globals())\n"
    tasks = ({"params": {"number": number}} for number in range(len(values)))
    *refused, last = run(NUMPY_AND_PANDAS + source, *tasks, allow_nan=False).answers[1:]
    for answer, (_, problem) in zip(refused, NAN_REFUSED, strict=True):
        assert answer["error"]["message"] == f"{problem}, and the study says allow_nan: false"
        assert answer["error"]["at"] == "model.py:5"
    assert decoded_outputs(last) == {"NaN.json": b'"NaN"', "x.json": b"NaN?"}


PLACES = """
import functools

def unchanged(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)
    return call

@unchanged
def f(params, seed):
    def inner():
        return "bad"
    if "several" in params:
        return {"good": 1}
    if "dict" in params:
        return dict(bad={1})
    if "lost" in params:
        found = {"lost": {1}}
        return found
    return {
        "good": 1,
        "bad": {
            "worse": {1},
        },
    }
"""


def test_the_line_of_a_value_is_where_the_function_returns_it(run: Worker) -> None:
    """The one that names its key. If several do, or none, it is the first line of a function that has several."""
    talk = run(PLACES, *({"params": {word: 1}} for word in ("dict", "last", "lost")))
    assert [answer["error"]["at"] for answer in talk.answers[1:]] == ["model.py:10", "model.py:24", "model.py:10"]
    assert 'model.py", line 24, in f\n    "worse": {1},\n' in talk.answers[2]["error"]["traceback"]


# --- large outputs --------------------------------------------------------------------------------------------------


def test_large_outputs_go_by_file_and_small_ones_by_line(run: Worker, tmp_path: Path) -> None:
    source = (
        f"def f(params, seed):\n    return {{'small': b's' * {INLINE_BYTES}, 'large': b'l' * {INLINE_BYTES + 1}}}\n"
    )
    talk = run(source, {}, {})
    files = []
    for answer in talk.answers[1:]:
        assert base64.b64decode(answer["outputs"]["small"]) == b"s" * INLINE_BYTES
        files.append(Path(answer["outputs"]["large"]["file"]))
        assert files[-1].read_bytes() == b"l" * (INLINE_BYTES + 1)
    assert sorted(files) == sorted(filter(Path.is_file, (tmp_path / "spool").iterdir()))


# --- its end --------------------------------------------------------------------------------------------------------

SPINNER = """
import os, subprocess

def simulate(params, seed):
    child = subprocess.Popen(["sleep", "600"])
    with open(params["noted"] + ".part", "w") as file:
        file.write(str(child.pid))
    os.rename(params["noted"] + ".part", params["noted"])
    while True:
        pass
"""


def test_a_worker_ends_with_the_reader_of_its_answers(tmp_path: Path) -> None:
    """While its model computes, with what that has started, and although its input goes on."""
    noted, root = tmp_path / "noted", code(tmp_path / "code", SPINNER)
    setup = {"root": str(root), "entrypoint": "model:simulate/baseline", "spool": str(tmp_path)}
    task = {"task": 0, "params": {"noted": str(noted)}, "param_id": "p", "seed": 0}
    worker = subprocess.Popen(
        [sys.executable, "-u", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("".join(json.dumps(line) + "\n" for line in (setup, task)).encode())
        worker.stdin.flush()
        try:
            until(noted.exists, "the task to be at work")
            worker.stdout.close()
            until(lambda: worker.poll() is not None, "the worker to end")
        finally:
            worker.kill()
    until(lambda: not is_alive(int(noted.read_text())), "what the model has started to be gone")


# --- A model's interpreter describes itself: version, platform and packages, and none of its variables ---------------

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return the interpreter of a virtual environment without packages."""
    return make_venv(tmp_path / "venv")


def site_of(python: Path) -> Path:
    (found,) = python.parents[1].glob("lib/python3*/site-packages")
    return found


def describe(python: Path | str, **env: str) -> Any:
    return describe_interpreter(str(python), {**ENV, **env})


def test_it_finds_the_packages_that_importlib_finds() -> None:
    """Without the 0.2 s that importlib takes for a hundred packages."""
    found = environment_of_worker(describe(sys.executable))
    # Asked in a process of its own: other tests of this one change `sys.path`.
    ask = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    listed = json.loads(subprocess.check_output([sys.executable, "-c", ask], env=ENV, cwd="/"))
    assert found.packages == {normalise_name(name): version for name, version in reversed(listed)}
    assert (found.python, found.implementation) == (platform.python_version(), sys.implementation.name)
    assert found.platform == f"{sys.platform}-{platform.machine()}"


def test_it_describes_the_interpreter_of_the_model(python: Path) -> None:
    """Whatever the packages are called and however they were installed; the first on the path is the one in use."""
    tree(
        site_of(python),
        {
            "numpy-2.1.dist-info/METADATA": "Name: numpy\nVersion: 2.1\n",
            "Old_Style-1.0-py3.11.egg-info/PKG-INFO": "Name: Old_Style\nVersion: 1.0\n",
            "develop.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: develop\nVersion: 3.dev0\n",
            "broken.egg-info/other": "",
        },
    )
    elsewhere = tree(python.parent / "more", {"numpy-1.9.dist-info/METADATA": "Name: numpy\nVersion: 1.9\n"})
    packages = {"numpy": "2.1", "old-style": "1.0", "develop": "3.dev0", "broken": ""}
    assert environment_of_worker(describe(python)).packages == packages
    first = environment_of_worker(describe(python, PYTHONPATH=str(elsewhere))).packages
    assert first == {**packages, "numpy": "1.9"}


def test_what_a_start_prints_does_no_harm(python: Path) -> None:
    (site_of(python) / "sitecustomize.py").write_text('print(\'{"python": "hello"}\')\n')
    assert describe(python)["python"] == platform.python_version()


def test_it_says_nothing_of_variables_and_paths(python: Path) -> None:
    said = str(describe(python, SECRET="hunter2", PYTHONPATH="/somewhere"))
    assert not [word for word in ("hunter2", "SECRET", "/somewhere", str(python.parent)) if word in said]


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false", "/bin/true", "/bin/echo"])
def test_a_program_that_is_not_python_has_no_description(program: str) -> None:
    assert describe(program) is None


def test_python_3_8_can_run_the_script() -> None:
    ast.parse(SOURCE, feature_version=(3, 8))

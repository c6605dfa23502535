"""The worker process: runs a model's tasks, one after the other, in the model's own interpreter.

It is started as a script, by a Python that may be as old as 3.8 and have the standard library alone. So it imports
nothing of mops-jobs. It reads JSON lines from its standard input, and answers with JSON lines on its standard output:

    <- {"root": DIR, "entrypoint": "MODEL/SCENARIO", "spool": DIR}      once: the model to load
    -> {"ready": true, "usage": [...], "host": NAME, "python": VERSION} or {"broken": {"type", "message", "traceback"}}
    <- {"task": N, "params": {...}, "param_id": ID, "seed": N, "attempt": N}
    -> {"task": N, "usage": [...], "outputs": {NAME: BASE64 | {"file": PATH}}} or {..., "error": {"type", ...}}

The first line may have `outputs`, the names that the study gives. With `check` in it, the first answer has `takes`, the
names of the model's arguments. It has `entry_point` if an entry point of the interpreter names the wire function.
An error in the model's own code also has `at`, its FILE:LINE. `usage` is a list. In microseconds, it has start, length,
and processor time in user mode and in the kernel. Last is the peak of memory in bytes, or null.

The model's own output goes to standard error, after a mark with the number of its task. Its standard input is empty.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, BinaryIO, TextIO

    Call = Callable[[dict[str, Any], int], dict[str, bytes]]

MARK = "\x1e"
"""The ASCII record separator: begins a line on standard error with the number of the task that begins."""

INLINE_BYTES = 256 * 1024
"""A larger output goes through a file: base64 in a line would be slower."""
TRACEBACK_CHARACTERS = 8000
BYTES = (bytes, bytearray, memoryview)
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of `ru_maxrss`."""

WIRE_GROUP = "modelops.wire"
"""The group of entry points in which ModelOps looks for a wire function."""

ENTRY_POINT, CONVENTION = "entry point", "wire.py"  # origins of a wire function; nothing names the second one

at_work: dict[str, Any] = {}
"""The `task` that runs, and its process, as `pid`. `mopsjobs.log` adds `logged` to the task. See api/current.py."""


def main(load: Callable[..., Any] | None = None) -> int:
    """Run tasks until the input ends, or the reader of the answers has gone. See reduce_script.py for `load`."""
    sys.modules["mops_jobs_worker"], at_work["pid"] = sys.modules[__name__], os.getpid()
    tasks, answers = _take_over_streams()
    threading.Thread(target=_end_with_reader, args=(answers,), name="reader", daemon=True).start()
    setup = json.loads(tasks.readline())
    meter = _Meter()
    try:
        call, about = (load or _load_model)(setup, tasks, answers)
    except BaseException as error:  # noqa: BLE001 - a model may call sys.exit when it is imported
        _write_answer(answers, {"broken": _error_fields(error, setup["root"])})
        return 1
    try:
        python = ".".join(map(str, sys.version_info[:3]))
        ready = {"ready": True, "usage": meter.read(), "host": os.uname().nodename, "python": python}
        _write_answer(answers, {**ready, **about} if setup.get("check") else ready)
        return _run_tasks(tasks, answers, call, setup, meter)
    finally:
        _end_group()


def _run_tasks(tasks: TextIO, answers: BinaryIO, call: Call, setup: dict[str, Any], meter: _Meter) -> int:
    for line in tasks:
        task = json.loads(line)
        with contextlib.suppress(OSError):
            os.write(2, f"{MARK}{task['task']}\n".encode())
        os.environ["MOPS_JOBS_TASK"], os.environ["MOPS_JOBS_SEED"] = str(task["task"]), str(task["seed"])
        if task["param_id"] != os.environ.get("MOPS_JOBS_PARAM_ID"):
            os.environ["MOPS_JOBS_PARAM_ID"] = task["param_id"]
        at_work["task"] = task
        meter.start()
        try:
            field, result = "outputs", _encode_outputs(call(task["params"], task["seed"]), setup["spool"], task)
        except KeyboardInterrupt:
            return 130
        except BaseException as error:  # noqa: BLE001 - an error of a task ends that task only
            field, result = "error", _error_fields(error, setup["root"])
        _write_answer(answers, {"task": task["task"], "usage": meter.read(), field: result})
    return 0


class _Meter:
    """Measures what tasks use: this process, and the processes that it waited for.

    What is used between two tasks counts for the second. Linux can reset the peak of memory. Elsewhere, and of
    processes that this one waited for, a task has a peak if it is higher than all before it.
    """

    def __init__(self) -> None:
        self._clear = self._status = -1
        with contextlib.suppress(OSError):  # not Linux, or a sandbox
            self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY)
            self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._user = self._system = self._own_peak = self._child_peak = self._faults = self._rss = 0
        self.start()

    def start(self) -> None:
        """Begin a task."""
        self._started_at, self._started = time.time(), time.perf_counter()

    def read(self) -> list[int | None]:
        """Return what was used since the last reading, as answers have it."""
        taken = int((time.perf_counter() - self._started) * 1e6)
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        user, self._user = self._user, int((own.ru_utime + children.ru_utime) * 1e6)
        system, self._system = self._system, int((own.ru_stime + children.ru_stime) * 1e6)
        peak = self._peak(own, children.ru_maxrss * RSS_UNIT)
        return [int(self._started_at * 1e6), taken, self._user - user, self._system - system, peak]

    def _peak(self, own: Any, child: int) -> int | None:
        highest, faults = own.ru_maxrss * RSS_UNIT, own.ru_minflt + own.ru_majflt
        if self._status < 0:
            peak = highest if highest > self._own_peak else 0
        elif faults == self._faults:  # it has got no memory since the last reading
            peak = self._rss
        else:
            text = os.pread(self._status, 4096, 0)
            peak, self._rss = (int(text.split(name, 1)[1].split(None, 1)[0]) * 1024 for name in (b"VmHWM:", b"VmRSS:"))
            os.write(self._clear, b"5")  # resets the peak to what it has now; see proc(5)
        peak = max(peak, child if child > self._child_peak else 0)
        self._own_peak, self._child_peak, self._faults = highest, child, faults
        return peak or None


def _end_with_reader(answers: BinaryIO) -> None:
    """End this process, and those that the model has started, as soon as the reader of the answers is dead."""
    reader = select.poll()
    reader.register(answers, select.POLLHUP)  # which Linux reports as POLLERR
    reader.poll()
    os.kill(0 if os.getpgrp() == os.getpid() else os.getpid(), signal.SIGKILL)  # 0: the group that it leads


def _end_group() -> None:
    """End the processes that the model has started, if this process leads their group: the runner may be dead."""
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)


def _take_over_streams() -> tuple[TextIO, BinaryIO]:
    """Return streams for tasks and answers that the model's prints and reads do not reach."""
    tasks = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return tasks, answers


def _load_model(setup: dict[str, Any], *_streams: object) -> tuple[Call, dict[str, Any]]:
    """Return the model as `call(params, seed) -> outputs`, and what a check is told about it.

    It is the wire function, else the function that the study names.
    """
    root, entrypoint, expected = setup["root"], setup["entrypoint"], setup.get("outputs")
    os.chdir(root)
    sys.path.insert(0, root)
    where, origin = _find_wire(root)
    if where:
        path, _, name = where.rpartition(":")
        is_file = path.endswith(".py") or "/" in path
        module = _import_file(os.path.join(root, path)) if is_file else importlib.import_module(path)
        if origin != CONVENTION or hasattr(module, name):
            wire, takes = _get_function(module, name, ("entrypoint", "params", "seed"))
            about: dict[str, Any] = {"takes": takes, **({"entry_point": where} if origin == ENTRY_POINT else {})}
            return lambda params, seed: _check_outputs(wire(entrypoint, params, seed)), about
    model, _, name = entrypoint.rpartition("/")[0].partition(":")
    if not name:
        raise ValueError(
            f"invalid model {model!r}: expected package.module:function, since nothing else names one: no entry point"
            f" {WIRE_GROUP} in {sys.executable}, and no .modelops/manifest.json or wire.py in the bundle"
        )
    function, takes = _get_function(importlib.import_module(model), name, ("params", "seed"))
    return lambda params, seed: _to_outputs(function(params, seed), expected), {"takes": takes}


def _find_wire(root: str) -> tuple[str, str]:
    """Return the place of the wire function, as `FILE:NAME` or `MODULE:NAME`, and what names it; empty if nothing.

    The order is that of ModelOps: an entry point of the interpreter, the manifest, modelops.toml, the usual file.
    """
    every: Any = importlib.metadata.entry_points()
    points = every.select(group=WIRE_GROUP) if hasattr(every, "select") else every.get(WIRE_GROUP, ())  # before 3.10
    named = sorted({f"{point.name} = {point.value}" for point in points})
    if len(named) > 1:
        raise ValueError(f"expected one entry point {WIRE_GROUP} in {sys.executable}, not {', '.join(named)}")
    if named:
        return named[0].partition(" = ")[2].partition("[")[0].strip(), ENTRY_POINT
    for name, read in ((".modelops/manifest.json", _wire_of_manifest), (".modelops/modelops.toml", _wire_of_toml)):
        path = os.path.join(root, name)
        where = read(path) if os.path.exists(path) else None
        if where is not None:
            if not isinstance(where, str) or not all(where.rpartition(":")):
                raise ValueError(f"invalid wire {where!r} in {name}: expected path/to/file.py:function")
            return where, name
    return ("wire.py:wire", CONVENTION) if os.path.isfile(os.path.join(root, "wire.py")) else ("", "")


def _wire_of_manifest(path: str) -> object:
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    if not isinstance(document, dict):
        raise TypeError(f"invalid .modelops/manifest.json: expected an object, not {type(document).__name__}")
    return document.get("wire")


def _wire_of_toml(path: str) -> object:
    import tomllib  # since Python 3.11

    with open(path, "rb") as file:
        table = tomllib.load(file).get("modelops")
    return table.get("wire") if isinstance(table, dict) else None


def _get_function(module: ModuleType, name: str, arguments: tuple[str, ...]) -> tuple[Any, list[str]]:
    """Return a function of a module that can be called with these arguments, by position, and the names of its own."""
    place = getattr(module, "__file__", None) or module.__name__  # two modules may have the same name
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, [word for word in dir(module) if not word.startswith("_")], 1)
        raise AttributeError(f"there is no {name!r} in {place}{f', did you mean {close[0]!r}?' if close else ''}")
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{name!r} in {place} is not a function but {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function in C, which may not say
        return function, []
    try:
        signature.bind(*arguments)
    except TypeError as error:
        call = f"{name}({', '.join(arguments)})"
        raise TypeError(f"{name}{signature} cannot be called as {call}, with a dict as params: {error}") from None
    return function, list(signature.parameters)


def _import_file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mops_jobs_wire", path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise FileNotFoundError(f"invalid file of the model {path}: expected a Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_outputs(result: object) -> dict[str, bytes]:
    if not isinstance(result, dict):
        raise TypeError(f"invalid result of the model: expected a dict of outputs, not {type(result).__name__}")
    encoded = _encode_each(result)
    _raise_returned_error(encoded)
    return encoded


def _raise_returned_error(outputs: dict[str, bytes]) -> None:
    """Raise the error that a wire function returns in its `metadata`, beside outputs that are all empty.

    ModelOps' wire function does so for a model that it does not find. Its tasks would count as done, with empty tables.
    """
    contents = [content for name, content in outputs.items() if name != "metadata"]
    if "metadata" not in outputs or not contents or any(contents):
        return
    with contextlib.suppress(ValueError):  # of other bytes than JSON
        metadata = json.loads(outputs["metadata"])
        if isinstance(metadata, dict) and metadata.get("error"):
            raise RuntimeError(f"the model returned an error: {metadata['error']}")


def _to_outputs(result: object, expected: list[str] | None) -> dict[str, bytes]:
    """Return the outputs of a plain function.

    A dict with bytes or tables among its values, or with all outputs that the study names, has an output per entry.
    Anything else is one output.
    """
    if isinstance(result, dict) and result:
        is_named = bool(expected) and result.keys() >= set(expected or ())
        if is_named or any(isinstance(value, BYTES) or _is_table(value) for value in result.values()):
            return _encode_each(result)
    suffix = "csv" if _is_table(result) else "bin" if isinstance(result, BYTES) else "json"
    return {f"result.{suffix}": _to_json(result) if suffix == "json" else _to_bytes(result)}


def _encode_each(outputs: dict[Any, object]) -> dict[str, bytes]:
    for name in outputs:
        if not isinstance(name, str):
            raise TypeError(f"invalid name of an output {name!r}: expected a text")
    return {name: _to_bytes(value) for name, value in outputs.items()}


def _to_bytes(value: Any) -> bytes:
    """Return the content of an output: bytes as they are, text as UTF-8, a table as CSV, anything else as JSON."""
    if isinstance(value, BYTES):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8")
    return str(value.to_csv()).encode("utf-8") if _is_table(value) else _to_json(value)


def _is_table(value: object) -> bool:
    """Return True for a DataFrame or a Series of pandas. A model that has none may not have pandas."""
    pandas = sys.modules.get("pandas")
    kinds = tuple(getattr(pandas, name) for name in ("DataFrame", "Series") if hasattr(pandas, name))
    return isinstance(value, kinds)


def _to_json(value: object) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, default=_to_plain)
    except TypeError as error:
        if not str(error).startswith("keys must be"):
            raise
        text = json.dumps(_with_plain_keys(value), sort_keys=True, allow_nan=False, default=_to_plain)
    return text.encode("utf-8")


def _to_plain(value: Any) -> Any:
    """Return the numbers of a scalar or an array of numpy, and of what is like them."""
    if _is_table(value) or not callable(getattr(value, "tolist", None)):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return value.tolist()


def _with_plain_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_to_plain(key) if hasattr(key, "tolist") else key: _with_plain_keys(value[key]) for key in value}
    return [_with_plain_keys(item) for item in value] if isinstance(value, (list, tuple)) else value


def _encode_outputs(outputs: dict[str, bytes], spool: str, task: dict[str, Any]) -> dict[str, Any]:
    if "logged" in task:
        if "logged.json" in outputs:
            raise ValueError("invalid output logged.json: expected another name, since the task logs scalars there")
        outputs["logged.json"] = _to_json(task["logged"])
    encoded: dict[str, Any] = {}
    for number, (name, content) in enumerate(outputs.items()):
        if len(content) <= INLINE_BYTES:
            encoded[name] = base64.b64encode(content).decode("ascii")
        else:
            path = os.path.join(spool, f"task-{task['task']}-{number}-{os.getpid()}")
            # For its owner alone, also if the model has set another umask.
            with open(path, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(content)
            encoded[name] = {"file": path}
    return encoded


def _flush() -> None:
    """Flush what the model has printed."""
    try:  # for a task of a moment, contextlib.suppress would take as long as the rest
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # the model may have closed or replaced one
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()


def _error_fields(error: BaseException, root: str) -> dict[str, str]:
    own, trace, top = _error_fields.__code__.co_filename, error.__traceback__, os.path.join(root, "")
    while trace is not None and trace.tb_frame.f_code.co_filename == own:  # what lies above the model
        trace = trace.tb_next
    described = traceback.TracebackException(type(error), error, trace or error.__traceback__)  # also if `str` raises
    text = "".join(described.format())[-TRACEBACK_CHARACTERS:]
    fields = {"type": type(error).__name__, "message": str(described), "traceback": text}
    steps: list[Any] = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    steps += [(error.filename or "", error.lineno)] if isinstance(error, SyntaxError) else []
    inside = [f"{path[len(top) :]}:{line}" for path, line in steps if path.startswith(top)]
    return {**fields, "at": inside[-1]} if inside else fields


def _write_answer(answers: BinaryIO, content: dict[str, Any]) -> None:
    _flush()  # a task's lines come before its answer
    answers.write(json.dumps(content).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    raise SystemExit(main())

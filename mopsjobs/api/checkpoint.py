"""Inside a task: save its state, so that a task that is killed goes on where it was.

This is a layer over the directory that any program can use, see runner/checkpoints.py. A state is a directory there,
with `state.json`, and with `state.bin`, `arrays.npz` or `files/` if it has bytes, arrays or files.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mopsjobs.api.current import current_line
from mopsjobs.errors import UsageError, shorten
from mopsjobs.utils.files import make_directory, private_opener

DIRECTORY, EVERY = "MOPS_JOBS_CHECKPOINT_DIR", "MOPS_JOBS_CHECKPOINT_EVERY"

EXIT_CODE = 85
"""With it, a task that has saved ends, to be started again."""

LOOK_SECONDS = 0.05
"""How often `due` looks whether the task is to stop: it may be called in each step."""

MAX_LEFT = 10
"""How many checkpoints are left to the runner, which takes the last. More would keep it busy."""

STOP = "stop"

STATE, BYTES, ARRAYS, FILES = "state.json", "state.bin", "arrays.npz", "files"

MAX_AT = 100

_ARRAY, _TUPLE, _BYTES = "$array", "$tuple", "$bytes"
"""Members of JSON for what it does not have."""


class Checkpoint:
    """The checkpoints of the current task. `checkpoint` returns it."""

    def __init__(self, directory: Path | None, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._every = every
        self._clock = clock
        self._saved_at = clock()
        self._looked_at = self._saved_at - LOOK_SECONDS
        self._is_told = False
        self._left: list[Path] = []
        """The last checkpoints, which the runner may not have taken."""
        self._last: Path | None = None
        self._at: float | str | None = None
        if directory is not None:
            make_directory(directory / "new")  # by it, the runner knows that the task can save
            last = directory / "last"
            self._last = next(iter(last.iterdir()), None) if last.is_dir() else None
            _stop_on_sigterm(directory / STOP)
            if self._last is not None:
                self._at = self._last.name if not (self._last / STATE).is_file() else self._read(self._last)["at"]

    @property
    def at(self) -> float | str | None:
        """Return where the state was saved that `load` returns, or that was saved last; None at the first start."""
        return self._at

    def load(self) -> Any:
        """Return the state that this attempt goes on from; None at the first start, and outside of a task.

        It is what `save` was given. A path is that of a copy, which the task may change. What a program in another
        language has saved is such a path, too.
        """
        if self._last is None:
            return None
        if not (self._last / STATE).is_file():
            return self._last
        document = self._read(self._last)
        if (name := document.get("file")) is not None:
            return self._last / FILES / name
        if (self._last / BYTES).exists():
            return (self._last / BYTES).read_bytes()
        arrays: Any = {}
        if (self._last / ARRAYS).exists():
            with _numpy().load(self._last / ARRAYS, allow_pickle=False) as file:
                arrays = dict(file)
        return _revive(document["state"], arrays)

    def save(self, state: Any, at: float | str) -> None:
        """Save a state. A task that was told to stop ends with it: it raises `SystemExit`, and is started again later.

        It returns when the state is on this disk. The runner sends it to the store. Outside of a task it is dropped.

        Args:
            state: bytes, the path of a file or a directory to copy, or values of JSON. These may have tuples, bytes and
                arrays of numpy in them.
            at: where the task is, for example its step or its day. A number, or a text of up to 100 characters that
                could be the name of a file.

        Raises:
            UsageError: if the state or `at` is something else.
            OSError: if this disk does not take it.
        """
        at, name = _name_of(at)
        arrays: dict[str, Any] = {}
        is_raw = isinstance(state, (bytes, bytearray, memoryview, os.PathLike))
        document = {"at": at, "state": None if is_raw else _plain(state, arrays, "state")}
        self._at = at
        if self._directory is None:
            return
        part = self._directory / f"part-{os.getpid()}"
        try:
            part.mkdir(0o700)
            if is_raw:
                document |= _write_raw(state, part)
            elif arrays:
                with open(part / ARRAYS, "xb", opener=private_opener) as file:
                    _numpy().savez(file, **arrays)
                    file.flush()
                    os.fsync(file.fileno())
            _write(part / STATE, json.dumps(document).encode())
            new = self._directory / "new" / name
            self._discard(new)  # one of the same name
            os.rename(part, new)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._left = [path for path in self._left if path != new] + [new]
        for path in self._left[:-MAX_LEFT]:
            self._discard(path)
        del self._left[:-MAX_LEFT]
        self._saved_at = self._clock()
        if self._looks_for_stop():
            raise SystemExit(EXIT_CODE)

    def due(self) -> bool:
        """Return whether to save now: since the interval of `--checkpoint-every` has passed, or the task is to stop.

        Call it in each step: it takes microseconds.
        """
        now = self._clock()
        if now - self._saved_at >= self._every:
            return self._directory is not None
        if not self._is_told and now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            return self._looks_for_stop()
        return self._is_told

    def _discard(self, path: Path) -> None:
        """Remove a checkpoint that the runner has not taken: by a move, so that it never takes half of one."""
        away = path.parent.parent / f"part-{os.getpid()}-away"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, away)
            shutil.rmtree(away, ignore_errors=True)

    def _looks_for_stop(self) -> bool:
        self._is_told = self._is_told or (self._directory is not None and (self._directory / STOP).exists())
        return self._is_told

    def _read(self, path: Path) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((path / STATE).read_bytes())
        return document


def checkpoint() -> Checkpoint:
    """Return the checkpoints of the current task. Outside of a task, nothing is saved, and there is none to load."""
    directory = os.environ.get(DIRECTORY)
    return Checkpoint(Path(directory) if directory else None, float(os.environ.get(EVERY, "600")))


def _stop_on_sigterm(stop: Path) -> None:
    """Take a SIGTERM to the worker as a request to stop: Slurm sends it to all processes of a job.

    A handler of the model stays. The worker takes this one away when the task ends.
    """
    line = current_line()
    is_main = threading.current_thread() is threading.main_thread()
    if line is not None and is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda _number, _frame: stop.touch())
        line["handles_sigterm"] = True


def _numpy() -> Any:
    return importlib.import_module("numpy")  # that of the model


def _write_raw(state: Any, part: Path) -> dict[str, str]:
    """Write bytes, or copy a file or a directory. Return what is noted of it."""
    if not isinstance(state, os.PathLike):
        _write(part / BYTES, bytes(state))
        return {}
    source = Path(state)
    name = source.resolve().name
    (part / FILES).mkdir(0o700)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, part / FILES / name)
    return {"file": name}


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb", opener=private_opener) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _name_of(at: Any) -> tuple[float | str, str]:
    value = at.item() if hasattr(at, "item") else at  # a number of numpy
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    name = str(value)
    if not (is_number or isinstance(value, str)) or not (
        0 < len(name) <= MAX_AT and name.isprintable() and "/" not in name and not name.startswith(".")
    ):
        raise UsageError(f"invalid at {shorten(repr(at), 60)}: expected a number, or a text like the name of a file.")
    return value, name


def _plain(value: Any, arrays: dict[str, Any], path: str) -> Any:
    """Return a value as JSON has it; arrays are gathered beside it."""
    numpy: Any = sys.modules.get("numpy")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        if value.dtype.hasobject:
            raise UsageError(f"{path} is an array of objects: expected numbers or texts.")
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, (bytes, bytearray)):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        items = [_plain(item, arrays, f"{path}[{place}]") for place, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key.startswith("$"):
                raise UsageError(f"{path} has the key {shorten(repr(key), 60)}: expected texts without $ in front.")
        return {key: _plain(item, arrays, f"{path}[{key!r}]") for key, item in value.items()}
    hint = {"Generator": "Save its bit_generator.state.", "Random": "Save its getstate()."}.get(type(value).__name__)
    raise UsageError(
        f"{path} is a {type(value).__name__}: expected values of JSON, bytes, tuples or arrays of numpy.", hint=hint
    )


def _revive(value: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_revive(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        return arrays[value[_ARRAY]][()]  # a number of numpy, if it has no dimensions
    if _TUPLE in value:
        return tuple(_revive(item, arrays) for item in value[_TUPLE])
    if _BYTES in value:
        return base64.b64decode(value[_BYTES])
    return {key: _revive(item, arrays) for key, item in value.items()}

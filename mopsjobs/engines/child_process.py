"""A child process without the parent's secrets, which exchanges JSON lines with it.

A Dask client unpickles messages of its scheduler, and a pickle may run any code. In a child process, that code finds no
secret in its environment, and the parent reads JSON only. The child runs as the same user, so this does not hold off a
hostile scheduler. See docs/decisions/0013-dask-by-source-text.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mopsjobs.engines.model_env import without_secrets
from mopsjobs.errors import EngineError, EngineUnavailableError, MopsJobsError, command_line

MAX_LINE_BYTES = 2**30
"""Length of a message, at most."""

GRACE_SECONDS = 10.0
"""How long a child may take to end when its streams are closed: it first cancels its tasks on the cluster."""


def resume_hint() -> str:
    """Return the hint if the child has ended."""
    return f"Run the job again; it continues where it was: {command_line('resume')}"


_START = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[2]); importlib.import_module(sys.argv[1]).main()"
)


class Child:
    """The child process, as its parent sees it."""

    def __init__(self, module: str, setup: Mapping[str, object], env: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            module: the module whose `main` it runs.
            setup: its first message.
            env: the environment of the parent; the child gets it without secrets.
        """
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-c", _START, module, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=without_secrets(env),
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches the parent, which closes the streams
        )
        assert self._process.stdin is not None  # noqa: S101 - a pipe, as the other
        assert self._process.stdout is not None  # noqa: S101
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._buffer = bytearray()
        try:
            self.send(setup)
        except BaseException:
            self.close()
            raise

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message.

        Raises:
            EngineUnavailableError: if the process has ended.
        """
        rest = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._stdin.write(rest) or 0 :]
        except BrokenPipeError:
            raise self._ended_error() from None

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message; None if none comes within `seconds`.

        Raises:
            EngineUnavailableError: if the process has ended.
            EngineError: if the process wrote something else than a message, or reports an error.
        """
        deadline = time.monotonic() + seconds
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise self._unexpected_output_error()
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                return None
            data = os.read(self._stdout.fileno(), 2**20)
            if not data:
                raise self._ended_error()
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise self._unexpected_output_error() from None
        if not isinstance(message, dict):
            raise self._unexpected_output_error()
        if isinstance(failed := message.get("failed"), dict):
            kind = EngineUnavailableError if failed.get("unavailable") else EngineError
            hint = failed.get("hint")
            raise kind(str(failed.get("message")), hint=None if hint is None else str(hint))
        return message

    def close(self) -> None:
        """Close the streams, and wait for the process to end; kill it if it does not."""
        self._selector.close()
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ended_error(self) -> EngineUnavailableError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        return EngineUnavailableError(
            f"The process that talks to Dask has ended (exit code {self._process.returncode}).",
            hint=resume_hint(),
        )

    def _unexpected_output_error(self) -> EngineError:
        return EngineError("unexpected response from the process that talks to Dask.")


class ParentStreams:
    """The streams to the parent, in the child process. Prints of libraries go to standard error."""

    def __init__(self) -> None:
        self._stdin = sys.stdin.buffer
        self._stdout = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message.

        Raises:
            EOFError: if the parent has closed the streams.
        """
        try:
            self._stdout.write(json.dumps(message).encode() + b"\n")
            self._stdout.flush()
        except BrokenPipeError:
            raise EOFError from None

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            EOFError: if the parent has closed the streams.
        """
        line = self._stdin.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message

    def is_over(self) -> bool:
        """Return True if the parent has closed the streams. Call it only between an answer and the next question."""
        return bool(select.select([self._stdin], [], [], 0)[0])


@contextlib.contextmanager
def run_as_child(parent: ParentStreams) -> Iterator[None]:
    """Run the block, send its error to the parent, and end this process."""
    try:
        with contextlib.suppress(EOFError):
            try:
                yield
            except MopsJobsError as error:
                is_outage = isinstance(error, EngineUnavailableError)
                parent.send({"failed": {"message": error.message, "hint": error.hint, "unavailable": is_outage}})
    except BaseException:  # noqa: BLE001 - printed as Python does, before the process ends
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)  # threads of the library may still run

"""A child process without the secrets of its parent, driven by JSON lines: for libraries that run code of others.

A Dask client unpickles what its scheduler says, and a pickle may run any code. So that code finds no secret in its
environment, and this side reads JSON alone. It runs as the same user all the same: no wall against one who means harm.
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
from mopsjobs.errors import EngineError, EngineUnavailableError, MopsJobsError

MAX_LINE_BYTES = 2**30
"""A longer line is refused."""


GRACE_SECONDS = 10.0
"""How long a child may take to leave when its streams are closed: it first takes back what it has at the cluster."""


_START = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[2]); importlib.import_module(sys.argv[1]).main()"
)


class Child:
    """Such a process, from the side that has the secrets."""

    def __init__(self, module: str, setup: Mapping[str, object], env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            module: whose `main` it runs.
            setup: its first line.
            env: this process's environment; secrets are left out.
        """
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-c", _START, module, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=without_secrets(env),
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for this side, which closes the streams
        )
        assert self._process.stdin is not None  # noqa: S101 - asked for above, as is the other
        assert self._process.stdout is not None  # noqa: S101
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._heard = bytearray()
        try:
            self.tell(setup)
        except BaseException:
            self.close()
            raise

    def tell(self, message: Mapping[str, object]) -> None:
        """Send a message.

        Raises:
            EngineUnavailableError: if the process has ended.
        """
        rest = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._stdin.write(rest) or 0 :]
        except BrokenPipeError:
            raise self._gone() from None

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None if there is none for so long.

        Raises:
            EngineUnavailableError: if the process has ended.
            EngineError: if it says something else than a message, or why it failed.
        """
        end = time.monotonic() + seconds
        begun = 0
        while (at := self._heard.find(b"\n", begun)) < 0:
            begun = len(self._heard)
            if begun > MAX_LINE_BYTES:
                raise self._nonsense()
            if not self._selector.select(max(0.0, end - time.monotonic())):
                return None
            data = os.read(self._stdout.fileno(), 2**20)
            if not data:
                raise self._gone()
            self._heard += data
        line = bytes(self._heard[:at])
        del self._heard[: at + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise self._nonsense() from None
        if not isinstance(message, dict):
            raise self._nonsense()
        if isinstance(failed := message.get("failed"), dict):
            kind = EngineUnavailableError if failed.get("unavailable") else EngineError
            hint = failed.get("hint")
            raise kind(str(failed.get("message")), hint=None if hint is None else str(hint))
        return message

    def close(self) -> None:
        """Let it leave, in order if it can."""
        self._selector.close()
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> EngineUnavailableError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        return EngineUnavailableError(
            f"The process that talks to Dask has ended (exit code {self._process.returncode}).",
            hint="Running the job again goes on where it was: mops-jobs resume.",
        )

    def _nonsense(self) -> EngineError:
        return EngineError("The process that talks to Dask says something else than messages.")


class Channel:
    """The same streams, from within the process. What libraries print goes to standard error."""

    def __init__(self) -> None:
        self._stdin = sys.stdin.buffer
        self._stdout = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def say(self, message: Mapping[str, object]) -> None:
        """Send a message.

        Raises:
            EOFError: if the other side has left.
        """
        try:
            self._stdout.write(json.dumps(message).encode() + b"\n")
            self._stdout.flush()
        except BrokenPipeError:
            raise EOFError from None

    def hear(self) -> dict[str, Any]:
        """The next message.

        Raises:
            EOFError: if the other side has left.
        """
        line = self._stdin.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message

    def is_over(self) -> bool:
        """Whether the other side has left, in the time between an answer and the next question."""
        return bool(select.select([self._stdin], [], [], 0)[0])


@contextlib.contextmanager
def serving(channel: Channel) -> Iterator[None]:
    """Serve the other side, tell it why that failed, and end this process."""
    try:
        with contextlib.suppress(EOFError):
            try:
                yield
            except MopsJobsError as error:
                is_away = isinstance(error, EngineUnavailableError)
                channel.say({"failed": {"message": error.message, "hint": error.hint, "unavailable": is_away}})
    except BaseException:  # noqa: BLE001 - said by Python's own words, before the process ends
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)  # threads of the library may still be at something

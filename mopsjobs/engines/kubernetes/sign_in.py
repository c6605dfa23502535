"""Sign in to a cluster by the program that the kubeconfig names, as kubectl does, but within a time limit.

The program prints an ExecCredential with a token. A process runs it once, and again when the cluster refuses the token.
It cannot ask the user anything: its output is read, and it has no input.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator
from typing import TYPE_CHECKING

import httpx

from mopsjobs.errors import EngineAccessError, EngineUnavailableError, shorten
from mopsjobs.utils.text import last_line

if TYPE_CHECKING:
    from lightkube.config.models import UserExec

SIGN_IN_SECONDS = 30.0
"""How long the program may take. It may talk to a server of its own, but not wait for a user."""

HINT = "Sign in again, and try: kubectl get jobs"

CHECK_HINT = "Check command, args and env with: kubectl config view"

MAX_SHOWN = 300
"""Characters of what the program has printed that a message shows, at most."""

_TOKENS: dict[tuple[str, ...], str] = {}
"""The tokens of this process, by server, program and arguments."""


class SignIn(httpx.Auth):
    """Adds the token of a program to requests."""

    def __init__(self, program: UserExec, server: str) -> None:
        """Take the program. It is run at the first request.

        Args:
            program: the program, as the kubeconfig has it.
            server: the address of the cluster, without secrets.
        """
        self._program = program
        self._server = server
        self._env = {variable.name: variable.value for variable in program.env or ()}
        self._key = (server, program.command, *(program.args or ()), *(f"{k}={v}" for k, v in self._env.items()))

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See `httpx.Auth`. A token that is refused is replaced once."""
        token = _TOKENS.get(self._key)
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
            response = yield request
            if response.status_code != httpx.codes.UNAUTHORIZED:
                return
        token = _TOKENS[self._key] = self._new_token()
        request.headers["Authorization"] = f"Bearer {token}"
        yield request

    def _new_token(self) -> str:
        """Run the program, and return the token that it prints.

        Raises:
            EngineAccessError: if there is none.
            EngineUnavailableError: if the program does not end. For another job, it would not either.
        """
        program = self._program
        info = {"apiVersion": program.apiVersion, "kind": "ExecCredential", "spec": {"interactive": False}}
        env = {**os.environ, **self._env, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            done = subprocess.run(  # noqa: S603 - the user's own kubeconfig names it
                [program.command, *(program.args or ())],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SIGN_IN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = self._error_text(f"did not answer within {SIGN_IN_SECONDS:g} s", error.stderr)
            raise EngineUnavailableError(message, hint=HINT, sent=False) from None
        except OSError as error:
            raise EngineAccessError(self._error_text(f"cannot be started ({error.strerror})"), hint=HINT) from None
        except (TypeError, ValueError):  # a number, or a text with NUL
            message = self._error_text("cannot be started (invalid user in the kubeconfig)")
            raise EngineAccessError(message, hint=CHECK_HINT) from None
        if done.returncode:
            raise EngineAccessError(self._error_text(f"ended with {done.returncode}", done.stderr), hint=HINT)
        try:
            token = json.loads(done.stdout)["status"]["token"]
        except (ValueError, LookupError, TypeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token:
            raise EngineAccessError(self._error_text("printed no token", done.stderr), hint=HINT)
        return token

    def _error_text(self, problem: str, stderr: bytes | None = None) -> str:
        """Return the sentence of an error, with the last line that the program has printed."""
        line = shorten(" ".join(last_line(stderr or b"").split()), MAX_SHOWN).rstrip(".")
        return (
            f"Cannot sign in to the cluster at {self._server}: {self._program.command} {problem}{line and f': {line}'}."
        )

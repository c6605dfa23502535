"""Another interpreter of Python, which has packages that the one of mops-jobs lacks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mopsjobs.errors import MopsJobsError
from mopsjobs.utils.text import last_line

START_SECONDS = 60.0


class Interpreter(NamedTuple):
    """An interpreter that the user has chosen, and its environment."""

    path: str
    env: Mapping[str, str]

    def runs(self, statement: str) -> bool:
        """Return whether it runs a statement."""
        try:
            done = subprocess.run(  # noqa: S603 - the user's own choice
                [self.path, "-c", statement], env=dict(self.env), stdin=subprocess.DEVNULL, capture_output=True,
                timeout=START_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0

    def feed(self, script: str, documents: Iterable[object]) -> None:
        """Run a script that reads JSON documents, one per line. Its file need not be there for long.

        Raises:
            MopsJobsError: if it fails.
            OSError: if the interpreter cannot be started.
        """
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(  # noqa: S603 - the user's own choice
                [self.path, "-c", Path(script).read_text("utf-8")],
                env=dict(self.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            assert process.stdin is not None  # noqa: S101 - a pipe
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin as lines:
                    for document in documents:
                        lines.write(json.dumps(document).encode() + b"\n")
                is_done = process.wait() == 0
            finally:
                process.kill()  # of no effect if it has ended
                process.wait()
            if not is_done:
                errors.seek(0)
                raise MopsJobsError(f"{self.path} has failed: {last_line(errors.read()).rstrip('.')}.")

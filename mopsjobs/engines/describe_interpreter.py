"""Have a model's interpreter describe itself, by a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

SECONDS = 20.0
"""How long it may take. A busy network drive has taken most of it."""

SOURCE = Path(__file__).with_name("interpreter_script.py").read_text("utf-8")
"""Read at import: the file lies in a cache directory, which may be cleared while a runner works."""


def describe_interpreter(python: str, env: Mapping[str, str]) -> object:
    """Return what interpreter_script.py prints; None if the interpreter does not run it.

    Args:
        python: the interpreter.
        env: its environment.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter is the user's own choice
            [python, "-c", SOURCE],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            start_new_session=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, RecursionError, subprocess.SubprocessError):
        return None

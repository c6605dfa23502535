"""The worker script as a process of its own, on a model that a test writes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.engines.model_process import WORKER
from support.runs import PATIENCE


class Talk(NamedTuple):
    """The answers of a worker and its other output."""

    answers: list[Any]
    err: str
    code: int


class Worker:
    """Runs workers in a directory, each to its end."""

    def __init__(self, directory: Path) -> None:
        """Make the directory of their large outputs."""
        self._directory = directory
        self.spool = directory / "spool"
        self.spool.mkdir()

    def __call__(
        self,
        source: str,
        *tasks: dict[str, Any],
        entrypoint: str = "model:f/baseline",
        wire: str | None = None,
        **more: Any,
    ) -> Talk:
        """Run a model on tasks."""
        root = self._directory / "code"
        root.mkdir(exist_ok=True)
        (root / "model.py").write_text(source)
        if wire is not None:
            (root / ".modelops").mkdir(exist_ok=True)
            (root / ".modelops" / "manifest.json").write_text(wire)
        setup = {"root": str(root), "entrypoint": entrypoint, "spool": str(self.spool), **more}
        usual = {"params": {}, "param_id": "p", "seed": 0}
        lines = [setup, *({"task": number, **usual, **task} for number, task in enumerate(tasks))]
        talk = subprocess.run(
            [sys.executable, "-u", str(WORKER)],
            input="".join(json.dumps(line) + "\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self._directory,
        )
        return Talk([json.loads(line) for line in talk.stdout.splitlines()], talk.stderr, talk.returncode)


def wire_manifest(path: str) -> str:
    """Return a manifest of ModelOps that names a wire function."""
    return json.dumps({"wire": path, "more": "of others' doing"})


def decoded_outputs(answer: Any) -> dict[str, bytes]:
    """Return the outputs in the answer to one task."""
    return {name: base64.b64decode(content) for name, content in answer["outputs"].items()}

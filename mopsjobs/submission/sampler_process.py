"""The process that runs the sampler and the objective of a calibration, in the model's own interpreter."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from mopsjobs.bundles.extraction import extract
from mopsjobs.engines.model_env import model_environment
from mopsjobs.engines.model_errors import ModelError, load_error, not_started_error, startup_error
from mopsjobs.engines.model_process import (
    MAX_ANSWER_BYTES,
    MAX_MESSAGE,
    SAMPLER_SOURCE,
    parse_answer,
    write_reduce_worker,
)
from mopsjobs.errors import UsageError, shorten
from mopsjobs.utils.files import private_opener
from mopsjobs.utils.text import last_line

WHAT = "sampler"


class SamplerProcess:
    """A sampler and an objective, which answer one question after the other. See engines/sampler_script.py."""

    def __init__(self, python: str, archive: bytes, setup: Mapping[str, object], env: Mapping[str, str]) -> None:
        """Start the process on the unpacked code.

        Args:
            python: the interpreter.
            archive: the bundle of the model's code.
            setup: the first line of its input, without `root`.
            env: the environment. The process gets none of its secrets.

        Raises:
            ModelError: if the sampler or the objective cannot be loaded.
            BundleError: if the code cannot be unpacked.
        """
        self._python = python
        self._directory = tempfile.TemporaryDirectory(prefix="mops-jobs-", ignore_cleanup_errors=True)
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process: subprocess.Popen[bytes] | None = None
        self.has_posterior = False
        """Whether the sampler has draws from the posterior distribution."""
        try:
            self._start(archive, setup, env)
        except BaseException:
            self.close()
            raise

    def _start(self, archive: bytes, setup: Mapping[str, object], env: Mapping[str, str]) -> None:
        directory = Path(self._directory.name)
        root = directory / "code"
        root.mkdir()
        extract(archive, str(root), sync=False)
        script = write_reduce_worker(directory).with_name("sampler_script.py")
        with open(script, "xb", opener=private_opener) as file:
            file.write(SAMPLER_SOURCE)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
                [self._python, "-u", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._lines,
                env={"PYTHONHASHSEED": "0", **model_environment(env)},  # a set has the same order each time
                start_new_session=True,
            )
        except OSError as error:
            raise not_started_error(self._python, error) from None
        answer = self._ask({"root": str(root), **setup})
        if isinstance(broken := answer.get("broken"), dict):
            message = shorten(str(broken["message"]).replace(f"{root}/", ""), MAX_MESSAGE)
            raise load_error({**broken, "message": message}, WHAT)
        self.has_posterior = bool(answer.get("posterior"))

    def ask(self, count: int) -> list[dict[str, Any]]:
        """Return the next sets that the sampler asks for; none if it has finished.

        Raises:
            ModelError: if it fails.
        """
        sets: list[dict[str, Any]] = self._answer({"ask": count})["sets"]
        return sets

    def draw(self, count: int) -> list[dict[str, Any]]:
        """Return draws of the sampler from the posterior distribution.

        Raises:
            UsageError: if it has none.
            ModelError: if it fails.
        """
        self.require_posterior()
        sets: list[dict[str, Any]] = self._answer({"posterior": count})["sets"]
        return sets

    def require_posterior(self) -> None:
        """Refuse a sampler without draws from the posterior distribution.

        Raises:
            UsageError: if it has none.
        """
        if not self.has_posterior:
            raise UsageError(
                "The sampler has no posterior draws: it has no method posterior(n).",
                hint="The sets with the smallest values: --then top=N.",
            )

    def tell(self, results: Sequence[tuple[Mapping[str, Any], Sequence[float] | None, int, float | None]]) -> bool:
        """Tell the sampler the results of sets. Return whether it has finished.

        Raises:
            ModelError: if it fails.
        """
        return bool(self._answer({"tell": results})["finished"])

    def judge(self, params: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> float | dict[str, Any]:
        """Return the value of a set by the objective; its error, with `type` and `message`, if it fails.

        Args:
            params: the parameters of the model.
            tasks: its replicates, as a reduce function gets them.

        Raises:
            ModelError: if the process ends.
        """
        rows = [
            {**task, "outputs": {name: base64.b64encode(value).decode() for name, value in task["outputs"].items()}}
            for task in tasks
        ]
        answer = self._ask({"params": params, "tasks": rows})
        if isinstance(broken := answer.get("broken"), dict):
            return broken
        return float(answer["value"])

    def _answer(self, line: Mapping[str, object]) -> dict[str, Any]:
        answer = self._ask(line)
        if isinstance(broken := answer.get("broken"), dict):
            message = f"The {WHAT} has failed: {broken['type']}: {shorten(str(broken['message']), MAX_MESSAGE)}"
            at = broken.get("at")
            raise ModelError(message, hint=f"See {at} in the packed code." if at else None, error=broken)
        return answer

    def _ask(self, line: Mapping[str, object]) -> dict[str, Any]:
        process = self._process
        assert process is not None  # noqa: S101 - it was started
        assert process.stdin is not None  # noqa: S101 - pipes
        assert process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            self._lines.seek(0)
            raise startup_error(code, shorten(last_line(self._lines.read()[-MAX_ANSWER_BYTES:]), MAX_MESSAGE))
        return parse_answer(answer, self._python)

    def close(self) -> None:
        """End the process, with what the code has started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        self._lines.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Run processes in turn and take their time, processor time and peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import interpreter

TIMEOUT_SECONDS = 900

# A process begins with the peak memory of the one that started it, and starting from a large one takes longer. So a
# bare interpreter stands in between: it starts one program, waits for it, and says what that took.
_LAUNCHER = """
import json, os, sys, time
output, errors, *argv = sys.argv[1:]
writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
files = [(os.POSIX_SPAWN_OPEN, 1, output, writing, 0o600), (os.POSIX_SPAWN_OPEN, 2, errors, writing, 0o600)]
start = time.perf_counter()
os.environ["BENCH_STARTED"] = str(start)  # for a process that tells when something has come
_, status, usage = os.wait4(os.posix_spawn(argv[0], argv, os.environ, file_actions=files), 0)
seconds = time.perf_counter() - start
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit]))
"""


@dataclass(frozen=True)
class Sample:
    """One run of one process."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass
class Case:
    """A process to measure."""

    argv: list[str]
    env: dict[str, str]
    prepare: Callable[[], None] = lambda: None
    """Called before each run, outside of the time."""
    check: Callable[[str], None] = lambda output: None
    """Called with what each run printed; raises if that is wrong. A wrong answer is not measured."""
    cwd: Path | None = None
    """Where it runs; None: where we do."""
    slow: bool = False
    """Too slow to run more than once: in the first round, without a warm-up."""
    may_fail: bool = False
    """It is not run again after an error, which is kept; the others go on."""
    error: str = ""
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Return the median time."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def cpu_seconds(self) -> float:
        """Return the median processor time."""
        return statistics.median(sample.cpu_seconds for sample in self.samples)

    @property
    def peak_mib(self) -> float:
        """Return the largest peak of resident memory."""
        return max(sample.peak_mib for sample in self.samples)

    def ratios_to(self, other: Case) -> tuple[float, float]:
        """Return this case's time by the other's in the same round, median over the rounds; the same of processor time.

        On a machine that has other things to do, the second moves less.
        """
        rounds = list(zip(self.samples, other.samples, strict=False))  # a slow one has been there only once
        return (
            statistics.median(mine.seconds / theirs.seconds for mine, theirs in rounds),
            statistics.median(mine.cpu_seconds / theirs.cpu_seconds for mine, theirs in rounds),
        )


def in_turn(cases: Iterable[Case], runs: int, directory: Path, *, warms_up: bool = True) -> None:
    """Run the cases A B C, A B C, ... and keep their samples; a first round only warms up, if asked for.

    What disturbs the machine for a while then disturbs all of them alike, and a ratio taken within a round holds.
    """
    for round_number in range(not warms_up, runs + 1):
        for case in cases:
            if case.error or (case.slow and round_number != 1):
                continue
            case.prepare()
            try:
                sample = run(case, directory)
            except RuntimeError as error:
                if not case.may_fail:
                    raise
                case.error = str(error)
                progress(case.error)
                continue
            if round_number:
                case.samples.append(sample)


def run(case: Case, directory: Path) -> Sample:
    """Run one case once.

    Raises:
        RuntimeError: if it failed, took too long, or printed something wrong.
    """
    output, errors = directory / "stdout", directory / "stderr"
    launcher = [interpreter(), "-I", "-S", "-c", _LAUNCHER, str(output), str(errors), *case.argv]
    with subprocess.Popen(
        launcher, env=case.env, cwd=case.cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            told, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"still running after {TIMEOUT_SECONDS} s: {' '.join(case.argv)}\n{_end_of(errors)}"
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone when all went well
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise RuntimeError(f"could not run: {' '.join(case.argv)}")
    code, seconds, cpu_seconds, peak_mib = json.loads(told)
    if code != 0:
        raise RuntimeError(f"exit code {code} from: {' '.join(case.argv)}\n{_end_of(errors)}")
    case.check(output.read_text(encoding="utf-8"))
    return Sample(seconds, cpu_seconds, peak_mib)


def _end_of(errors: Path) -> str:
    return errors.read_text(errors="replace")[-2000:]


def must_print(wanted: str) -> Callable[[str], None]:
    """Return a check that a process has printed this text.

    Raises:
        RuntimeError: if it has printed another one. The check raises it.
    """

    def check(output: str) -> None:
        if output.strip() != wanted:
            raise RuntimeError(f"printed {output!r} instead of {wanted}")

    return check


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(f"bench: {text}", file=sys.stderr, flush=True)

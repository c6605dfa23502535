"""The machine and the interpreter that are measured."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "dist" / "mops-jobs.pyz"


def interpreter() -> str:
    """Return the binary behind this Python: neither a virtual environment's link nor a version manager's shim.

    Those add 10 to 60 ms to both sides of a comparison, which hides the ratio.
    """
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


@dataclass(frozen=True)
class Setup:
    """The jobs, the rounds and the program of every benchmark."""

    jobs: int
    runs: int
    directory: Path
    """A directory of this run's own; gone afterwards."""

    @property
    def env(self) -> dict[str, str]:
        """Return the environment of what is measured: a home of its own, and no setting of the user."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8"}

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line that runs mops-jobs with these words, and its environment.

        That is the built file; in a checkout without one, mops_jobs.py with the packages of this environment.
        """
        if FILE.is_file():
            return [interpreter(), str(FILE), *words], self.env
        return [interpreter(), str(ROOT / "mops_jobs.py"), *words], {**self.env, "PYTHONPATH": environment_packages()}

    def module(self, name: str, *words: str, packages: str | None = None) -> tuple[list[str], dict[str, str]]:
        """Return the command line that runs a module of this checkout, and its environment.

        Args:
            name: the module.
            words: its arguments.
            packages: the folder with what it imports; None: the one of this environment.
        """
        path = os.pathsep.join([str(ROOT), packages or environment_packages()])
        return [interpreter(), "-m", name, *words], {**self.env, "PYTHONPATH": path}


def environment_packages() -> str:
    """Return the folders with the packages of this environment, for PYTHONPATH."""
    return os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))


def measured_program() -> str:
    """Return what `Setup.command` runs, for the report."""
    return "dist/mops-jobs.pyz" if FILE.is_file() else "mops_jobs.py (there is no dist/mops-jobs.pyz: ./build.sh)"


def description() -> dict[str, str]:
    """Return the machine, as far as it matters for comparing numbers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": _system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "program": measured_program(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return models[0] if models else platform.processor() or platform.machine()


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]} {platform.machine()}"

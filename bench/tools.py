"""The programs and libraries of others that we are compared with: what requirements/bench.lock names.

They are installed into build/bench, apart from what the tests use.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench.machine import ROOT
from bench.measure import progress

LOCK = ROOT / "requirements" / "bench.lock"
_VENV = ROOT / "build" / "bench"


def rclone() -> str:
    """Return the rclone program.

    Raises:
        RuntimeError: if it cannot be installed.
    """
    return str(_installed() / "bin" / "rclone")


def packages() -> str:
    """Return the folder with azure-storage-blob and submitit, for PYTHONPATH.

    Raises:
        RuntimeError: if they cannot be installed.
    """
    names = {"base": str(_installed()), "platbase": str(_installed())}
    return sysconfig.get_path("purelib", "venv", names)


def rclone_version() -> str:
    """Return what rclone says that it is."""
    told = subprocess.run([rclone(), "version"], check=True, capture_output=True, text=True).stdout
    return told.splitlines()[0].removeprefix("rclone ")


@functools.cache
def _installed() -> Path:
    stamp = _VENV / LOCK.name
    if not stamp.is_file() or stamp.read_bytes() != LOCK.read_bytes():
        progress(f"installing {LOCK.name} into {_VENV.relative_to(ROOT)}")
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        install = [str(_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
        for argv in ([sys.executable, "-m", "venv", "--clear", str(_VENV)], [*install, "--requirement", str(LOCK)]):
            if subprocess.run(argv, env=clean).returncode != 0:
                raise RuntimeError(f"{LOCK.name} could not be installed.")
        stamp.write_bytes(LOCK.read_bytes())
    return _VENV

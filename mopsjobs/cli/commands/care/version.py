"""`version`: print the build, the Python and the libraries of this mops-jobs, for a report of a problem."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sqlite3
import sys

import mopsjobs
from mopsjobs.app.run.app import App
from mopsjobs.console.result import Document, Result, Table
from mopsjobs.version import __version__

HELP = "print the build, the Python and the libraries in use"

DESCRIPTION = (
    "Print the version and build of mops-jobs, its Python, the platform, and its libraries. For a report of a problem."
)

EXAMPLES = (
    "mops-jobs version",
    "mops-jobs version --json | jq -r .build",
)

SCHEMA_VERSION = 1

LIBRARIES = (
    "azure-identity", "azure-storage-blob", "boto3", "distributed", "filelock", "flask", "httpx", "lightkube",
    "markupsafe", "pathspec", "prometheus-client", "python-dateutil", "PyYAML", "requests", "shtab",
    "sqlite-utils", "tabulate", "urllib3", "waitress", "werkzeug",
)  # fmt: skip
"""The dependencies of pyproject.toml, optional ones included; a test compares the two."""

BUILD_PREFIX = "mops-jobs_"
"""The single file unpacks to a directory of this name and its build id: onefile/bootstrap.py."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Print the versions."""
    directory = os.path.dirname(os.path.dirname(os.path.abspath(mopsjobs.__file__)))
    build, file = _single_file(directory)
    libraries = {name: _version(name) for name in LIBRARIES}
    facts: dict[str, object] = {
        "version": __version__,
        "build": build,
        "file": file,
        "directory": directory,
        "python_version": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "python_executable": sys.executable or None,
        "platform": platform.platform(),
        "sqlite_version": sqlite3.sqlite_version,
    }
    if args.json:
        return Result(Document({"schema_version": SCHEMA_VERSION, **facts, "libraries": libraries}))
    rows = [
        (name.replace("_", " "), "none: not the single file" if value is None else value)
        for name, value in facts.items()
    ]
    rows += [(name, version or "not installed") for name, version in libraries.items()]
    return Result(Table(("WHAT", "VALUE"), rows, never_cut=("VALUE",)))


def _single_file(directory: str) -> tuple[str | None, str | None]:
    """Return build id and path of the single file that `directory` was unpacked from; None for an installed package."""
    parent = os.path.basename(os.path.dirname(directory))
    if not parent.startswith(BUILD_PREFIX):
        return None, None
    main = getattr(sys.modules["__main__"], "__file__", None)  # of the archive, inside its file
    return parent.removeprefix(BUILD_PREFIX), os.path.dirname(os.path.abspath(main)) if main else None


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None

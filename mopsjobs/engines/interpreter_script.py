"""The script that describes a model's interpreter: its version, its platform and its packages.

The interpreter may be as old as 3.8 and have the standard library alone. So the script imports nothing of mops-jobs,
and prints one JSON object. It reads no variables, and imports no package.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from typing import Any


def main() -> None:
    """Print the description."""
    libc = None
    with contextlib.suppress(AttributeError, OSError, ValueError):  # another C library
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    about = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "platform": f"{sys.platform}-{platform.machine()}",
        "libc": libc,
        "packages": packages(),
    }
    sys.stdout.write("\n" + json.dumps(about) + "\n")  # the start of the interpreter may have printed before


def packages() -> Any:
    """Return the versions of all packages by their names, the first one on the path where two have one name.

    Names of directories have both: to read the metadata of a hundred packages takes 0.2 s.
    """
    found: Any = {}
    for directory in filter(None, sys.path):
        try:
            entries = sorted(os.listdir(directory))
        except OSError:  # an archive, or not there
            continue
        for entry in entries:
            stem, kind = os.path.splitext(entry)
            if kind in (".dist-info", ".egg-info"):
                name, _, version = stem.partition("-")
                found.setdefault(name, version.partition("-")[0] or _read_version(os.path.join(directory, entry)))
    return found


def _read_version(path: str) -> str:
    """Return the version that the metadata of a package have; empty if they have none."""
    import importlib.metadata  # here: most packages do without these, which take half the time of the script
    import pathlib

    try:
        return importlib.metadata.PathDistribution(pathlib.Path(path)).version or ""
    except Exception:  # noqa: BLE001 - damaged metadata are of any kind
        return ""


if __name__ == "__main__":
    main()

"""Build mops-jobs.pyz: one file that runs on every CPython from 3.11, on every system and processor.

    python onefile/build.py [--output dist/mops-jobs.pyz] [--wheels build/wheels]

The runtime lock names the packages. pip downloads them with checked hashes, the same wheels whatever machine builds.
Nothing compiled goes into the file. shiv packs the rest. The archive of shiv then goes as one stored member into an
envelope with other start-up code. To open an archive of 700 members costs 5 ms at each start, and one of six costs
nothing. The bootstrap of shiv costs another 20 ms. `unzip -p mops-jobs.pyz app.pyz` prints shiv's own file.

The same tree gives the same bytes: fixed times and modes, sorted names, no path of the build machine.
The folder is called neither packaging nor zipapp, since Python modules have those names.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from licenses import third_party_licenses

TREE = Path(__file__).resolve().parent.parent
SHEBANG = b"#!/usr/bin/env python3\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip archive
EPOCH_SECONDS = "315532800"

# The wheels to download. Some hold accelerators for this platform, which are left out.
WHEELS_FOR = ("3.11", ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64"))

# In the lock, but not in the file. pip and setuptools are not in the lock.
LEFT_OUT = {
    "cffi": "compiled, and only cryptography needs it",
    "cryptography": "compiled; azure.py has what takes its place",
    "pycparser": "cffi reads C headers with it when something is built",
}
COMPILED = (".so", ".pyd", ".dylib", ".dll")
# Files of the other packages that are not needed at run time.
PRUNED = re.compile(
    r"""
      \.(c|pyi|pyc)$                  # sources of accelerators, for type checkers, for one Python only
    | (^|/)(__pycache__|tests?)/
    | (^|/)aio/                       # asynchronous clients: mops-jobs has threads
    | ^(\w+__mypyc\.|charset_normalizer/|markupsafe/|yaml/).*\.so$   # accelerators; the plain modules stand there
    | ^dateutil/zoneinfo/.*\.gz$      # for machines without time zones; mops-jobs has UTC only
    | \.dist-info/(?!METADATA$|licen[cs]es?|LICEN[CS]E|COPYING|NOTICE|AUTHORS)  # for pip to uninstall
    """,
    re.VERBOSE,
)
MAIN = 'exec(compile(__loader__.get_source("bootstrap"), "bootstrap.py", "exec"))\n'
"""The main module of the envelope. zipimport compiles a module twice at each start: once only to find its file name. So
the main module is one line, and bootstrap.py is compiled once."""
LICENCES = "THIRD_PARTY_LICENSES"
OURS = ("mops_jobs.py", "mopsjobs")
# A new kind goes here and to package-data in pyproject.toml; tests insist.
OUR_SUFFIXES = {".typed", ".py", ".json", ".sql", ".html", ".css", ".js", ".svg"}


def main() -> None:
    """Read the arguments, build, and print the result."""
    parser = argparse.ArgumentParser(description="Build mops-jobs.pyz.", allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=TREE / "dist" / "mops-jobs.pyz", help="the file to write")
    parser.add_argument("--wheels", type=Path, default=TREE / "build" / "wheels", help="directory of downloaded wheels")
    args = parser.parse_args()
    wheels = fetch(TREE / "requirements" / "runtime.lock", args.wheels)
    build_id = build(wheels, args.output)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, build {build_id}")


def build(wheels: list[Path], output: Path) -> str:
    """Write the archive of `wheels` and this tree to `output`, whole or not at all. Return its build id."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mops-jobs-build-") as scratch:
        site_packages = Path(scratch, "site-packages")
        bundled = list(from_wheels(wheels))
        for name, content in [*bundled, *from_tree()]:
            path = site_packages / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)  # shiv writes modes into the archive: not those of the builder's umask
        app = Path(scratch, "app.pyz")
        pack(site_packages, app)
        with zipfile.ZipFile(app) as archive:
            build_id = json.loads(archive.read("environment.json"))["build_id"][:16]
        finished = Path(scratch, "mops-jobs.pyz")
        put_in_envelope(app, build_id, third_party_licenses(bundled), finished)
        beside = output.with_name(f"{output.name}.{os.getpid()}.part")
        shutil.copyfile(finished, beside)
        beside.chmod(0o755)
        beside.replace(output)
    return build_id


def pack(site_packages: Path, app: Path) -> None:
    """Let shiv pack `site_packages`, with fixed times."""
    command = [sys.executable, "-W", "ignore", "-m", "shiv", "--reproducible", "--entry-point", "mops_jobs:entry"]
    command += ["--site-packages", str(site_packages), "--output-file", str(app)]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH_SECONDS})


def put_in_envelope(app: Path, build_id: str, licences: str, finished: Path) -> None:
    """Put the archive of shiv beside the start-up code. Stored, so that a start needs no decompression."""
    here = Path(__file__).resolve().parent
    bootstrap = (here / "bootstrap.py").read_text(encoding="utf-8").replace("@BUILD_ID@", build_id)
    with finished.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w") as envelope:
            for name, content, compression in (
                ("__main__.py", MAIN.encode(), zipfile.ZIP_STORED),
                ("bootstrap.py", bootstrap.encode(), zipfile.ZIP_STORED),
                ("unpack.py", (here / "unpack.py").read_bytes(), zipfile.ZIP_STORED),
                ("mopsjobs.py", (here / "package.py").read_bytes(), zipfile.ZIP_STORED),
                ("app.pyz", app.read_bytes(), zipfile.ZIP_STORED),
                ("LICENSE", (TREE / "LICENSE").read_bytes(), zipfile.ZIP_DEFLATED),
                (LICENCES, licences.encode(), zipfile.ZIP_DEFLATED),
            ):
                info = zipfile.ZipInfo(name, date_time=EPOCH)
                info.external_attr = 0o100644 << 16
                envelope.writestr(info, content, compression)


def from_wheels(wheels: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of all wheels, without those in `PRUNED` and without the pages of their packages.

    Raises:
        SystemExit: if a wheel holds what the file cannot: a compiled module, or a script.
    """
    seen: dict[str, bytes] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                name = str(PurePosixPath(info.filename))
                if info.is_dir() or PRUNED.search(name):
                    continue
                if ".data/" in name:
                    raise SystemExit(f"{wheel.name}: {name} belongs outside of site-packages: not supported")
                if name.endswith(COMPILED):
                    raise SystemExit(f"{wheel.name}: {name} is compiled, and the file is for every platform")
                content = archive.read(info)
                if name.endswith(".dist-info/METADATA"):
                    content = without_description(content)
                if seen.setdefault(name, content) != content:
                    raise SystemExit(f"{wheel.name}: {name} is also in another wheel, with other content")
    azure = Path(__file__).resolve().parent / "azure.py"
    seen.setdefault("azure/__init__.py", azure.read_bytes())
    yield from seen.items()


def without_description(metadata: bytes) -> bytes:
    """Return the fields of METADATA alone. The text after them is the page of the package, and nothing reads it."""
    return metadata.partition(b"\n\n")[0] + b"\n"


def from_tree() -> Iterator[tuple[str, bytes]]:
    """Yield the files of this tree."""
    for name in OURS:
        top = TREE / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and path.suffix in OUR_SUFFIXES and not path.name.startswith("."):
                yield path.relative_to(TREE).as_posix(), path.read_bytes()


def fetch(lock: Path, store: Path) -> list[Path]:
    """Let pip download the packages of `lock`, unless they exist. Return the wheels."""
    blocks = requirements(lock)
    key = hashlib.sha256(json.dumps([blocks, WHEELS_FOR]).encode()).hexdigest()[:16]
    done = store / key
    if not done.is_dir():
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=store) as partial:
            wheels = Path(partial, "wheels")
            download(blocks.values(), wheels)
            if not done.is_dir():  # else another build was faster, with the same bytes
                wheels.rename(done)
    return sorted(done.glob("*.whl"))


def requirements(lock: Path) -> dict[str, str]:
    """Return the entries of a lock file, with hashes, by name, without those in `LEFT_OUT`."""
    entries = re.split(r"^(?=[\w.-]+==)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    blocks = {entry.partition("==")[0]: re.sub(r"^\s*#.*\n", "", entry, flags=re.MULTILINE) for entry in entries}
    return {name: text for name, text in blocks.items() if name not in LEFT_OUT}


def download(entries: Iterable[str], wheels: Path) -> None:
    """Let pip download wheels."""
    python, platforms = WHEELS_FOR
    with tempfile.TemporaryDirectory(prefix="mops-jobs-fetch-") as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_text("\n".join(entries), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement", str(listed)]
        command += ["--dest", str(wheels), "--implementation", "cp", "--python-version", python]
        command += [f"--abi=cp{python.replace('.', '')}", "--abi=none", *(f"--platform={tag}" for tag in platforms)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

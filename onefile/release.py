"""Make the files of a release beside dist/mops-jobs.pyz: packages, bill of materials, licences, checksums.

    python onefile/release.py packages|all [--output dist] [--tag v1.2.3]

`./build.sh release` calls this after onefile/build.py. The same commit gives the same bytes: SOURCE_DATE_EPOCH is the
time in every archive, modes and owners are fixed, and names are sorted.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from build import LICENCES, TREE, fetch, from_tree, requirements

FILE = "mops-jobs.pyz"
SUMS = "SHA256SUMS"
SBOM = "mops-jobs.cdx.json"
PACKAGED = ("pyproject.toml", "README.md", "LICENSE")
COMPLETIONS = {"bash": "mops-jobs.bash", "zsh": "_mops-jobs", "fish": "mops-jobs.fish", "tcsh": "mops-jobs.tcsh"}


def main() -> None:
    """Read the arguments and make the files."""
    parser = argparse.ArgumentParser(description="Make the files of a release.", allow_abbrev=False)
    parser.add_argument("what", choices=["packages", "all"], help="wheel and sdist only, or everything")
    parser.add_argument("--output", type=Path, default=TREE / "dist", help=f"directory; `all` expects {FILE} there")
    parser.add_argument("--tag", help="the tag of this commit, to be checked against version and CHANGELOG.md")
    args = parser.parse_args()
    version = read_version()
    if args.tag is not None:
        check_tag(args.tag, version)
    packages = build_packages(args.output, version)
    if args.what == "all":
        write_sums(args.output, [FILE, *packages, *write_extras(args.output, version)])
        write_notes(TREE / "build" / "release-notes.md", version)


def read_version() -> str:
    """Return `__version__` without importing the package."""
    text = (TREE / "mopsjobs" / "version.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"', text, re.MULTILINE)[0]


def check_tag(tag: str, version: str) -> None:
    """Check that tag, version and changelog agree.

    Raises:
        SystemExit: if they do not.
    """
    if tag != f"v{version}":
        raise SystemExit(f"invalid tag '{tag}': expected v{version}, as in mopsjobs/version.py")
    if changes(version) is None:
        raise SystemExit(f"CHANGELOG.md has no section [{version}]. Rename [Unreleased] to it.")


def changes(version: str) -> str | None:
    """Return the section of CHANGELOG.md about this version."""
    text = (TREE / "CHANGELOG.md").read_text(encoding="utf-8")
    for section in re.split(r"^(?=## \[)", text, flags=re.MULTILINE):
        if section.startswith(f"## [{version}]"):
            return section.partition("\n")[2].strip() + "\n"
    return None


def write_notes(path: Path, version: str) -> None:
    """Write the text of the release page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(changes(version) or "", encoding="utf-8")


# --- wheel and sdist -------------------------------------------------------------------------------------------------


def build_packages(output: Path, version: str) -> list[str]:
    """Build sdist and wheel from a copy of the files: setuptools leaves files behind, and packs those in build/."""
    output.mkdir(parents=True, exist_ok=True)
    sdist, stem = f"mops_jobs-{version}.tar.gz", f"mops_jobs-{version}"
    with tempfile.TemporaryDirectory(prefix="mops-jobs-release-") as scratch:
        source = Path(scratch, "source")
        for name, content in [*((name, (TREE / name).read_bytes()) for name in PACKAGED), *from_tree()]:
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        run_backend("build_sdist", source, Path(scratch, "made"))
        make_reproducible(Path(scratch, "made", sdist), output / sdist)
        with tarfile.open(output / sdist) as archive:
            archive.extractall(scratch, filter="tar")  # the wheel is built from the sdist, as by an installer
        wheel = run_backend("build_wheel", Path(scratch, stem), Path(scratch, "made"))
        shutil.copyfile(Path(scratch, "made", wheel), output / wheel)
    return [sdist, wheel]


def run_backend(hook: str, source: Path, output: Path) -> str:
    """Call a hook of setuptools in `source`, in a separate process. Return the name of the new file."""
    output.mkdir(exist_ok=True)
    code = f"import sys, setuptools.build_meta as backend; backend.{hook}(sys.argv[1])"
    before = set(output.iterdir())
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(output)],
        cwd=source,
        env=env,
        umask=0o022,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise SystemExit(f"{hook} failed:\n{ran.stdout}{ran.stderr}")
    (path,) = set(output.iterdir()) - before
    return path.name


def make_reproducible(sdist: Path, output: Path) -> None:
    """Copy an sdist with fixed times, modes and owners, instead of those of this machine."""
    plain = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            info = tarfile.TarInfo(member.name)
            info.type, info.size, info.mtime = member.type, member.size, epoch()
            info.mode = 0o755 if member.isdir() else 0o644
            new.addfile(info, old.extractfile(member) if member.isfile() else None)
    with output.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch()) as packed:
        packed.write(plain.getvalue())


def epoch() -> int:
    """Return the time for archives, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))


# --- everything else -------------------------------------------------------------------------------------------------


def write_extras(output: Path, version: str) -> Iterator[str]:
    """Write all other files, and yield their names."""
    with zipfile.ZipFile(output / FILE) as envelope:
        for name in ("LICENSE", LICENCES):
            (output / name).write_bytes(envelope.read(name))
            yield name
    (output / SBOM).write_text(bill_of_materials(version), encoding="utf-8")
    yield SBOM
    shutil.copyfile(TREE / "docs" / "mops-jobs.1", output / "mops-jobs.1")
    yield "mops-jobs.1"
    with tempfile.TemporaryDirectory(prefix="mops-jobs-release-") as scratch:
        env = {"PATH": os.environ["PATH"], "HOME": scratch, "MOPS_JOBS_UNPACK": scratch, "COLUMNS": "80"}
        for shell, name in COMPLETIONS.items():
            command = [sys.executable, str(output / FILE), "completion", shell]
            ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, cwd=scratch, check=True)
            (output / name).write_bytes(ran.stdout)
            yield name


def bill_of_materials(version: str) -> str:
    """Return the CycloneDX document of the packages in the file, from the lock file."""
    wheels = {re.sub(r"[-_.]+", "-", path.name.partition("-")[0]).lower() for path in fetch_wheels()}
    entries = [text for name, text in requirements(TREE / "requirements" / "runtime.lock").items() if name in wheels]
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "-"]
    command += ["--output-reproducible", "--pyproject", str(TREE / "pyproject.toml")]
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    ran = subprocess.run(command, input="\n".join(entries), env=env, stdout=subprocess.PIPE, text=True, check=True)
    document = json.loads(ran.stdout)
    document["metadata"]["component"]["version"] = version  # pyproject.toml has it from the package
    return json.dumps(document, indent=2) + "\n"


def fetch_wheels() -> list[Path]:
    """Return the wheels that the file is built from."""
    return fetch(TREE / "requirements" / "runtime.lock", TREE / "build" / "wheels")


def write_sums(output: Path, names: list[str]) -> None:
    """Write the checksums, for `sha256sum --check`."""
    lines = [f"{hashlib.sha256((output / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(names)]
    (output / SUMS).write_text("".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()

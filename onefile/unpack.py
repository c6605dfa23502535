"""Unpacks the archive: once per build, machine and user, and once a week to see that it is all still there.

Files are put in place one by one, each whole (written beside its place, then renamed), and the mark that says
"complete" comes last. So there is no lock to wait for and nothing to clean up: two first runs at once write the same
bytes twice, one that was killed half-way is completed by the next, and what a cache cleaner took away comes back.

bootstrap.py imports this only when there is something to do.
"""

import contextlib
import io
import os
import stat
import sys
import zipfile
import zlib

MEMBER = "app.pyz"
# Byte-compiled at once: what a listing imports. The rest Python compiles when it is first imported, as always.
COMPILED = ("mops_jobs.py", "mopsjobs/", "tabulate/")


def unpack(archive: str, root: str, build: str, mark: str) -> str:
    """Make sure that `build` is unpacked below `root`, or below a directory that can be written. Return its path."""
    umask = os.umask(0o077)  # what lies there is run: nobody else may write it, whatever the umask
    try:
        return _unpack(os.path.abspath(archive), root, build, mark)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        sys.exit(f"mops-jobs: {archive} is damaged ({error}). Get it again.")
    except OSError as error:
        sys.exit(f"mops-jobs: found no directory to unpack into ({error}). Set MOPS_JOBS_UNPACK to one.")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        os.umask(umask)


def _unpack(archive: str, root: str, build: str, mark: str) -> str:
    with zipfile.ZipFile(archive) as envelope:
        app = zipfile.ZipFile(io.BytesIO(envelope.read(MEMBER)))
    try:
        place = os.path.join(root, build)
        _fill(app, place, mark)
    except OSError as error:
        why = f"{root} cannot be written ({error.strerror})"
        place = os.path.join(_private_directory(), build)
        if _fill(app, place, mark):
            print(f"mops-jobs: {why}; unpacked into {place}. MOPS_JOBS_UNPACK names another place.", file=sys.stderr)
    return os.path.join(place, "site-packages")


def _fill(app: zipfile.ZipFile, place: str, mark: str) -> bool:
    """Put in place what is not there, compile, set the mark. Tell whether anything was missing."""
    missing = [info for info in app.infolist() if info.filename.startswith("site-packages/") and _absent(place, info)]
    for directory in sorted({os.path.dirname(os.path.join(place, info.filename)) for info in missing}):
        os.makedirs(directory, exist_ok=True)
    for info in missing:
        _write(os.path.join(place, info.filename), app.read(info))
    mark = os.path.join(place, mark)
    if missing or not os.path.exists(mark):
        _compile(app, place)
    with open(mark, "w", encoding="ascii"):
        os.utime(mark)
    return bool(missing)


def _absent(place: str, info: zipfile.ZipInfo) -> bool:
    try:
        return os.stat(os.path.join(place, info.filename)).st_size != info.file_size
    except (FileNotFoundError, NotADirectoryError):
        return True


def _write(path: str, content: bytes) -> None:
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except OSError:
        if os.path.exists(beside):
            os.unlink(beside)
        raise


def _compile(app: zipfile.ZipFile, place: str) -> None:
    """Byte-compile what a listing imports, even where PYTHONDONTWRITEBYTECODE is set, as it is in many containers."""
    import py_compile

    for name in app.namelist():
        inside = name.removeprefix("site-packages/")
        if inside.startswith(COMPILED) and inside.endswith(".py"):
            try:
                py_compile.compile(
                    os.path.join(place, name), quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
                )
            except OSError:  # no room, or another user's: slower, and right all the same
                return


def _private_directory() -> str:
    """Return our own directory under the temporary one, or a new one for this run if somebody else holds its name."""
    import tempfile

    base = tempfile.gettempdir()
    if hasattr(os, "getuid"):
        path = os.path.join(base, f"mops-jobs-{os.getuid()}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077:
            return path
    import atexit
    import shutil

    path = tempfile.mkdtemp(prefix="mops-jobs-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path

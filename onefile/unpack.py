"""Unpack the archive: once per build, machine and user, and check once per week that all files still exist.

Each file is written under another name and then renamed, and the mark for "complete" comes last. So no lock and no
clean-up is needed. Two first runs at the same time write the same bytes twice. The next run completes a killed one, and
restores files that a cache cleaner removed.

bootstrap.py executes this only if there is something to do.
"""

import io
import os
import stat
import sys
import zipfile
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MEMBER = "app.pyz"
# Byte-compiled when unpacked: the imports of a listing. Python compiles the others at their first import.
COMPILED = ("mops_jobs.py", "mopsjobs/", "tabulate/")
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - used only where no other user can replace what is in them


def unpack(archive: str, root: str, build: str, mark: str, why_unsafe: "Callable[[str], str]") -> str:
    """Make sure that `build` is unpacked below `root`, or below a private temporary directory. Return its path.

    Args:
        archive: the single file.
        root: where to unpack; "" if no place is known.
        build: the name of the directory of this build.
        mark: the name of the file that marks a complete build.
        why_unsafe: returns why another user could change the code in a directory; "" if none can.
    """
    umask = os.umask(0o077)  # no other user may write the code, whatever the umask
    try:
        return _unpack(os.path.abspath(archive), root, build, mark, why_unsafe)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        sys.exit(f"mops-jobs: {archive} is damaged ({error}). Download it again.")
    except OSError as error:
        sys.exit(
            f"mops-jobs: found no directory to unpack into ({error.strerror or error}). "
            "Set MOPS_JOBS_UNPACK to one that only you can write."
        )
    finally:
        os.umask(umask)


def _unpack(archive: str, root: str, build: str, mark: str, why_unsafe: "Callable[[str], str]") -> str:
    with zipfile.ZipFile(archive) as envelope:
        app = zipfile.ZipFile(io.BytesIO(envelope.read(MEMBER)))
    place = os.path.join(root, build)
    code = os.path.join(place, "site-packages")
    why = unsafe = why_unsafe(code) if root else "there is no home directory"
    if not why:
        try:
            _fill(app, place, mark)
            why = unsafe = why_unsafe(code)  # another user may have created it first
        except OSError as error:
            why = f"{root} cannot be written ({error.strerror})"
    if why:
        place = os.path.join(_private_directory(why_unsafe), build)
        # An unsafe directory is named each time, another reason only if files were written.
        if _fill(app, place, mark) or (unsafe and root):
            print(f"mops-jobs: {why}; unpacked into {place}. MOPS_JOBS_UNPACK names another place.", file=sys.stderr)
    return os.path.join(place, "site-packages")


def _fill(app: zipfile.ZipFile, place: str, mark: str) -> bool:
    """Write missing files, compile, set the mark. Return whether a file was missing."""
    missing = [info for info in app.infolist() if info.filename.startswith("site-packages/") and _absent(place, info)]
    for directory in sorted({os.path.dirname(os.path.join(place, info.filename)) for info in missing}):
        os.makedirs(directory, exist_ok=True)
    for info in missing:
        _write(os.path.join(place, info.filename), app.read(info))
    mark = os.path.join(place, mark)
    if missing or not os.path.exists(mark):
        _compile(app, place)
    with open(mark, "w", encoding="ascii"):
        pass
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
    """Byte-compile the imports of a listing, also if PYTHONDONTWRITEBYTECODE is set, as in many containers."""
    import py_compile

    for name in app.namelist():
        inside = name.removeprefix("site-packages/")
        if inside.startswith(COMPILED) and inside.endswith(".py"):
            try:
                py_compile.compile(
                    os.path.join(place, name), quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
                )
            except OSError:  # a full disk, or a file of another user: slower, but correct
                return


def _private_directory(why_unsafe: "Callable[[str], str]") -> str:
    """Return a directory of this user below a temporary one.

    It stays: the runner of a job is started from it, and the next command uses it again.

    Raises:
        PermissionError: if other users can replace directories in each of the temporary ones.
    """
    import tempfile

    bases = [base for base in (tempfile.gettempdir(), *TEMPORARY) if os.access(base, os.W_OK | os.X_OK)]
    base = next((base for base in bases if not why_unsafe(os.path.join(base, "x", "y"))), None)
    if base is None:
        raise PermissionError(f"other users can replace what is in {' and '.join(bases)}")
    prefix = f"mops-jobs-{os.getuid() if hasattr(os, 'getuid') else 'app'}-"
    listed = sorted(os.listdir(base)) if os.access(base, os.R_OK) else []
    places = (os.path.join(base, name) for name in listed if name.startswith(prefix))
    return next(filter(_is_private, places), None) or tempfile.mkdtemp(prefix=prefix, dir=base)


def _is_private(path: str) -> bool:
    found = os.lstat(path)
    if not hasattr(os, "getuid"):  # Windows, whose temporary directory is the user's own
        return stat.S_ISDIR(found.st_mode)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077

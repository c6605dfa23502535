"""The start-up code of the archive: its main module executes it first at each start of mops-jobs.pyz.

Each run compiles it, so it is short. If this build is unpacked for this Python, and was checked within a week, it runs
the command. Everything else is in unpack.py. Old Pythons must be able to parse this file, since it tells them that they
are too old. package.py executes it as well, for `import mopsjobs`.
"""

import os
import sys

if hasattr(os, "fork"):
    import _signal  # signal imports more, and takes longer

    if os.getpid() == 1:  # the first process of a container: without a handler, the kernel drops SIGTERM
        _signal.signal(_signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    # An image may keep it back until now: see examples/kubernetes/Dockerfile.
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGTERM])

BUILD_ID = "@BUILD_ID@"
WEEK = 7 * 24 * 3600


def main():
    """Run the command from the unpacked files."""
    sys.path[0] = find_site_packages()  # in place of the archive: nothing else is imported from it

    import gc

    # Imported modules are never garbage: do not collect during the import, nor look at them later.
    gc.disable()
    from mops_jobs import entry

    gc.freeze()
    gc.enable()
    entry()


def find_site_packages():
    """Return the directory of the unpacked files. Unpack them if that was not done yet.

    Raises:
        SystemExit: if this Python is too old, the archive is damaged, or no directory can be written.
    """
    if sys.version_info < (3, 11):
        sys.exit(
            "mops-jobs needs Python 3.11 or newer, and this is Python %d.%d (%s)."
            % (sys.version_info[0], sys.version_info[1], sys.executable)
        )
    import time

    root = find_root(os.environ)
    build = "mops-jobs_" + BUILD_ID
    mark = "ready-%s" % sys.implementation.cache_tag
    site_packages = os.path.join(root, build, "site-packages")
    mark_path = os.path.join(root, build, mark)
    try:
        is_checked = time.time() - os.stat(mark_path).st_mtime < WEEK or not os.access(mark_path, os.W_OK)
    except OSError:
        is_checked = False
    if not is_checked or not root or why_unsafe(site_packages):
        names = {"__name__": "unpack"}
        # Not an import, since a program may have another module of this name.
        exec(compile(__loader__.get_source("unpack"), "unpack.py", "exec"), names)  # noqa: S102
        site_packages = names["unpack"](__loader__.archive, root, build, mark, why_unsafe)
    return site_packages


def find_root(env):
    """Return the directory for unpacked builds: MOPS_JOBS_UNPACK, else in the user's cache; "" if there is neither.

    Only absolute paths count: a literal `~` would be below the working directory.
    """
    if env.get("MOPS_JOBS_UNPACK"):
        return os.path.abspath(env["MOPS_JOBS_UNPACK"])
    cache = env.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        home = env.get("HOME", "")
        if not hasattr(os, "getuid"):  # Windows
            home = env.get("LOCALAPPDATA", "")
            return os.path.join(home, "mops-jobs", "app") if os.path.isabs(home) else ""
        if not os.path.isabs(home):
            import pwd

            try:
                home = pwd.getpwuid(os.getuid()).pw_dir
            except KeyError:
                home = ""
        cache = os.path.join(home, ".cache") if os.path.isabs(home) else ""
    return os.path.join(cache, "mops-jobs", "app") if cache else ""


def why_unsafe(place):
    """Return why another user could change the code in a directory, or "" if none can.

    The directory and the one above it hold code: they must belong to this user or to root, and no other user may write
    them. In those further above, another user must not be able to replace a directory: a sticky bit prevents that. They
    may also belong to the owner of `/`, which is not root in some containers. Write permission for a group matters only
    for the two with code. A umask of 002 gives it to each directory, and files of other members have another owner.
    Windows tells neither owners nor permissions this way, and keeps other users out of the directories of a user.
    """
    import stat

    if not hasattr(os, "geteuid"):
        return ""

    owners = (0, os.geteuid())
    owners_above = (*owners, os.stat("/").st_uid)
    for start in {os.path.abspath(place), os.path.realpath(place)}:
        path, above, depth = start, "", 0
        while path != above:
            try:
                status = os.stat(path)
            except OSError:  # does not exist yet
                status = None
            if status is not None and stat.S_ISDIR(status.st_mode):
                holds_code = depth < 2
                if status.st_uid not in (owners if holds_code else owners_above):
                    return "%s belongs to another user (uid %d)" % (path, status.st_uid)
                if (holds_code and status.st_mode & 0o022) or status.st_mode & 0o1002 == 0o002:
                    return "other users may write %s" % path
            path, above, depth = os.path.dirname(path), path, depth + 1
    return ""


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before the command handles it
        sys.exit(130)

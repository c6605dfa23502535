"""The archive's __main__.py: what runs first, at each start of mops-jobs.pyz.

It is compiled anew by each run, so it is short, and asks the disk one question: is this build unpacked for this
Python, and was that looked at within a week? If so, two lines later the command runs. Everything else is unpack.py's.
It must stay readable to old Pythons, since it is what tells them that they are too old.
"""

import sys

BUILD_ID = "@BUILD_ID@"
WEEK = 7 * 24 * 3600


def main():
    """Find or make the unpacked files, then run the command from them."""
    if sys.version_info < (3, 11):
        sys.exit(
            "mops-jobs needs Python 3.11 or newer, and this is Python %d.%d (%s)."
            % (sys.version_info[0], sys.version_info[1], sys.executable)
        )
    import os
    import time

    root = find_root(os.environ)
    build = "mops-jobs_" + BUILD_ID
    mark = "ready-%s" % sys.implementation.cache_tag
    site_packages = os.path.join(root, build, "site-packages")
    seen = os.path.join(root, build, mark)
    try:
        fresh = time.time() - os.stat(seen).st_mtime < WEEK or not os.access(seen, os.W_OK)
    except OSError:
        fresh = False
    if not fresh or not root or why_unsafe(site_packages):
        from unpack import unpack

        site_packages = unpack(os.path.dirname(__file__), root, build, mark, why_unsafe)
    sys.path[0] = site_packages  # in place of the archive: nothing else is imported from it

    import gc

    # What is imported stays: nothing of it is garbage, now or later.
    gc.disable()
    from mops_jobs import entry

    gc.freeze()
    gc.enable()
    entry()


def find_root(env):
    """Return the directory below which builds are unpacked: named, or of the user's cache. Return "" for neither.

    Only absolute paths count: a `~` that stays as it is would lead below the working directory.
    """
    import os

    if env.get("MOPS_JOBS_UNPACK"):
        return os.path.abspath(env["MOPS_JOBS_UNPACK"])
    cache = env.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        home = env.get("HOME", "")
        if not os.path.isabs(home):
            import pwd

            try:
                home = pwd.getpwuid(os.getuid()).pw_dir
            except KeyError:
                home = ""
        cache = os.path.join(home, ".cache") if os.path.isabs(home) else ""
    return os.path.join(cache, "mops-jobs", "app") if cache else ""


def why_unsafe(place):
    """Return why another user could change what is run from a directory, or "" if none can.

    The directory and the one above it hold code: they must belong to this user or to root, and no other user may write
    them. Those further above must not let another user put other directories in their place: a sticky bit prevents
    that. They may also belong to the owner of `/`, which is not root in some containers. Write permission for a group
    counts only where code lies: a umask of 002 gives it to each directory, and what a member of the group puts there
    has another owner.
    """
    import os
    import stat

    for start in {os.path.abspath(place), os.path.realpath(place)}:
        path, above, depth = start, "", 0
        while path != above:
            try:
                found = os.stat(path)
            except OSError:  # not made yet
                found = None
            if found is not None and stat.S_ISDIR(found.st_mode):
                holds_code = depth < 2
                trusted = (0, os.geteuid()) if holds_code else (0, os.geteuid(), os.stat("/").st_uid)
                if found.st_uid not in trusted:
                    return "%s belongs to another user (uid %d)" % (path, found.st_uid)
                if (holds_code and found.st_mode & 0o022) or found.st_mode & 0o1002 == 0o002:
                    return "other users may write %s" % path
            path, above, depth = os.path.dirname(path), path, depth + 1
    return ""


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before the command is there to see it
        sys.exit(130)

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

    root = os.environ.get("MOPS_JOBS_UNPACK", "")
    if root:
        root = os.path.abspath(root)
    else:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(cache):
            cache = os.path.expanduser("~/.cache")
        root = os.path.join(cache, "mops-jobs", "app")
    build = "mops-jobs_" + BUILD_ID
    mark = "ready-%s" % sys.implementation.cache_tag
    seen = os.path.join(root, build, mark)
    try:
        fresh = time.time() - os.stat(seen).st_mtime < WEEK or not os.access(seen, os.W_OK)
    except OSError:
        fresh = False
    if fresh:
        site_packages = os.path.join(root, build, "site-packages")
    else:
        from unpack import unpack

        site_packages = unpack(os.path.dirname(__file__), root, build, mark)
    sys.path[0] = site_packages  # in place of the archive: nothing else is imported from it

    import gc

    # What is imported stays: nothing of it is garbage, now or later.
    gc.disable()
    from mops_jobs import entry

    gc.freeze()
    gc.enable()
    entry()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before the command is there to see it
        sys.exit(130)

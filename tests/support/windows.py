"""Run mops-jobs on a Python without what Windows lacks: modules, names of `os` and `signal`, open directories.

    python windows.py PROGRAM [ARG...]

PROGRAM is mops_jobs.py or the single file. What only the standard library uses stays.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - of the standard library, as platform below
import os
import runpy
import signal
import subprocess  # noqa: F401 - it has looked for what it uses
import sys
import tempfile  # noqa: F401

MODULES = ("curses", "fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
NOT_HERE = ("numpy", "pandas")
"""Their build for this system asks `os` for names that Windows lacks. mops-jobs does without them."""
NAMES = (
    "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid"
    " getpgrp getuid killpg lchown mkfifo nice openpty pread pwrite register_at_fork sched_getaffinity"
    " setsid statvfs sysconf ttyname uname wait4"
)
SIGNALS = "ITIMER_REAL SIGALRM SIGCHLD SIGCONT SIGHUP SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm setitimer"


def main() -> None:
    """Take away what Windows lacks, and run the program."""
    import platform

    platform.uname()  # other libraries ask for it; it is kept
    sys.modules.update(dict.fromkeys((*MODULES, *NOT_HERE)))  # type: ignore[arg-type]
    for module, names in ((os, NAMES), (signal, SIGNALS)):
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    os.supports_dir_fd, os.supports_follow_symlinks = set(), set()
    really_open = os.open

    def no_directories(path: str, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        return really_open(path, flags, mode)

    os.open = no_directories  # type: ignore[assignment]
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


main()

"""The command mops-jobs: parse, run, print, exit code. The only place that catches errors and exits."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys

if os.getpid() == 1:  # the first process of a container: without a handler, the kernel drops SIGTERM
    import signal

    signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))

from collections.abc import Mapping

from mopsjobs.cli.commands import COMMANDS, load
from mopsjobs.cli.flags import with_flags
from mopsjobs.cli.parser import build_parser
from mopsjobs.console.printer import Printer, discard_output
from mopsjobs.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    INSTALL,
    MopsJobsError,
    OptionError,
    UsageError,
    command_line,
    repeat_registry,
)

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import NoReturn

__all__ = ["build_parser", "entry", "main"]

NOT_REPEATABLE = frozenset({"calibrate", "cancel", "progress", "prune", "register", "resume", "submit", "update"})
"""Commands that must not be repeated only because their output could not be printed."""


def main(
    argv: list[str] | None = None, *, env: Mapping[str, str] | None = None, **clocks: Callable[..., object]
) -> int:
    """Run the command line `argv` and return the exit code.

    Tests replace the environment and the clocks by `env`, `now`, `sleep` and `monotonic`.
    """
    argv = sys.argv[1:] if argv is None else argv
    env = os.environ if env is None else env
    out = Printer(sys.stdout, sys.stderr, env)
    try:
        return _run(argv, env, out, clocks)
    except SystemExit as stop:  # argparse, after --help and --version
        return _flush_parser_output(stop, out, argv)
    except BrokenPipeError:
        discard_output(sys.stdout)
        return EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: a traceback only with -v
        return _report(error, out, argv)


def _flush_parser_output(stop: SystemExit, out: Printer, argv: list[str]) -> int:
    """Flush what argparse has printed, and return its exit code. Python would report a failure at its end otherwise."""
    try:
        if sys.stdout is not None:  # closed before the start
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)
    except OSError as error:
        return _report(error, out, argv)
    return stop.code if isinstance(stop.code, int) else EXIT_DONE


def _report(error: Exception, out: Printer, argv: list[str]) -> int:
    """Print an error of a command line, and return its exit code."""
    if isinstance(error, OptionError):
        error = with_flags(error, argv)
    if not isinstance(error, MopsJobsError):
        if out.verbose:
            raise error
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mopsjobs"):
            error = MopsJobsError(f"The package {error.name} is not installed.", hint=INSTALL)
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            discard_output(sys.stdout)  # Python would try to write the rest at its end, and report that too
            error = MopsJobsError(f"Cannot write: {error.strerror}.")
        else:
            error = MopsJobsError(f"Unexpected error: {type(error).__name__}: {error}", hint="Add -v to see where.")
    out.error(error)
    return error.exit_code


def _run(argv: list[str], env: Mapping[str, str], out: Printer, clocks: Mapping[str, Callable[..., object]]) -> int:
    # The error message of a program may be any bytes. A report with `?` for what is not UTF-8 is better than none.
    argv = [os.fsencode(word).decode("utf-8", "replace") for word in _join_sort_values(argv)]
    # Here, so that a broken configuration does not hide the help.
    if argv[:1] == ["help"] and not any(word.startswith("-") for word in argv):
        argv = [*argv[1:], "--help"]
    args = _parse(argv)
    if args.command is None:
        build_parser().print_help()
        return EXIT_DONE
    out.verbose = getattr(args, "verbose", 0)
    out.quiet = getattr(args, "quiet", False)

    from mopsjobs.app.run.app import open_app

    flags = {name: getattr(args, name, None) for name in ("registry", "cache", "color", "env")}
    app = open_app(flags, env, out, **clocks)  # type: ignore[arg-type]
    repeat_registry(registry=flags["registry"], env=flags["env"])
    try:
        result = load(args.command).run(args, app)
    finally:
        app.close()
    try:
        out.show(result)
    except BrokenPipeError:  # the reader has closed the pipe; the command is done all the same
        discard_output(sys.stdout)
    except OSError as error:
        if args.command not in NOT_REPEATABLE or getattr(args, "dry_run", False):
            raise
        discard_output(sys.stdout)
        message = f"Cannot write: {error.strerror}. The command was completed."
        raise MopsJobsError(message, hint=f"See its result: {command_line('list')}") from None
    return result.exit_code


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments, with a parser of only those commands that are among the words: each costs an import."""
    if argv[:2] == ["results", "download"] and argv[2:] and "--table" not in argv:  # else several jobs
        from mopsjobs.cli.modelops_words import translate

        argv = translate(argv) or argv
    names = [name for name in COMMANDS if name in argv]
    if argv == ["--version"] or (names and argv[0] in names):
        try:
            return build_parser(names).parse_args(argv)
        except UsageError:
            pass  # the parser of all commands has the better message
    try:
        return build_parser().parse_args(argv)
    except UsageError as error:
        from mopsjobs.cli.modelops_words import translate

        words = translate(argv)
        if words is not None:
            return _parse(words)
        error.hint = f"See: mops-jobs {argv[0]} --help" if argv[0] in COMMANDS else "See: mops-jobs --help"
        raise


def _join_sort_values(argv: list[str]) -> list[str]:
    """Join `--sort -updated` to `--sort=-updated`: argparse would take the value for a flag."""
    joined: list[str] = []
    words = iter(argv)
    for word in words:
        following = next(words, None) if word == "--sort" else None
        joined.append(word if following is None else f"{word}={following}")
    return joined


def entry() -> NoReturn:
    """Run the installed command and exit."""
    if sys.stdout is not None:  # closed, as by `>&-`
        # A terminal with a small character set gets escapes for other characters.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    _exit_fast(main())


def _exit_fast(code: int) -> NoReturn:
    """Exit with this code; at once, if no thread has to be waited for. After Ctrl-C, reads under way are not.

    Freeing the interpreter's objects one by one costs a fifth of the time of a listing, and has no effect.
    """
    threading = sys.modules.get("threading")
    if (
        code == EXIT_INTERRUPTED
        or threading is None
        or all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate())
    ):
        atexit._run_exitfuncs()  # noqa: SLF001 - what libraries registered for the end; there is no public name
        with contextlib.suppress(OSError, ValueError):  # else the interpreter reports it at its end
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()

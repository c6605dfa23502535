"""mops-jobs, the command: parse, run, print, exit code. The only place that catches errors and exits."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime

from mopsjobs import __version__
from mopsjobs.app.job_arguments import Parser
from mopsjobs.cli.commands import COMMANDS, load
from mopsjobs.cli.flags import HelpFormatter
from mopsjobs.console.printer import Printer, discard_output
from mopsjobs.errors import EXIT_DONE, EXIT_INTERRUPTED, INSTALL, MopsJobsError, UsageError

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from mopsjobs.cli.commands import Commands
    from mopsjobs.console.result import Result

DESCRIPTION = "See, wait for and report batch simulation jobs, without kubectl."

EPILOG = """exit codes:
  0 done, also an empty list   1 unexpected   2 usage   3 no such job, or several
  4 sign-in or permission   5 registry unreachable, try again   6 refused
  7 partly done   8 not finished yet   130 interrupted, or answered with no
  100 failed, 103 cancelled, 104 partial: the job's end, from wait, logs -f, status --exit-status
"""


WRITERS = frozenset({"cancel", "progress", "prune", "register", "resume", "submit", "update"})
"""Commands that should not be repeated only because their output found no room."""

# Everything here is English. To find that out, argparse would look for a translation of each of its own words.
argparse._ = lambda text: text  # type: ignore[attr-defined]


def _meant(message: str) -> str | None:
    """The command that a mistyped one resembles most."""
    if "invalid choice: '" not in message or "COMMAND" not in message:
        return None
    import difflib

    word = message.partition("invalid choice: '")[2].partition("'")[0]
    close = difflib.get_close_matches(word, COMMANDS, 1)
    return f"Is it {close[0]}?" if close else None


def build_parser(names: Iterable[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        names: the commands to declare. All of them by default; a run declares only those it may need, since each costs
            an import.
    """
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    group = common.add_argument_group("common")
    group.add_argument("--registry", metavar="URL", help="the registry to use (MOPS_JOBS_REGISTRY)")
    group.add_argument("--cache", metavar="PATH", help="its local cache (MOPS_JOBS_CACHE)")
    group.add_argument("--color", metavar="WHEN", help="auto, always or never (NO_COLOR)")
    group.add_argument("-v", "--verbose", action="count", help="say more; an unexpected error then shows where")

    quiet = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, parents=[common])
    # Not to the parser itself: that would import shutil, to look how wide the terminal is.
    quiet.add_argument_group("common").add_argument(
        "-q", "--quiet", action="store_true", help="say nothing that was not asked for, unless it is wrong"
    )

    parser = Parser(
        prog="mops-jobs",
        description=DESCRIPTION,
        epilog=EPILOG,
        parents=[quiet],
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mops-jobs {__version__}")
    commands: Commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", prog="mops-jobs", parser_class=Parser
    )
    for name in names:
        # In a listing, a fixed contract gives -q another meaning: ids alone.
        load(name).add_parser(name, commands, [common if name == "list" else quiet])
    return parser


def main(
    argv: list[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    now: Callable[[], datetime] | None = None,
    sleep: Callable[[float], None] | None = None,
    monotonic: Callable[[], float] | None = None,
) -> int:
    """Run the command line `argv` and return the exit code.

    `env`, `now`, `sleep` and `monotonic` stand in for the environment, the clocks and the waiting, in tests.
    """
    argv = sys.argv[1:] if argv is None else argv
    env = os.environ if env is None else env
    out = Printer(sys.stdout, sys.stderr, env)
    try:
        clocks = {"now": now, "sleep": sleep, "monotonic": monotonic}
        return _run(argv, env, out, {name: clock for name, clock in clocks.items() if clock is not None})
    except SystemExit as stop:  # argparse, after --help and --version
        return _told(stop, out)
    except BrokenPipeError:
        discard_output(sys.stdout)
        return EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for a user who did not ask
        return _failed(error, out)


def _told(stop: SystemExit, out: Printer) -> int:
    """The exit code of what argparse has printed, once it is out: else its end would be a complaint of Python's."""
    try:
        if sys.stdout is not None:  # closed before the start
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)
    except OSError as error:
        return _failed(error, out)
    return stop.code if isinstance(stop.code, int) else EXIT_DONE


def _failed(error: Exception, out: Printer) -> int:
    """Say why, and return the exit code that tells it."""
    if not isinstance(error, MopsJobsError):
        if out.verbose:
            raise error
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mopsjobs"):
            error = MopsJobsError(f"The package {error.name} is not installed.", hint=INSTALL)
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            discard_output(sys.stdout)  # what it still holds would be tried again at the end, and be complained about
            error = MopsJobsError(f"Cannot write: {error.strerror}.")
        else:
            error = MopsJobsError(f"Unexpected: {type(error).__name__}: {error}", hint="Add -v to see where.")
    out.error(error)
    return error.exit_code


def _run(argv: list[str], env: Mapping[str, str], out: Printer, clocks: Mapping[str, object]) -> int:
    # The last words of a dying program may be any bytes; a `?` for what is not UTF-8 is better than no report.
    argv = [os.fsencode(word).decode("utf-8", "replace") for word in _joined(argv)]
    if argv == ["help"]:
        argv = []
    args = _parsed(argv)
    if args.command is None:
        build_parser().print_help()
        return EXIT_DONE
    out.verbose = getattr(args, "verbose", 0)
    out.quiet = getattr(args, "quiet", False)

    from mopsjobs.app import config
    from mopsjobs.app.app import App

    flags = {name: getattr(args, name, None) for name in ("registry", "cache", "color")}
    settings = config.load(flags, env, _directory())
    out.color = settings.color.value
    for sentence in settings.ignored:
        out.warn(sentence)
    if settings.redirected_by is not None:
        out.note(f"The registry is {settings.registry.value}, named by {settings.redirected_by}")
    app = App(settings, out, env, build_parser, **clocks)  # type: ignore[arg-type]
    try:
        result = load(args.command).run(args, app)
    finally:
        app.close()
    try:
        out.show(result)
    except BrokenPipeError:  # whoever read has seen enough; what came of the command is the same
        discard_output(sys.stdout)
    except OSError as error:
        if args.command in WRITERS and not getattr(args, "dry_run", False):
            raise _done_unseen(error, result) from None
        raise
    return result.exit_code


def _done_unseen(error: OSError, result: Result) -> MopsJobsError:
    """The error of a command that has written to the registry, and could not print that: nobody should repeat it."""
    discard_output(sys.stdout)
    said = result.first_line()
    return MopsJobsError(
        f"Cannot write: {error.strerror}. It was done all the same{': ' + said if said else ''}.",
        hint="See what came of it: mops-jobs list",
    )


def _directory() -> str | None:
    """Where we are; None where that directory is gone, as a job's scratch may be when its end is reported."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments, by a parser of only those commands that stand among the words: each costs an import."""
    meant = [name for name in COMMANDS if name in argv]
    if argv == ["--version"] or (meant and argv[0] in meant):
        try:
            return build_parser(meant).parse_args(argv)
        except UsageError:
            pass  # the whole parser has the better words for it
    try:
        return build_parser().parse_args(argv)
    except UsageError as error:
        known = argv and argv[0] in COMMANDS
        error.hint = f"See: mops-jobs {argv[0]} --help" if known else _meant(str(error)) or "See: mops-jobs --help"
        raise


def _joined(argv: list[str]) -> list[str]:
    """`--sort -updated` as `--sort=-updated`: argparse would take the value for a flag."""
    joined: list[str] = []
    words = iter(argv)
    for word in words:
        following = next(words, None) if word == "--sort" else None
        joined.append(word if following is None else f"{word}={following}")
    return joined


def entry() -> NoReturn:
    """The installed command."""
    if sys.stdout is not None:  # closed, as by `>&-`
        # A terminal that knows few characters gets escapes for the others.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    _leave(main())


def _leave(code: int) -> NoReturn:
    """End with this exit code; at once, where no thread is to be waited for.

    Taking an interpreter apart, object by object, costs a fifth of a listing, as much of a command that has imported
    Azure's SDK, and does nothing for anybody.
    """
    threading = sys.modules.get("threading")
    if threading is None or all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        atexit._run_exitfuncs()  # noqa: SLF001 - what libraries want done at the end; there is no public name for it
        with contextlib.suppress(OSError, ValueError):  # else let the interpreter say it as it always does
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()

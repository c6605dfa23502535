"""Stop a run in order when the process gets SIGTERM or SIGINT."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from mopsjobs.runner.retry import OutageRetry


@contextlib.contextmanager
def stop_on_signals(retry: OutageRetry, on_log: Callable[[str], None]) -> Iterator[None]:
    """Take SIGTERM and SIGINT as requests to stop a run, while the block runs. Only the main thread can.

    Args:
        retry: remembers the request.
        on_log: called with one line.
    """

    def stop(number: int, _frame: object) -> None:
        retry.stop(number)
        with contextlib.suppress(RuntimeError):  # the signal interrupted a print on the same stream
            on_log(f"Stopping ({signal.Signals(number).name}); finished tasks are kept.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

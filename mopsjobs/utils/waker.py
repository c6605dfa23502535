"""What a thread wakes a loop with that waits for files to be readable."""

from __future__ import annotations

import contextlib
import os


class Waker:
    """A pipe whose end to read can be given to a selector. Its reader empties it."""

    def __init__(self) -> None:
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._woken, False)

    def fileno(self) -> int:
        """Return the end that can be read once it was woken."""
        return self._woken

    def wake(self) -> None:
        """Wake the loop. A loop that is to wake already stays so."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wakes, b"1")

    def close(self) -> None:
        """Close both ends."""
        os.close(self._woken)
        os.close(self._wakes)

"""Pace the many reads of a sync together, if the store is across a network.

`pacer.py` does it. It is not imported here: a listing of a store on this machine syncs too, and needs no network.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mopsjobs.store.pacer import ReadPacer


def pacer_of(store: object) -> ReadPacer | None:
    """Return the pacer of a store across a network; None of another store."""
    return getattr(store, "pacer", None)


@contextlib.contextmanager
def bulk_reads(store: object) -> Iterator[None]:
    """Have all reads of a store in the block paced together."""
    pacer = pacer_of(store)
    with pacer.bulk() if pacer is not None else contextlib.nullcontext():
        yield

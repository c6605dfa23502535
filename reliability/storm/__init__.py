"""Faults between processes and a store: what was acknowledged is there once, and no answer was false.

`storms.py` is the whole; processes are `client.py`, the bad line is `proxy.py`, and `verdict.py` judges.
`bad_networks.py` has syncs under conditions that last; `sync_process.py` runs one of them.
"""

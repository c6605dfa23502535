"""Faults between processes and a store: what was acknowledged is there once, and no answer was false.

`storms.py` is the whole; processes are `client.py`, the bad line is `proxy.py`, and `verdict.py` judges.
"""

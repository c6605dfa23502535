"""The local mirror of a registry in one SQLite file. It may lag, may be deleted at any time, and is never the truth.

`sync/` fills the cache and `queries/` reads it. The reading path uses the standard library alone.
"""

"""The local mirror of a registry, in one SQLite file: may lag, may be deleted at any time, never the truth.

schema   tables, views, migrations; the only importer of sqlite-utils
file     opening the file, to read or to write; what to do with one that is damaged or from the future
rows     between a record and a row
mirror   sync: make the rows equal the registry; write_through: show this machine its own writes at once
merge    the full sync
delta    the sync of what was announced as changed
taking   what the two have in common
state    what the cache remembers of its syncs; generations, transactions
queries  listing, filtering, counting, finding: the reading path, standard library alone
"""

"""mops-jobs: see, wait for and steer batch simulation jobs without kubectl.

The layers, lowest first; an arrow never points up (tests/project/test_layers.py holds them to it):

    errors, times            what everybody may import
    status, job              the state machine and the record: pure
    store/                   versioned bytes under keys, one module a backend
    registry                 the rules by which records change; the only writer of records
    cache/                   the local SQLite mirror: schema, sync, queries
    config, output           settings read once; the only printer
    commands/                one module a family of commands
"""

__version__ = "0.1.0"

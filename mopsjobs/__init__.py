"""mops-jobs: see, wait for and steer batch simulation jobs without kubectl.

A module imports only from lower floors, or within its package (docs/architecture.md; held by
tests/project/test_layers.py). From the lowest floor up:

    errors
    utils
    console, engines, store
    bundles, registry
    events, studies
    cache, submission
    runner
    app
    web
    cli
"""

__version__ = "0.1.0"

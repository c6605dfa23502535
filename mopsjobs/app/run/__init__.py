"""One run of mops-jobs: its settings, its registry and cache, and what arguments mean."""

"""The version of mops-jobs."""

__version__ = "0.1.0"

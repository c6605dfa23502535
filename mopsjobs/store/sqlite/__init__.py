"""Versioned bytes in one SQLite file."""

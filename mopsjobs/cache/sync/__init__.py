"""Bring the registry's records and events into the cache."""

"""Bring records and events of the registry into the cache."""

"""The web page and its API. Both read the cache alone: no request reaches the registry, and nothing is changed."""

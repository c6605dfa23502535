"""The web page and its API. Both read the cache only: no request contacts the registry or changes anything."""

"""Commands that take care of the installation, the cache and the store."""

"""What commands, page and Python programs share: settings, the cache, waiting, advice."""

"""What commands and page share: settings, the cache, waiting, advice."""

"""What commands, page and Python programs share: settings, filters, the cache, finding a job, checks, waiting."""

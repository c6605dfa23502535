"""What all pages share: the cache, what is read in the background, and rendering."""

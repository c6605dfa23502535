"""Write events of jobs into the store in chunks, read them, and remove old ones."""

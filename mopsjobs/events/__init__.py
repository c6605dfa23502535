"""What happened to jobs: events in the store, written in chunks, removed by retention."""

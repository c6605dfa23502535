"""What changes: waiting, logs and events as they come, and notifications."""

"""Commands for scripts and other programs."""

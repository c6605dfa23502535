"""Tools that know nothing about jobs: files, times, text, strict parsers."""

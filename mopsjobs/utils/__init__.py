"""Tools that know nothing about jobs: files, times, text, delays, strict readers of JSON and YAML."""

"""A long life: nothing grows in a simulated day of cron with a hundred writers. `day.py` is the whole."""

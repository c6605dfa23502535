"""`kill -9` at random instants: whatever a killed command leaves is right, or healed by the next one.

`kinds.py` is the whole; `processes.py` has commands that can be killed, and kills them again and again.
"""

"""A study, its tasks, its manifest, and the outputs that tasks leave."""

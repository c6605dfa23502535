"""Where results come from: provenance, comparisons, replays."""

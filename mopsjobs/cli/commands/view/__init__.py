"""Commands that look: at jobs, and inside them."""

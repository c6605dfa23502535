"""Pack, store and unpack the code of a model, as a content-addressed archive."""

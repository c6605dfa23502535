"""The code of a model as a content-addressed archive: packed, stored, unpacked."""

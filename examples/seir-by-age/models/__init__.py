"""The models of this bundle."""

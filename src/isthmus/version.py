"""The version, apart from the package root, so that it can be imported alone."""

__version__ = "0.1.0"

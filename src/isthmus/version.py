"""The version, apart from the package root: what records it need not import everything."""

__version__ = "0.1.0"

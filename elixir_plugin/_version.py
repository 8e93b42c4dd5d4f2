"""The version of the package, in a module of its own so that any module can say it without importing the front door."""

__version__ = "0.1.0"

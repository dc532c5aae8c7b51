"""The version, which the build reads without an import."""

__version__ = "0.2.0"

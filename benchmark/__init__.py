"""The harness of Assay: config in, records out, tables from records."""

__version__ = "0.1.0"

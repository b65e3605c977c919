"""Capture readers: every layout on disk becomes one ``Frame`` type."""

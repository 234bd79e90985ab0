"""Stored values: JSON, with files for the rest."""

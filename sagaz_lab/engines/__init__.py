"""Engines execute runs."""

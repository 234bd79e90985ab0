"""Resuming after a crash or a stop."""

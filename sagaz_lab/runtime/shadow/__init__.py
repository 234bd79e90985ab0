"""Shadows: an edited revision beside the current one."""

"""Triggers prepared for the decision loop, and their state."""

"""Intake: from a source, or by hand, to the triggers."""

"""Behaviour: from a delivery to a run."""

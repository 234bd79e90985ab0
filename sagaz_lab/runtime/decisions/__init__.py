"""Decides batches: decode, validate, claims, the trigger method."""

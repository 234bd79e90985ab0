"""What becomes of a batch: decode, validate, claims, the trigger method."""

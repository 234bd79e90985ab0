"""Values and definitions. No I/O."""

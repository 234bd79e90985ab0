"""Values and definitions: the standard library only, no input or output."""

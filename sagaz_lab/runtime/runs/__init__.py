"""The live runs of this process, and their views."""

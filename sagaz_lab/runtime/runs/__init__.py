"""The runs that live in this process, and how they look."""

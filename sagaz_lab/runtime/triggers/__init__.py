"""A trigger made ready for its decision loop, and what it carries."""

"""What is published, and on which way."""

"""The outbox: what is published, and by which lane."""

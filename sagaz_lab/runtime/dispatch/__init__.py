"""Accept in one transaction, start what may start, keep what waits."""

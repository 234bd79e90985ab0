"""Dispatch: accept decisions in one transaction, start the runs that may start, queue the others."""

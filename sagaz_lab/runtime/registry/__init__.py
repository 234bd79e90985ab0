"""The sagas and their revisions."""

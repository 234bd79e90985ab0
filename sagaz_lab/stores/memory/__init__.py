"""The store that forgets with the process."""

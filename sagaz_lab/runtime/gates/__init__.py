"""What an event or a run passes on its way: rates, keys, windows."""

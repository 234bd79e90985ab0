"""The gates that events and runs pass: rates, keys, windows."""

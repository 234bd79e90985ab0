"""The engine that executes runs on the Lab's own loop and threads."""

"""For those who test sagas and plug-ins."""

"""Which sagas there are, in which revision."""

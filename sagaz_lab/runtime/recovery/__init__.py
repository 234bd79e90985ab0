"""Going on after a crash or a stop."""

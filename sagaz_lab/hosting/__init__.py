"""Where a Lab lives: on which loop, what it opens, and what it shows."""

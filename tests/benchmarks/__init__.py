"""`make bench`: ours beside the baselines, as ratios."""

"""An opening of a Lab: its clock, tasks and timers, the lease, and the order in which it closes."""

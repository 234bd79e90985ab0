"""The lifetime of an open Lab: clock, tasks, timers, lease, and the order of closing."""

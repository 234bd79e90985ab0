"""An edited revision beside the current one."""

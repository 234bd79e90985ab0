"""Tools for testing sagas and plug-ins."""

from sagaz_lab.testing.harness import TriggerTestHarness

__all__ = ["TriggerTestHarness"]

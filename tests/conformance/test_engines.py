"""The built-in engine keeps the promises of the protocol."""

import pytest

from sagaz_lab.engines.local.engine import LocalEngine
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.testing.engines import EngineSuite


class TestLocalEngine(EngineSuite):
    @pytest.fixture
    def engine(self) -> LocalEngine:
        return LocalEngine(SystemClock())

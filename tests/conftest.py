"""Servers that live as long as the test run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.services.postgres import CURE, PostgresServer, programs, running_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Each store has a schema of its own (`fresh`). Without PostgreSQL the tests are skipped, in CI they fail."""
    if programs() is None and not os.environ.get("CI"):
        pytest.skip(CURE)
    with running_postgres() as server:
        yield server

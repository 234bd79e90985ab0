"""The text of an error can be printed, whatever it holds, and a very long one does not hold the loop."""

from __future__ import annotations

import time

from sagaz_lab.errors import describe
from sagaz_lab.runtime.triggers.dead_letters import text_of


def test_a_lone_surrogate_is_escaped() -> None:
    error = ValueError("\ud800 \u00e9")
    assert describe(error) == "ValueError: \\ud800 \u00e9"
    text_of(error).encode()


def test_a_very_long_message_is_cut_before_it_is_masked() -> None:
    error = ValueError("password=[" + "x" * 5_000_000 + "S3CRET")
    began = time.process_time()
    assert "S3CRET" not in describe(error) + text_of(error)
    assert time.process_time() - began < 0.2
    assert describe(ValueError("y" * 30_000)).endswith("y ... 10000 characters left out")

"""A terminal finds nothing to obey in the names and events that we print."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab import Lab, Outcome, Saga, TriggerConfig, action, trigger
from sagaz_lab.cli import _started, main
from sagaz_lab.notebook.cards import outcome_line, status_card
from sagaz_lab.notebook.outputs import tail
from sagaz_lab.texts import logger_of, printable

TITLE = "\x1b]0;owned\x07\x9b2J\u202e\r"
"""Sets a terminal's title, clears it, turns the text round, goes back to the line's start."""


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert not [letter for letter in shown if ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0]
    assert "\u202e" not in shown
    if text.isprintable():
        assert shown == text
    assert printable(f"a\n\t{text}", lines=True).startswith("a\n\t")


def test_colours_stay_where_they_may() -> None:
    assert printable("\x1b[1;31mred\x1b[0m \x1b[2J", colours=True) == "\x1b[1;31mred\x1b[0m \\x1b[2J"


async def hostile(lab: Lab) -> list[Outcome]:
    with lab.activate():

        class Hostile(Saga):
            saga_name = f"h{TITLE}"
            trigger_config = TriggerConfig(max_retries=0)

            @trigger(source="memory", topic=f"t{TITLE}")
            def on(self, event):
                return {}

            @action(f"a{TITLE}")
            async def a(self, ctx):
                ctx.log(TITLE)
                print(TITLE)
                raise ValueError(TITLE)

    await lab.start()
    outcomes = await lab.fire(f"h{TITLE}.on", {}, id=f"e{TITLE}")
    await lab.drain()
    return outcomes


@pytest.mark.parametrize("line", [["runs"], ["dead"], ["dead", "--by", "cause"], ["why", f"e{TITLE}"], ["why", TITLE]])
async def test_the_command_line_prints_them_escaped(
    tmp_path: Path, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(store) as lab:
        await hostile(lab)
        started = _started(lab)
    capsys.readouterr()
    main([*line, "--store", store])
    told = capsys.readouterr()
    for text in (told.out, told.err, started):
        assert "\x1b" not in text
        assert printable(text, lines=True) == text
    assert "owned" in told.out + told.err


async def test_the_notebook_and_the_log_print_them_escaped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with Lab("memory") as lab:
            outcomes = await hostile(lab)
            logger_of("sagaz_lab").warning("source %s", TITLE)
            texts = [status_card(lab.status()).text, tail(lab, None, 50), *lab.status().warnings, caplog.text]
            texts += [outcome_line(outcome) for outcome in outcomes]
    assert "owned" in texts[0]
    assert not [text for text in texts if printable(text, lines=True) != text]

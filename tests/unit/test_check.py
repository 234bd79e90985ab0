"""`sagaz-lab check MODULE` lists what is there and what is wrong, and starts nothing."""

from itertools import count
from pathlib import Path

import pytest

from sagaz_lab.cli import FAILED, OK, main

NAMES = count()

HEAD = """
from pathlib import Path
from sagaz_lab import OutboxSagaListener, Saga, TriggerConfig, Throttle, action, trigger

async def later(): ...
def opens(topic): Path("opened").touch()

"""
GOOD = """
class Cleanup(Saga):
    saga_name = "cleanup"

    @trigger(source="cron", schedule="@daily")
    def on_day(self, tick):
        return {}

    @trigger(source="redis", stream="orders")
    def on_order(self, order):
        return {}

    @action("delete")
    def delete(self, ctx): ...

class ByHand(Saga):
    @action("work")
    def work(self, ctx): ...
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)

    def run(code: str, *options: str) -> tuple[int, str, str]:
        path = tmp_path / f"checked_{next(NAMES)}.py"
        path.write_text(HEAD + code)
        status = main(["check", path.name, *options])
        path.unlink()
        told = capsys.readouterr()
        assert list(tmp_path.glob("[!_]*")) == []  # no store, no source
        return status, told.out, told.err

    return run


def test_a_module_in_order_is_listed(check) -> None:
    status, out, _ = check(GOOD)
    assert status == OK
    assert out == (
        "cleanup: delete\n  cleanup.on_day <- cron @daily\n  cleanup.on_order <- redis orders\n"
        "ByHand: work\n2 saga(s), 2 trigger(s), 0 problem(s)\n"
    )


def saga(options: str, body: str = "") -> str:
    return (
        f"class Wrong(Saga):\n    {body or 'pass'}\n\n    @trigger({options})\n    def on(self, event): ...\n\n"
        "    @action()\n    def work(self, ctx): ...\n"
    )


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (saga('source="kafka", topic="t"'), "Wrong.on: source='kafka' can be defined, but this version has no adapter"),
        (saga('source="custom", factory=later'), "Wrong.on: source='custom': factory later is async"),
        (
            saga('source="custom", factory=opens, settings={"topik": "t"}'),
            "Wrong.on: source='custom': factory opens would fail: missing a required argument: 'topic'",
        ),
        (
            saga('source="memory", topic="t"', "listeners = [OutboxSagaListener(storage='sqlite:///x')]"),
            "the Lab's store",
        ),
        (saga('source="redis", stream="s", url="redis://u:C4n4@h"'), "its code contains a credential"),
        (saga('source="memory"', 'def __init__(self): raise OSError("no disk")'), "OSError: no disk"),
    ],
)
def test_what_a_start_would_refuse_is_listed_beside_the_rest(check, code: str, why: str) -> None:
    status, out, _ = check(GOOD + code)
    assert status == FAILED
    assert why in out
    assert "cleanup.on_day <- cron @daily" in out
    assert out.endswith("3 saga(s), 3 trigger(s), 1 problem(s)\n")
    assert "C4n4" not in out


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("x = 1", "defines no saga"),
        (saga('source="redis", steam="s"'), "no redis option 'steam'; did you mean 'stream'?"),
        (GOOD + GOOD.replace("Cleanup", "Other"), "saga_name 'cleanup' is taken"),
    ],
)
def test_what_cannot_be_imported_is_one_line(check, code: str, why: str) -> None:
    status, out, err = check(code)
    assert (status, out) == (FAILED, "")
    assert why in err
    assert err.count("\n") == 1


def test_an_address_of_a_store_that_is_none_is_one_line(check) -> None:
    status, _, err = check(GOOD, "--store", "sqlit:///lab.db")
    assert status == FAILED
    assert "did you mean 'sqlite'?" in err

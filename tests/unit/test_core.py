"""The pure core: the same log gives the same outcomes, however it is cut, and what was rolled back never was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sagaz_lab import Batch, Debounce, Event, Throttle, TriggerConfig
from sagaz_lab.abc import WaitingEvent
from sagaz_lab.model.trigger import Gates
from sagaz_lab.runtime.gates.reservation import Reservation
from sagaz_lab.runtime.gates.window_policies import Absent, All, AllOf, Batches, InTurn, Leaving, Policy, Trailing
from sagaz_lab.runtime.gates.windows import Windows
from tests.unit.core_log import Arrives, Ends, Input, Player

KEYS = ("a", "b", "d1", "d2")
PERIOD, LONGEST = 2.0, 5.0


def window(kind: str) -> tuple[dict[str, Any], Policy | None]:
    debounce = Debounce(PERIOD, LONGEST, key="k", mode="all" if kind == "all" else "trailing")
    made: dict[str, tuple[dict[str, Any], Policy | None]] = {
        "none": ({}, None),
        "leading": ({"debounce": Debounce(PERIOD, LONGEST, key="k", mode="leading")}, None),
        "trailing": ({"debounce": debounce}, Trailing(debounce)),
        "all": ({"debounce": debounce}, All(debounce)),
        "batch": ({"batch": Batch(3, PERIOD, key="k")}, Batches(3, PERIOD)),
        "all_of": ({}, AllOf(2, PERIOD)),
        "sequence": ({}, InTurn(2, PERIOD)),
        "absent": ({}, Absent(PERIOD)),
    }
    return made[kind]


@st.composite
def players(draw: st.DrawFn) -> Any:
    """Makes the same player each time it is called."""
    kind = draw(st.sampled_from(("none", "leading", "trailing", "all", "batch", "all_of", "sequence", "absent")))
    options, policy = window(kind)
    pace = draw(st.sampled_from(("none", "rate", "throttle", "keyed")))
    if pace == "rate":
        options["rate_limit_per_second"] = 1.0
    elif pace != "none":
        options["throttle"] = Throttle(1, 2.0, burst=draw(st.integers(0, 2)), key="k" if pace == "keyed" else None)
    options["singleton"] = draw(st.sampled_from((None, None, "cancel", "cancel", "skip", "return_existing", "error")))
    if options["singleton"] is None:
        options["max_concurrent_sagas"] = draw(st.sampled_from((1, 1, 2, None)))
    options["concurrency_key"] = draw(st.sampled_from((None, "k"))) if options["singleton"] is None else "k"
    options["cooldown"] = draw(st.sampled_from((None, 3.0)))
    size = draw(st.sampled_from((1, 2, 3, 5)))
    strategy = draw(st.sampled_from(("block", "drop_oldest", "drop_oldest", "drop_newest", "reject")))
    config = TriggerConfig(queue_size=size, backpressure_strategy=strategy)
    gates = Gates(**{name: value for name, value in options.items() if value is not None})
    return lambda: Player(gates, policy, config)


@st.composite
def logs(draw: st.DrawFn) -> list[Input]:
    """Moments on a coarse grid, so that many inputs meet in one."""
    at, found = 0.0, list[Input]()
    for n in range(draw(st.integers(1, 25))):
        at += draw(st.sampled_from((0.0, 0.0, 0.5, 1.0, 4.0)))
        if draw(st.integers(0, 4)) == 0:
            found.append(Ends(at, draw(st.booleans())))
        else:
            again = draw(st.integers(0, 5)) == 0 and n > 0
            id = f"e{draw(st.integers(0, n - 1))}" if again else f"e{n}"
            found.append(
                Arrives(at, id, draw(st.sampled_from(KEYS)), draw(st.integers(0, 1)), draw(st.integers(0, 4)) > 0)
            )
    return found


def cut(draw: st.DrawFn, log: list[Input]) -> Iterator[list[Input]]:
    while log:
        size = draw(st.integers(1, 8))
        yield log[:size]
        log = log[size:]


@given(players(), logs(), st.data())
@settings(deadline=None, phases=[Phase.reuse, Phase.generate])  # shrinking takes minutes
def test_however_a_log_is_cut_into_batches_its_outcomes_are_the_same(make: Any, log: list[Input], data: Any) -> None:
    at_once, cut_up = make(), make()
    at_once.play(log)
    for batch in cut(data.draw, log):
        cut_up.play(batch)
        cut_up.commit()
    for player in (at_once, cut_up):
        player.until(log[-1].at + 100)
    assert cut_up.outcomes == at_once.outcomes


def standing(player: Player) -> Any:
    """What the gates hold."""
    core, admission = player.core, player.core.admission
    windows = [] if core.windows is None else [(it.id, it.key, it.at) for it in core.windows.events()]
    return (
        admission.in_flight,
        admission.slots.used,
        [run.run_id for run in admission.queue()],
        sorted(admission.turns().items()),
        windows,
        None if core.windows is None else core.windows.next_due(),
        admission.opens_at() if admission.waiting else None,
    )


@given(players(), logs(), st.data())
@settings(deadline=None, phases=[Phase.reuse, Phase.generate])  # shrinking takes minutes
def test_what_was_rolled_back_never_was(make: Any, log: list[Input], data: Any) -> None:
    """Events only: no run ends inside a batch."""
    player, told = make(), make()
    for batch in cut(data.draw, log):
        arrivals = [one for one in batch if isinstance(one, Arrives)]
        ends = [one._replace(at=batch[0].at) for one in batch if isinstance(one, Ends)]
        for one in (player, told):
            one.play(ends)
            one.until(batch[0].at)
            one.commit()
        moment = [one._replace(at=batch[0].at) for one in arrivals]
        before = standing(player)
        claims, live, outcomes = dict(player.claims), list(player.live), list(player.outcomes)
        player.play(moment)
        player.batch.rollback()
        player.claims.clear()
        player.claims.update(claims)
        player.live.clear()
        player.live.extend(live)
        player.outcomes, player.batch = outcomes, Reservation(player.claims)
        assert standing(player) == before
        for one in (player, told):
            one.play(moment)
            one.commit()
        assert [it[1:] for it in player.outcomes] == [it[1:] for it in told.outcomes]


def test_a_cooldown_counts_from_each_events_own_moment() -> None:
    for size in (1, 100, 1000):
        player = Player(Gates(cooldown=5.0, concurrency_key="k", max_concurrent_sagas=2000))
        log = [Arrives(n * 0.1, f"e{n}", "a") for n in range(1000)]
        for n in range(0, 1000, size):
            for one in log[n : n + size]:
                player.play([one, Ends(one.at)])
            player.commit()
        assert sum(outcome[2] == "started" for outcome in player.outcomes) == 20


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest", "reject"])
def test_the_queue_of_a_batch_is_bounded_event_by_event(strategy: Any) -> None:
    config = TriggerConfig(queue_size=2, backpressure_strategy=strategy)
    player = Player(Gates(max_concurrent_sagas=1), None, config)
    player.play([Arrives(0.0, f"e{n}", "a") for n in range(5)])
    dropped = {"drop_oldest": ["e1", "e2"], "drop_newest": ["e3", "e4"], "reject": ["e3", "e4"]}[strategy]
    assert [it[1] for it in player.outcomes if it[2] in ("dropped", "dead")] == dropped
    assert [run.event_id for run in player.core.admission.queue()] == [
        it for it in ("e1", "e2", "e3", "e4") if it not in dropped
    ]


def calls(work: Callable[[], object]) -> int:
    """How many functions it calls: a measure of work that no machine's speed changes."""
    steps, before = 0, sys.getprofile()

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return steps


def work_of_rollback(key: str, events: int) -> int:
    """What it takes to roll back a batch in which the windows of so many events have been closed."""
    player = Player(Gates(), Batches(events + 1, PERIOD), TriggerConfig(queue_size=events))
    player.play(Arrives(1.0, f"e{n}", key.format(n)) for n in range(events))
    player.commit()
    windows = player.core.windows
    assert windows is not None
    windows.change(Leaving())  # closes a window of one key event by event
    player.core.due(player.batch, 1.0)
    assert windows.size == 0
    work = calls(player.batch.rollback)
    assert windows.size == events
    return work


@pytest.mark.parametrize("key", ["each its own: {}", "the same"])
def test_rolling_back_ten_times_the_windows_is_ten_times_the_work(key: str) -> None:
    small, large = work_of_rollback(key, 100), work_of_rollback(key, 1_000)
    assert 0 < large < 15 * small


def test_an_event_leaves_its_window_although_another_process_has_a_clock_that_is_ahead() -> None:
    windows = Windows(Batches(10, PERIOD))
    ahead, new = (WaitingEvent(f"h-{at}", "t", "a", 0, Event({}), None, at) for at in (5, 1))
    windows.restore([ahead])
    windows.add(new)
    windows.remove(new)
    assert windows.events() == [ahead]

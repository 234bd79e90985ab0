"""The pace of starts against its definition, and the queue: no run lost, none doubled, none starved."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sagaz_lab.model.policy import Throttle
from sagaz_lab.model.trigger import Gates
from sagaz_lab.runtime.gates import rate_limit as pace_module
from sagaz_lab.runtime.gates.admission import Admission, Slots
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.rate_limit import Pace


def pending(run_id: Any, key: str | None = None, pace_key: str | None = None) -> PendingRun:
    made = PendingRun(str(run_id), "orders", "orders.on_order", 1, None, {}, 0.0, key=key)
    made.pace_key = pace_key
    return made


# --- pace ---


def allowed(starts: list[float], at: float, interval_s: float, burst: int) -> bool:
    """By definition: any n starts in a row take (n - 1 - burst) intervals at least."""
    row = [*starts, at]
    return all(at - first >= (len(row) - 1 - i - burst) * interval_s for i, first in enumerate(row))


@given(
    limit=st.sampled_from([1, 2, 4, 8]),
    per_s=st.sampled_from([1.0, 8.0, 64.0]),
    burst=st.integers(0, 3),
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=60),
)
@settings(deadline=None)
def test_a_start_is_let_through_exactly_when_the_definition_allows_it(
    limit: int, per_s: float, burst: int, steps: list[tuple[str, int]]
) -> None:
    pace, now = Pace("throttle", limit, per_s, burst, keyed=True), 0.0
    starts: dict[str, list[float]] = {"a": [], "b": []}
    for key, quarters in steps:
        now += quarters * pace.interval_s / 4
        opens = pace.opens_at(key) <= now
        assert opens == allowed(starts[key], now, pace.interval_s, burst)
        if opens:
            pace.start(key, now)
            starts[key].append(now)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=60))
def test_what_is_due_comes_sooner_at_a_faster_pace_and_never_later(steps: list[tuple[int, int]]) -> None:
    pace, now, due, interval_s = Pace("rate", 1, 4.0), 0.0, float("-inf"), 4.0
    for passed, limit in steps:
        now += passed
        pace.take_over("rate", limit, 4.0)
        due -= max(0.0, interval_s - 4.0 / limit)
        interval_s = 4.0 / limit
        assert pace.opens_at(None) == pytest.approx(due)
        pace.start(None, now)
        due = max(due, now) + interval_s


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3)), max_size=80))
def test_of_too_many_keys_those_go_that_are_past(steps: list[tuple[str, int]]) -> None:
    before, pace_module.KEYS = pace_module.KEYS, 4
    try:
        pace, now = Pace("throttle", 1, 2.0, keyed=True), 0.0
        last: dict[str, float] = {}
        for key, passed in steps:
            now += passed
            if pace.opens_at(key) <= now:
                pace.start(key, now)
                last[key] = now
            waiting = [other for other, at in last.items() if at + 2.0 > now]
            if len(waiting) <= 4:
                assert sum(pace.opens_at(other) > now for other in last) <= len(waiting)
            assert sum(pace.opens_at(other) > float("-inf") for other in "abcdefgh") <= 4
    finally:
        pace_module.KEYS = before


# --- the queue ---


def started(admission: Admission, now: float = 0.0) -> list[PendingRun]:
    found = []
    while (one := admission.next(now)) is not None:
        found.append(one)
    return found


def one_at_a_time(admission: Admission) -> list[str]:
    """The order in which all start that wait, if each ends before the next."""
    order = []
    while (one := admission.next(0.0)) is not None:
        order.append(one.run_id)
        admission.leave(one)
    return order


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_a_key_is_first_in_first_out_and_the_keys_take_turns(keys: list[str]) -> None:
    admission = Admission(Gates(max_concurrent_sagas=1), 1000)
    for n, key in enumerate(keys):
        admission.wait(pending(n, key))
    order = one_at_a_time(admission)
    assert sorted(map(int, order)) == list(range(len(keys)))
    for key in "abc":
        mine = [int(run_id) for run_id in order if keys[int(run_id)] == key]
        assert mine == sorted(mine)
    left = Counter(keys)
    for n, run_id in enumerate(order):
        key = keys[int(run_id)]
        before = [keys[int(other)] for other in order[:n]]
        if n and before[-1] == key:
            assert sum(left.values()) == left[key], "it has gone twice in a row while another key waited"
        left[key] -= 1


def test_a_hot_key_starves_no_other() -> None:
    admission = Admission(Gates(max_concurrent_sagas=1), 100_000)
    for n in range(10_000):
        admission.wait(pending(f"hot-{n}", "hot"))
    for n in range(3):
        admission.wait(pending(f"cold-{n}", "cold"))
    assert one_at_a_time(admission)[:6] == ["hot-0", "cold-0", "hot-1", "cold-1", "hot-2", "cold-2"]


def test_a_key_that_its_pace_holds_up_holds_up_no_other() -> None:
    admission = Admission(Gates(throttle=Throttle(1, 10.0, key="k")), 1000)
    for n in range(3):
        admission.wait(pending(f"a-{n}", pace_key="a"))
    admission.wait(pending("b-0", pace_key="b"))
    assert [it.run_id for it in started(admission, 0.0)] == ["a-0", "b-0"]
    assert [it.run_id for it in started(admission, 10.0)] == ["a-1"]
    assert admission.opens_at() is not None


def test_a_retry_goes_before_all_others_of_its_key() -> None:
    admission = Admission(Gates(), 1000)
    first, second = pending(1, "a"), pending(2, "a")
    assert admission.enter(first, 0.0)
    admission.wait(second)
    admission.leave(first, keep_turn=True)
    assert started(admission) == []
    admission.reenter(first)
    assert started(admission) == [first]
    admission.leave(first)
    assert started(admission) == [second]


class Steps:
    """Numbers that count how often they are looked at: a measure of work that no machine's speed changes."""

    def __init__(self) -> None:
        self.count = 0


class CountedKey(str):
    """A key that counts how often it is hashed or compared."""

    __slots__ = ("steps",)
    steps: Steps

    def __hash__(self) -> int:
        self.steps.count += 1
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        self.steps.count += 1
        return str.__eq__(self, other)  # type: ignore[return-value]


def work_for(keys: int) -> int:
    """What it takes to queue two runs of each key, start all, and end them."""
    steps, admission = Steps(), Admission(Gates(max_concurrent_sagas=10), keys * 2)
    for n in range(keys * 2):
        key = CountedKey(n % keys)
        key.steps = steps
        admission.wait(pending(n, key))
    while one := admission.next(0.0):
        admission.leave(one)
    assert (admission.waiting, admission.in_flight, admission.lanes) == (0, 0, {})
    return steps.count


def test_ten_times_the_keys_are_ten_times_the_work() -> None:
    small, large = work_for(1_000), work_for(10_000)
    assert 0 < large < 12 * small


def test_what_came_before_the_pace_had_keys_holds_up_none_of_them() -> None:
    admission = Admission(Gates(max_concurrent_sagas=3), 10)
    before = [pending(1, "a"), pending(2, "b")]
    for one in before:
        admission.wait(one)
    admission.configure(Gates(max_concurrent_sagas=3, throttle=Throttle(1, 4.0, burst=0, key="k")), 10)
    admission.wait(keyed := pending(3, "c", "x"))
    assert [admission.next(0.0), admission.next(0.0), admission.next(0.0)] == [before[0], keyed, None]
    assert admission.opens_at() == 4.0
    assert admission.next(4.0) is before[1]


def test_one_that_its_pace_holds_up_holds_up_none_of_its_key_once_it_is_gone() -> None:
    admission = Admission(Gates(max_concurrent_sagas=3, throttle=Throttle(1, 4.0, burst=0, key="k")), 10)
    first, held_up, free = pending(1, "a", "x"), pending(2, "b", "x"), pending(3, "b", "y")
    for one in (first, held_up, free):
        admission.wait(one)
    assert [admission.next(0.0), admission.next(0.0)] == [first, None]
    admission.remove(held_up)
    assert admission.next(0.0) is free


def test_what_came_with_a_key_goes_by_the_one_pace_once_there_are_no_keys() -> None:
    admission = Admission(Gates(max_concurrent_sagas=3, throttle=Throttle(1, 4.0, burst=0, key="k")), 10)
    keyed = [pending(1, "a", "x"), pending(2, "b", "x")]
    for one in keyed:
        admission.wait(one)
    assert [admission.next(0.0), admission.next(0.0)] == [keyed[0], None]
    admission.configure(Gates(max_concurrent_sagas=3, throttle=Throttle(1, 4.0, burst=0)), 10)
    admission.wait(plain := pending(3, "c"))
    assert [admission.next(1.0), admission.next(1.0)] == [keyed[1], None]
    assert admission.opens_at() == 5.0
    assert admission.next(5.0) is plain


OPTIONS = ["plain", "throttled", "throttled by key"]
KEYS, PACE_KEYS = st.sampled_from(["a", "b", "c", None]), st.sampled_from(["x", "y", None])


class Queue(RuleBasedStateMachine):
    """All that can happen to a run that waits, in any order. Each is in one place, and that is where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(4)
        self.options = {
            "plain": Gates(max_concurrent_sagas=3),
            "throttled": Gates(max_concurrent_sagas=3, throttle=Throttle(1, 4.0, burst=1)),
            "throttled by key": Gates(max_concurrent_sagas=3, throttle=Throttle(1, 4.0, burst=1, key="k")),
        }
        self.admission = Admission(self.options["plain"], 1000, self.slots)
        self.waiting: list[PendingRun] = []
        self.away: list[PendingRun] = []
        self.order: list[PendingRun] = []
        self.live: list[PendingRun] = []
        self.retrying: list[PendingRun] = []
        self.number = 0
        self.now = 0.0

    def busy(self, key: str | None) -> bool:
        return key is not None and any(one.key == key for one in [*self.live, *self.retrying])

    def made(self, key: str | None, pace_key: str | None) -> PendingRun:
        self.number += 1
        return pending(self.number, key, pace_key)

    @rule(key=KEYS, pace_key=PACE_KEYS)
    def comes(self, key: str | None, pace_key: str | None) -> None:
        one = self.made(key, pace_key)
        if self.admission.enter(one, self.now):
            assert not self.busy(key)
            assert all(_lane(other) != _lane(one) for other in self.waiting)
            self.live.append(one)
        else:
            self.admission.wait(one)
            self.waits(one, last=True)

    def waits(self, one: PendingRun, *, last: bool) -> None:
        self.order.insert(len(self.order) if last else 0, one)
        self.waiting.append(one)
        self.waiting.sort(key=self.order.index)

    @rule()
    def starts(self) -> None:
        one = self.admission.next(self.now)
        if one is None:
            free = len(self.live) < 3 and self.slots.used < 4
            for other in self.waiting if free else ():
                opens_at = self.admission.pace.opens_at(other.pace_key) if self.admission.pace else 0.0
                first = next(it for it in self.waiting if _lane(it) == _lane(other))
                assert self.busy(other.key) or first is not other or opens_at > self.now, f"{other.run_id} is lost"
            opens_at = self.admission.opens_at()
            assert opens_at is None or opens_at > self.now, "who is told to come back finds that nothing may start"
            return
        assert not self.busy(one.key)
        lane = [other for other in self.waiting if _lane(other) == _lane(one)]
        assert one is lane[0]
        self.waiting.remove(one)
        self.order.remove(one)
        self.live.append(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def is_taken_out(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        self.admission.remove(one)
        self.waiting.remove(one)
        self.away.append(one)

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def is_put_back(self, data: st.DataObject) -> None:
        """Whatever has come, gone or been taken out meanwhile."""
        one = data.draw(st.sampled_from(self.away))
        self.away.remove(one)
        self.admission.put_back(one)
        self.waiting.append(one)
        self.waiting.sort(key=self.order.index)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), fails=st.booleans())
    def ends(self, data: st.DataObject, fails: bool) -> None:
        one = data.draw(st.sampled_from(self.live))
        self.admission.leave(one, keep_turn=fails)
        self.live.remove(one)
        if fails:
            self.retrying.append(one)

    @precondition(lambda self: self.retrying)
    @rule(data=st.data(), given_up=st.booleans())
    def is_due_again(self, data: st.DataObject, given_up: bool) -> None:
        one = data.draw(st.sampled_from(self.retrying))
        self.retrying.remove(one)
        if given_up:
            self.admission.give_up_turn(one)
            return
        self.admission.reenter(one)
        self.waits(one, last=False)

    @rule(key=KEYS)
    def was_started_elsewhere(self, key: str | None) -> None:
        if self.busy(key):
            return
        one = self.made(key, None)
        self.admission.occupy(one)
        self.live.append(one)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 20.0]), options=st.sampled_from(OPTIONS))
    def time_passes_and_the_options_change(self, seconds: float, options: str) -> None:
        self.now += seconds
        self.admission.configure(self.options[options], 1000)

    @invariant()
    def each_is_where_it_should_be(self) -> None:
        admission = self.admission
        assert admission.waiting == len(self.waiting)
        assert admission.in_flight == self.slots.used == len(self.live)
        for one in self.waiting:
            assert admission.find(one.run_id) is one
        for one in [*self.live, *self.retrying]:
            assert admission.find(one.run_id) is None
        for key in "abcxy":
            mine = [one.run_id for one in self.waiting if _lane(one) == key]
            assert [it.run_id for it in admission.queued(key)] == mine
            assert (admission.running(key) is not None) == self.busy(key)


def _lane(one: PendingRun) -> str | None:
    return one.key if one.key is not None else one.pace_key


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)

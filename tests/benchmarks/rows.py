"""What is measured, against what, and the goal. A capability adds its rows here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One measurement: `measure(n, **options)` of a module here. `needs` are options the harness fills in:
    "path" is a file on the repository's disk, "url" the benchmark's own Redis server."""

    module: str
    n: int
    small: int
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The ratio to reach, or not to pass; `plus` allows so much over it, in the row's unit."""

    bound: Literal["at least", "at most"]
    ratio: float
    plus: float = 0.0

    def limit(self, baseline: float) -> float:
        return self.ratio + self.plus / baseline

    def met(self, ratio: float, baseline: float) -> bool:
        limit = self.limit(baseline)
        return ratio >= limit if self.bound == "at least" else ratio <= limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    name: str
    call: Call
    goal: Goal | None
    """None: told for comparison only, and not written to the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    name: str
    unit: str
    ours: Call
    against: Sequence[Against]
    rounds: int | None = None
    """For what takes long and varies little; None: as many as the others."""


def at_least(ratio: float) -> Goal:
    return Goal(bound="at least", ratio=ratio)


def within(limit: float) -> Goal:
    """So much in the row's unit, whatever the baseline."""
    return Goal(bound="at most", ratio=0.0, plus=limit)


def in_kernel(n: int, small: int, **options: Any) -> Call:
    return Call(module="ours_kernel", n=n, small=small, options=options, needs=("path",))


ALL_KEPT = {"keep_every": 1}
LOADED = {"per_s": 10_000, "view": True}

COMPARISONS: Sequence[Comparison] = (
    Comparison(
        name="dispatch, 10 % kept",
        unit="events/s",
        ours=Call(module="ours_dispatch", n=100_000, small=2_000),
        against=(
            Against(
                name="hand-written loop",
                call=Call(module="baselines.hand_loop", n=100_000, small=2_000),
                goal=at_least(0.5),
            ),
            Against(
                # Fewer events: sagaz takes as many a second at 100,000, which only takes longer.
                name="sagaz 1.5.0",
                call=Call(module="baselines.sagaz_150", n=10_000, small=500),
                goal=at_least(40),
            ),
        ),
    ),
    Comparison(
        name="dispatch, all kept",
        unit="events/s",
        ours=Call(module="ours_dispatch", n=100_000, small=2_000, options=ALL_KEPT),
        against=(
            Against(
                name="hand-written loop",
                call=Call(module="baselines.hand_loop", n=100_000, small=2_000, options=ALL_KEPT),
                goal=at_least(0.5),
            ),
        ),
    ),
    Comparison(
        name="the core by itself: a filter with claims",
        unit="us/event",
        ours=Call(module="ours_core", n=1_000_000, small=2_000),
        against=(
            Against(
                name="a filter and a dict by hand",
                call=Call(module="baselines.claims_loop", n=1_000_000, small=2_000),
                goal=within(4.0),
            ),
        ),
    ),
    Comparison(
        name="the core by itself: every gate",
        unit="us/event",
        ours=Call(module="ours_core", n=1_000_000, small=2_000, options={"every_gate": True}),
        against=(
            Against(
                name="a filter and a dict by hand",
                call=Call(module="baselines.claims_loop", n=1_000_000, small=2_000),
                goal=within(1000 / 120),
            ),
        ),
    ),
    Comparison(
        name="copies of a payload of 20 rows",
        unit="copies/s",
        ours=Call(module="ours_copies", n=20_000, small=200),
        against=(
            Against(
                name="copy.deepcopy",
                call=Call(module="ours_copies", n=20_000, small=200, options={"how": "deepcopy"}),
                goal=at_least(3),
            ),
        ),
    ),
    Comparison(
        name="dispatch through every gate, 10 % kept",
        unit="events/s",
        ours=Call(module="ours_gates", n=100_000, small=2_000),
        against=(
            Against(name="through none", call=Call(module="ours_dispatch", n=100_000, small=2_000), goal=at_least(0.5)),
        ),
    ),
    Comparison(
        name="wait of a quiet key beside a hot one, p99",
        unit="ms",
        ours=Call(module="ours_hot_key", n=2_000, small=200, options={"hot": True}),
        against=(
            Against(
                name="without the hot one",
                call=Call(module="ours_hot_key", n=2_000, small=200, options={"hot": False}),
                goal=Goal(bound="at most", ratio=1.5),
            ),
        ),
    ),
    Comparison(
        name="memory with 1,000,000 live concurrency keys",
        unit="MB",
        ours=Call(module="ours_keys", n=1_000_000, small=2_000, options={"keys": True}, needs=("path",)),
        rounds=1,
        against=(
            Against(
                name="with one",
                call=Call(module="ours_keys", n=1_000_000, small=2_000, options={"keys": False}, needs=("path",)),
                goal=Goal(bound="at most", ratio=1.0, plus=600.0),
            ),
        ),
    ),
    *(
        Comparison(
            name=f"{what} 100 of 1,000,000 dead letters",
            unit="ms",
            ours=Call(module="ours_letters", n=1_000_000, small=2_000, options={"what": what}, needs=("path",)),
            rounds=1,
            against=(
                Against(
                    name="of 1,000",
                    call=Call(module="ours_letters", n=1_000, small=1_000, options={"what": what}, needs=("path",)),
                    goal=Goal(bound="at most", ratio=0.0, plus=100.0),
                ),
            ),
        )
        for what in ("list", "redrive")
    ),
    Comparison(
        name="durable, 100 runs at a time",
        unit="sagas/s",
        ours=Call(module="ours_durable", n=20_000, small=500, needs=("path",)),
        against=(
            Against(
                name="sqlite3 group commit",
                call=Call(module="baselines.raw_sqlite", n=20_000, small=500, needs=("path",)),
                goal=at_least(0.5),
            ),
            Against(
                name="sqlite3, four records singly",
                call=Call(
                    module="baselines.raw_sqlite",
                    n=20_000,
                    small=500,
                    options={"groups": (1, 1, 1, 1)},
                    needs=("path",),
                ),
                goal=None,
            ),
            Against(
                name="DBOS on SQLite",
                call=Call(module="baselines.dbos_sqlite", n=500, small=100, needs=("path",)),
                goal=at_least(100),
            ),
            Against(
                name="DBOS, one executor thread",
                call=Call(module="baselines.dbos_sqlite", n=500, small=100, options={"threads": 1}, needs=("path",)),
                goal=None,
            ),
        ),
    ),
    Comparison(
        name="durable, debounced events whose ids stay claimed",
        unit="events/s",
        ours=Call(module="ours_debounce", n=20_000, small=500, options={"claimed": True}, needs=("path",)),
        against=(
            Against(
                name="without ids",
                call=Call(module="ours_debounce", n=20_000, small=500, options={"claimed": False}, needs=("path",)),
                goal=at_least(0.7),
            ),
        ),
    ),
    Comparison(
        name="Redis Streams, 10 % kept",
        unit="entries/s",
        ours=Call(module="ours_redis", n=100_000, small=2_000, needs=("url",)),
        against=(
            Against(
                name="redis-py + hiredis loop",
                call=Call(module="baselines.raw_redis", n=100_000, small=2_000, needs=("url",)),
                goal=at_least(0.5),
            ),
        ),
    ),
    Comparison(
        name="memory after 2,000,000 events",
        unit="MB",
        ours=Call(module="ours_memory", n=2_000_000, small=20_000),
        against=(
            Against(
                name="after 200,000 events",
                call=Call(module="ours_memory", n=200_000, small=2_000),
                goal=Goal(bound="at most", ratio=1.0, plus=20.0),
            ),
        ),
    ),
    Comparison(
        name="swap of a saga's revision while events flow, p99",
        unit="ms",
        ours=Call(module="ours_swap", n=200, small=30, options={"flows": True}, needs=("path",)),
        against=(
            Against(
                name="without events",
                call=Call(module="ours_swap", n=200, small=30, options={"flows": False}, needs=("path",)),
                goal=within(5.0),
            ),
        ),
    ),
    Comparison(
        name="longest gap of a source that did not change, in 200 changes",
        unit="ms",
        ours=Call(module="ours_gap", n=200, small=30, options={"swaps": True}, needs=("path",)),
        against=(
            Against(
                name="without swaps",
                call=Call(module="ours_gap", n=200, small=30, options={"swaps": False}, needs=("path",)),
                goal=within(50.0),
            ),
        ),
    ),
    Comparison(
        name="`pass` cell with 10,000 events/s and a dashboard open",
        unit="ms",
        ours=in_kernel(200, 10, what="cell", **LOADED),
        rounds=3,
        against=(
            Against(
                name="idle kernel",
                call=in_kernel(200, 10, what="cell"),
                goal=Goal(bound="at most", ratio=1.5),
            ),
        ),
    ),
    Comparison(
        name="lag of the kernel's loop, p99, same load",
        unit="ms",
        ours=in_kernel(100, 5, what="loop", **LOADED),
        rounds=3,
        against=(Against(name="idle kernel", call=in_kernel(100, 5, what="loop"), goal=within(5.0)),),
    ),
    Comparison(
        name="processor time with a dashboard open, 20 events/s",
        unit="% of a core",
        ours=in_kernel(200, 5, what="processor", per_s=20, view=True),
        rounds=3,
        against=(
            Against(
                name="none open",
                call=in_kernel(200, 5, what="processor", per_s=20),
                goal=Goal(bound="at most", ratio=1.0, plus=3.0),
            ),
        ),
    ),
    Comparison(
        name="import sagaz_lab",
        unit="ms",
        ours=Call(module="import_time", n=5, small=2, options={"modules": "sagaz_lab"}),
        against=(
            Against(
                name="import asyncio, sqlite3, dataclasses",
                call=Call(module="import_time", n=5, small=2, options={"modules": "asyncio, sqlite3, dataclasses"}),
                goal=Goal(bound="at most", ratio=2.0),
            ),
        ),
    ),
    Comparison(
        # What the first `from sagaz_lab import Lab, Saga` costs, since the package loads its names on demand.
        name="import sagaz_lab.current",
        unit="ms",
        ours=Call(module="import_time", n=5, small=2, options={"modules": "sagaz_lab.current"}),
        against=(
            Against(
                name="import asyncio, sqlite3, dataclasses",
                call=Call(module="import_time", n=5, small=2, options={"modules": "asyncio, sqlite3, dataclasses"}),
                goal=None,
            ),
        ),
    ),
)

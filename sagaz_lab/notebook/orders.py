"""Executes the commands of a dashboard's buttons and sliders: each is a call of the Lab."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from sagaz_lab.errors import UnknownName, describe
from sagaz_lab.hosting.views import open_letters
from sagaz_lab.lab import Lab
from sagaz_lab.model.run import RunStatus
from sagaz_lab.notebook.outputs import log_of

LOG_LINES = 200
BEGUN_S = 2.0
"""After this time a command on a run is answered with `running`."""

_under_way: set[asyncio.Task[RunStatus]] = set()

Order = Mapping[str, Any]
Result = Mapping[str, Any] | None


async def execute(lab: Lab, order: Order) -> Result:
    """Execute it; returns the reply. Raises the Lab's errors, and `UnknownName` for an unknown command."""
    name = str(order.get("cmd"))
    if name not in _ORDERS:
        raise UnknownName("dashboard", "order", name, _ORDERS)
    return await _ORDERS[name](lab, order)


async def _start(lab: Lab, order: Order) -> Result:
    await lab.start(isolated=lab.isolated.loop is not None)
    return None


async def _stop(lab: Lab, order: Order) -> Result:
    await lab.stop()
    return None


async def _pause(lab: Lab, order: Order) -> Result:
    lab.pause(order["trigger"])
    return None


async def _resume(lab: Lab, order: Order) -> Result:
    lab.resume(order["trigger"])
    return None


async def _set_params(lab: Lab, order: Order) -> Result:
    await lab.set_params(order["trigger"], **order["values"])
    return None


async def _set_limits(lab: Lab, order: Order) -> Result:
    await lab.set_limits(order["trigger"], **order["values"])
    return None


async def _redrive(lab: Lab, order: Order) -> Result:
    return {"count": len(await lab.redrive(await _letters(lab, order["cause"])))}


async def _discard(lab: Lab, order: Order) -> Result:
    return {"count": await lab.discard(await _letters(lab, order["cause"]), order["reason"])}


async def _letters(lab: Lab, cause: str) -> list[str]:
    """There may be a million: read in a worker thread if the store allows it."""
    if lab.store.traits.any_thread:
        return await asyncio.to_thread(open_letters, lab.store, cause)
    return open_letters(lab.store, cause)


async def _rollback(lab: Lab, order: Order) -> Result:
    lab.rollback(order["saga"], int(order["number"]))
    return None


async def _diff(lab: Lab, order: Order) -> Result:
    return {"lines": list(lab.diff(order["saga"], int(order["old"]), int(order["new"])).lines)}


async def _resume_run(lab: Lab, order: Order) -> Result:
    return await _begun(lab, lab.resume_run(order["run_id"], foreground=False))


async def _compensate_run(lab: Lab, order: Order) -> Result:
    return await _begun(lab, lab.compensate_run(order["run_id"], foreground=False))


async def _begun(lab: Lab, work: Coroutine[Any, Any, RunStatus]) -> Result:
    """The run's final status, or `running` if it takes longer; a later error is reported."""
    task = asyncio.ensure_future(work)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    done, _ = await asyncio.wait([task], timeout=BEGUN_S)
    if done:
        return {"status": str(task.result())}
    task.add_done_callback(partial(_tell_error, lab))
    return {"status": str(RunStatus.RUNNING)}


def _tell_error(lab: Lab, task: asyncio.Task[RunStatus]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        lab.report("dashboard", describe(error))


async def _log(lab: Lab, order: Order) -> Result:
    lines = log_of(lab, order["run_id"])[-LOG_LINES:]
    return {"lines": [(line.at, line.level, *line) for line in lines]}


_ORDERS: Mapping[str, Callable[[Lab, Order], Awaitable[Result]]] = {
    "start": _start, "stop": _stop, "pause": _pause, "resume": _resume, "set_params": _set_params,
    "set_limits": _set_limits, "redrive": _redrive, "discard": _discard, "rollback": _rollback, "diff": _diff,
    "resume_run": _resume_run, "compensate_run": _compensate_run, "log": _log,
}  # fmt: skip

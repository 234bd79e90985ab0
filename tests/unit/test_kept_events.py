"""Kept events stay as long as the config of their trigger says."""

from pathlib import Path

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, trigger
from tests.unit.tools import until


def saga(name: str, config: TriggerConfig | None) -> type[Saga]:
    class Kept(Saga):
        saga_name = name

        @trigger(source="memory", topic=name, config=config)
        def on(self, event):
            return None

        @action("work")
        async def work(self, ctx): ...

    return Kept


SOON, LONG = (TriggerConfig(persist_events=True, event_retention_days=days) for days in (1e-9, 30.0))


@pytest.mark.parametrize(("of_lab", "left"), [(LONG, {"long", "lab"}), (SOON, {"long"})])
async def test_each_trigger_has_its_own_retention(tmp_path: Path, of_lab: TriggerConfig, left: set[str]) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db", config=of_lab) as lab:
        for name, config in (("soon", SOON), ("long", LONG), ("lab", None)):
            saga(name, config)
            await lab.fire(f"{name}.on", {}, id=name)
        await lab.store.heartbeat()
        await until(lambda: len(lab.events()) == len(left))
        assert set(lab.events()["event_id"]) == left

"""Sagas as their users write them, from each kind of source to each kind of configuration."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import sagaz_lab
from sagaz_lab import Lab, Saga, SagaListener, TriggerConfig, action, compensate, trigger
from sagaz_lab.errors import UnknownName
from sagaz_lab.testing import TriggerTestHarness
from tests.unit.tools import Taps, until

logger = logging.getLogger(__name__)


@pytest.fixture(autouse=True)
def current() -> Iterator[Lab]:
    with Lab("memory", offline=True).activate() as lab:
        yield lab


@dataclass
class DriftEvent:
    model_id: str
    score: float


class InvalidEventError(Exception): ...


# --- 1. the decorator ---


def retraining() -> type[Saga]:
    class ModelRetrainingSaga(Saga):
        saga_name = "model-retraining"

        @trigger(source="kafka", topic="model.drift")
        def on_drift_detected(self, event: DriftEvent):
            # Transform event -> context
            if event.score > 0.5:
                return {"model_id": event.model_id, "reason": "drift"}
            return None  # Skip execution

        @trigger(source="cron", schedule="@daily")
        def on_daily_schedule(self, tick):
            return {"model_id": "all", "reason": "scheduled"}

        @action("train_model")
        async def train(self, ctx): ...

    return ModelRetrainingSaga


async def test_a_method_turns_an_event_into_a_context_or_skips_it(current: Lab) -> None:
    retraining()
    drift = "model-retraining.on_drift_detected"
    (started,) = await current.fire(drift, {"model_id": "m", "score": 0.8})
    (filtered,) = await current.fire(drift, {"model_id": "m", "score": 0.3})
    (scheduled,) = await current.fire("model-retraining.on_daily_schedule")
    assert [started.kind, filtered.kind, scheduled.kind] == ["started", "filtered", "started"]
    await current.drain()
    assert list(current.runs()["status"]) == ["completed", "completed"]
    await current.stop()


# --- 2. discovery ---


def test_defining_or_importing_a_class_is_enough(current: Lab, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "my_sagas.py").write_text(
        "from sagaz_lab import Saga, trigger\n"
        "class Imported(Saga):\n"
        "    @trigger(source='kafka', topic='t')\n"
        "    def on_event(self, event): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    __import__("my_sagas")
    retraining()
    assert list(current.sagas) == ["Imported", "model-retraining"]


# --- 4. the sources ---


def all_sources() -> type[Saga]:
    class EverySource(Saga):
        @trigger(source="kafka", topic="model.drift", group_id="retraining-service")
        def on_drift_kafka(self, event):
            return {"model_id": event["model_id"], "source": "kafka"}

        @trigger(source="rabbitmq", queue="ml.retraining", exchange="model-events", routing_key="drift.*")
        def on_drift_rabbit(self, event):
            return {"model_id": event["model_id"], "source": "rabbitmq"}

        @trigger(source="redis", stream="model:events", consumer_group="retraining-workers")
        def on_drift_redis(self, event):
            return {"model_id": event["model_id"], "source": "redis"}

        @trigger(source="cron", schedule="0 */6 * * *")  # Every 6 hours
        def on_schedule(self, tick):
            return {"batch_mode": True, "triggered_at": tick.timestamp}

        @trigger(source="cron", schedule="@daily")
        def on_daily(self, tick):
            return {"task": "daily_cleanup"}

        @trigger(
            source="webhook",
            path="/webhooks/deploy/{model_id}",
            method="POST",
            auth="bearer",  # Validates Authorization header
        )
        def on_deploy_webhook(self, request):
            return {"model_id": request.path_params["model_id"], "payload": request.json()}

        @trigger(
            source="file",
            path="/data/uploads/",
            pattern="*.csv",
            event_type="created",  # or "modified", "deleted"
        )
        def on_file_upload(self, file_event):
            return {"file_path": file_event.path, "size": file_event.size}

        @trigger(source="sqs", queue_url="https://sqs.us-east-1.amazonaws.com/123456/events", visibility_timeout=300)
        def on_sqs_message(self, event):
            return {"message_id": event["MessageId"]}

    return EverySource


class Request:
    """What a webhook's payload offers."""

    def __init__(self, model_id: str) -> None:
        self.path_params = {"model_id": model_id}

    def json(self) -> Any:
        return {"version": 2}


@pytest.mark.parametrize(
    ("method", "payload", "context"),
    [
        ("on_drift_kafka", {"model_id": "m"}, {"model_id": "m", "source": "kafka"}),
        ("on_drift_rabbit", b'{"model_id": "m"}', {"model_id": "m", "source": "rabbitmq"}),
        ("on_drift_redis", {"model_id": "m"}, {"model_id": "m", "source": "redis"}),
        ("on_daily", None, {"task": "daily_cleanup"}),
        ("on_deploy_webhook", Request("m"), {"model_id": "m", "payload": {"version": 2}}),
        ("on_file_upload", {"path": "/data/uploads/a.csv", "size": 7}, {"file_path": "/data/uploads/a.csv", "size": 7}),
        ("on_sqs_message", {"MessageId": "i-1", "Body": "{}"}, {"message_id": "i-1"}),
    ],
)
async def test_each_kind_of_event_reads_as_in_the_examples(method: str, payload: Any, context: Any) -> None:
    harness = TriggerTestHarness(all_sources()())
    assert await harness.trigger(method, payload) == context


async def test_a_cron_tick_has_its_time(current: Lab) -> None:
    all_sources()
    preview = await current.preview("EverySource.on_schedule", None)
    assert preview.context is not None
    assert preview.context["batch_mode"] is True
    assert preview.context["triggered_at"].tzname() == "UTC"
    await current.stop()


# --- 5. errors ---


async def test_a_trigger_that_raises_sends_its_event_to_the_dead_letters(current: Lab) -> None:
    class Checking(Saga):
        @trigger(source="rabbitmq", queue="events")  # or kafka, redis, etc.
        def on_event(self, event):
            if not event.is_valid():
                raise InvalidEventError  # Event goes to DLQ, saga doesn't start
            return {"data": event.payload}

    class Payload:
        def is_valid(self) -> bool:
            return False

    (outcome,) = await current.fire("Checking.on_event", Payload())
    assert outcome.reason == "InvalidEventError"
    assert len(current.dead_letters()) == 1
    assert len(current.runs()) == 0
    await current.stop()


def test_a_config_is_written_as_in_the_example() -> None:
    config = TriggerConfig(dead_letter_topic="failed-triggers", max_retries=3, retry_backoff_seconds=[10, 60, 300])
    assert [config.retry_delay_s(attempt) for attempt in (1, 2, 3, 4)] == [10, 60, 300, 300]
    TriggerConfig(persist_events=True, event_retention_days=30)
    TriggerConfig(backpressure_strategy="drop_oldest", queue_size=1000)


# --- 6. idempotency ---


async def test_an_event_with_the_same_message_id_is_taken_once(current: Lab) -> None:
    class Orders(Saga):
        @trigger(source="kafka", topic="orders", idempotency_key=lambda e: e.message_id)
        # Also works with RabbitMQ, Redis, SQS, etc.
        def on_order(self, event):
            # Automatically deduplicated via inbox
            return {"order_id": event.order_id}

    for kind in ("started", "duplicate"):
        (outcome,) = await current.fire("Orders.on_order", {"message_id": "m1", "order_id": 7})
        assert outcome.kind == kind
    await current.stop()


# --- 7. listeners and the outbox ---


async def test_trigger_events_are_observable(current: Lab, caplog: Any) -> None:
    class TriggerListener(SagaListener):
        async def on_trigger_received(self, saga_name, event_source, event):
            logger.info(f"Saga {saga_name} triggered by {event_source}")  # noqa: G004

        async def on_trigger_filtered(self, saga_name, event, reason):
            logger.debug(f"Event filtered: {reason}")  # noqa: G004

    class Watched(Saga):
        listeners = [TriggerListener()]

        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return None

    caplog.set_level(logging.DEBUG, logger=__name__)
    await current.fire("Watched.on_event", {})
    assert "Saga Watched triggered by memory t" in caplog.text
    assert "Event filtered: returned None" in caplog.text
    await current.stop()


def test_the_outbox_listener_is_offered() -> None:
    assert issubclass(sagaz_lab.OutboxSagaListener, SagaListener)


# --- 3. streaming ---


async def test_a_generator_streams(current: Lab) -> None:
    def transform(record: int) -> int:
        return record * 10

    class Streaming(Saga):
        @action("process_stream")
        async def process(self, ctx):
            async for record in ctx.stream("input"):
                yield transform(record)

        @action("collect", depends_on=["process_stream"])
        async def collect(self, ctx):
            return [record async for record in ctx.stream("process_stream")]

    ctx = await Streaming().run({"input": [1, 2, 3]})
    assert ctx["collect"] == [10, 20, 30]
    await current.stop()


# --- concurrency and backpressure ---


def test_concurrency_is_written_as_in_the_examples(current: Lab) -> None:
    class Limited(Saga):
        @trigger(
            source="rabbitmq",  # Works with any broker: kafka, redis, rabbitmq, sqs
            queue="events",
            max_concurrent_sagas=100,  # Max 100 sagas executing simultaneously
            rate_limit_per_second=10,  # Start at most 10 sagas/second
        )
        def on_event(self, event): ...

        @trigger(
            source="redis",  # Semantic concurrency works with all brokers
            stream="orders",
            concurrency_key=lambda event: event.user_id,  # One saga per user at a time
        )
        def on_order(self, event):
            return {"order_id": event.order_id, "user_id": event.user_id}

    assert len(current.sagas["Limited"].triggers) == 2


# --- testing ---


async def test_drift_trigger() -> None:
    saga = retraining()()
    harness = TriggerTestHarness(saga)

    # Simulate event
    event = DriftEvent(model_id="model-123", score=0.8)
    context = await harness.trigger("on_drift_detected", event)

    assert context["model_id"] == "model-123"
    assert context["reason"] == "drift"


async def test_trigger_filtering() -> None:
    saga = retraining()()
    harness = TriggerTestHarness(saga)

    # Low score - should be filtered
    event = DriftEvent(model_id="model-123", score=0.3)
    context = await harness.trigger("on_drift_detected", event)

    assert context is None  # Filtered out


async def test_the_harness_runs_the_whole_saga(current: Lab) -> None:
    undone = []

    class Training(Saga):
        @trigger(source="kafka", topic="t")
        def on_drift(self, event: DriftEvent):
            return {"model_id": event.model_id} if event.score > 0.5 else None

        @action("load")
        async def load(self, ctx):
            return {"rows": 100, "of": ctx.event.payload["model_id"]}

        @compensate("load")
        async def unload(self, ctx):
            undone.append(ctx["model_id"])

        @action("train", depends_on="load")
        def train(self, ctx):
            if ctx["model_id"] == "bad":
                raise ValueError("no convergence")
            return f"{ctx['model_id']} on {ctx['rows']} rows"

    harness = TriggerTestHarness(Training())
    ctx = await harness.run("on_drift", {"model_id": "m", "score": 0.9})
    assert (ctx["train"], ctx["of"]) == ("m on 100 rows", "m")
    assert await harness.run("on_drift", {"model_id": "m", "score": 0.1}) is None
    with pytest.raises(ValueError, match="no convergence"):
        await harness.run("on_drift", {"model_id": "bad", "score": 0.9})
    assert undone == ["bad"]
    with pytest.raises(UnknownName, match="did you mean 'on_drift'"):
        await harness.run("on_drif", {})
    assert not current.is_open
    assert len(current.runs()) == 0


# --- the whole ---


async def test_one_saga_from_many_brokers(current: Lab, caplog: Any) -> None:
    class OrderSaga(Saga):
        saga_name = "order-processing"

        # Triggered from Kafka
        @trigger(source="kafka", topic="orders.created", group_id="order-service")
        def from_kafka(self, msg):
            return {"order_id": msg["id"], "source": "kafka"}

        # Triggered from RabbitMQ
        @trigger(source="rabbitmq", queue="orders", exchange="ecommerce")
        def from_rabbitmq(self, msg):
            return {"order_id": msg["order_id"], "source": "rabbitmq"}

        # Triggered from HTTP webhook
        @trigger(source="webhook", path="/api/orders", method="POST")
        def from_webhook(self, request):
            return {"order_id": request.json()["id"], "source": "webhook"}

        # Triggered on schedule (batch processing)
        @trigger(source="cron", schedule="@hourly")
        def from_schedule(self, tick):
            return {"batch_mode": True, "source": "cron"}

        @action("process")
        async def process(self, ctx):
            # Business logic here
            order_id = ctx.get("order_id")
            source = ctx.get("source")
            logger.info(f"Processing order {order_id} from {source}")  # noqa: G004

    class Posted:
        def json(self) -> Any:
            return {"id": 3}

    caplog.set_level(logging.INFO, logger=__name__)
    await current.fire("order-processing.from_kafka", {"id": 1})
    await current.fire("order-processing.from_rabbitmq", {"order_id": 2})
    await current.fire("order-processing.from_webhook", Posted())
    await current.fire("order-processing.from_schedule")
    await current.drain()
    for line in ("1 from kafka", "2 from rabbitmq", "3 from webhook", "None from cron"):
        assert f"Processing order {line}" in caplog.text
    await current.stop()


async def test_start_triggers_starts_all_listeners() -> None:
    taps = Taps()
    with Lab("memory", sources={"memory": taps}).activate() as lab:

        class Listening(Saga):
            @trigger(source="memory", topic="t")
            def on_event(self, event):
                return {}

        handle = await sagaz_lab.start_triggers()
        taps["t"].put_nowait({})
        await until(lambda: lab.counters()["Listening.on_event"]["started"] == 1)
        await handle.stop()
    assert taps["t"].left == 1

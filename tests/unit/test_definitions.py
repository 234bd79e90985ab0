"""What is wrong with a saga is said where it is written, with the culprit's name and the nearest right one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagaz_lab import (
    Batch,
    Debounce,
    Event,
    Lab,
    Saga,
    SagaListener,
    Throttle,
    TriggerConfig,
    absent,
    action,
    all_of,
    any_of,
    compensate,
    forward_recovery,
    sequence,
    skip,
    trigger,
)
from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.policy import seconds


@pytest.fixture(autouse=True)
def lab() -> Iterator[Lab]:
    with Lab("memory").activate() as lab:
        yield lab


def says(text: str) -> Any:
    return pytest.raises(DefinitionError, match=re.escape(text))


def on_event(self: Any, event: Any) -> None: ...


def defined(**options: Any) -> None:
    """Use the trigger decorator on a fresh method."""

    def on_event(self: Any, event: Any) -> None: ...

    trigger(**options)(on_event)


# --- sources ---

SEED_SOURCES: dict[str, dict[str, Any]] = {
    "kafka": {"topic": "model.drift", "group_id": "retraining-service"},
    "rabbitmq": {"queue": "ml.retraining", "exchange": "model-events", "routing_key": "drift.*"},
    "redis": {"stream": "model:events", "consumer_group": "retraining-workers"},
    "pulsar": {"topic": "persistent"},
    "cron": {"schedule": "0 */6 * * *"},
    "webhook": {"path": "/webhooks/deploy/{model_id}", "method": "POST", "auth": "bearer"},
    "file": {"path": "/data/uploads/", "pattern": "*.csv", "event_type": "created"},
    "sqs": {"queue_url": "https://sqs.us-east-1.amazonaws.com/123456/events", "visibility_timeout": 300},
    "custom": {"factory": lambda: None},
}


@pytest.mark.parametrize("kind", SEED_SOURCES)
def test_every_source_of_the_seed_can_be_defined(kind: str, lab: Lab) -> None:
    class Listening(Saga):
        @trigger(source=kind, **SEED_SOURCES[kind])
        def on_event(self, event): ...

    (one,) = lab.sagas["Listening"].triggers.values()
    assert one.name == "Listening.on_event"
    assert one.spec.kind == kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "kafak", "topic": "t"}, "no source 'kafak'; did you mean 'kafka'?"),
        ({"source": "kafka", "topik": "t"}, "no kafka option 'topik'; did you mean 'topic'?"),
        ({"source": "redis", "steam": "s"}, "no redis option 'steam'; did you mean 'stream'?"),
        (
            {"source": "memory", "idempotency_keys": "id"},
            "no memory option 'idempotency_keys'; did you mean 'idempotency_key'?",
        ),
        ({"source": "memory", "confg": None}, "no memory option 'confg'; did you mean 'config'?"),
        ({"source": "kafka"}, "source='kafka' needs topic="),
        ({"source": "rabbitmq", "exchange": "e"}, "source='rabbitmq' needs queue="),
        ({"source": "custom"}, "source='custom' needs factory="),
        ({"source": "kafka", "topic": "a topic"}, "topic='a topic' must be a name of up to 249 letters"),
        ({"source": "kafka", "topic": ""}, "topic='' must be"),
        ({"source": "webhook", "path": "hook"}, "path='hook' must be a path that starts with '/'"),
        ({"source": "webhook", "path": "/h", "method": "SEND"}, "method='SEND' must be one of: GET, POST"),
        ({"source": "sqs", "queue_url": "my-queue"}, "queue_url='my-queue' must be an http(s) address"),
        ({"source": "file", "path": "/d", "event_type": "renamed"}, "event_type='renamed' must be one of: created"),
        ({"source": "redis", "stream": "s", "start_from": "now"}, "start_from='now' must be one of: earliest, latest"),
        ({"source": "recording"}, "source='recording' needs either path= or data="),
        ({"source": 5}, "source=5 is neither a kind of source nor a Source"),
        ({"source": object(), "topic": "t"}, "is neither a kind of source nor a Source"),
        ({"source": "memory", "decode": "xml"}, "decode='xml' must be a function or one of: json, text, bytes"),
        ({"source": "memory", "config": {"max_retries": 1}}, "config={'max_retries': 1} must be a TriggerConfig"),
    ],
)
def test_a_wrong_source_is_named_with_the_nearest(options: dict[str, Any], message: str) -> None:
    with says(message):
        defined(**options)


def test_an_error_names_the_method() -> None:
    with says("@trigger on on_event: no source"):
        trigger(source="kafak")(on_event)


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "every day",
        "* * * *",
        "61 * * * *",
        "0 0 31 2 *",
        "R * * * *",
        "@reboot",
        "@dayly",
        "* * * * * * *",
        5,
        None,
    ],
)
def test_a_schedule_that_never_comes_is_refused(schedule: Any) -> None:
    with says("schedule="):
        defined(source="cron", schedule=schedule)


@pytest.mark.parametrize("schedule", ["@daily", "@hourly", "*/5 * * * *", "0 0 29 2 *", "30 0 12 * * 1-5"])
def test_a_schedule_that_comes_is_taken(schedule: str) -> None:
    defined(source="cron", schedule=schedule, timezone="Europe/Berlin")


def test_a_time_zone_that_is_none_is_refused() -> None:
    with says("timezone='Europe/Berln' must be an IANA time zone"):
        defined(source="cron", schedule="@daily", timezone="Europe/Berln")


def test_the_password_of_an_address_is_not_shown() -> None:
    with says("url='http://user:***@host' must be an address such as redis://") as raised:
        defined(source="redis", stream="s", url="http://user:secret@host")
    assert "secret" not in str(raised.value)


# --- gates ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_concurrent_sagas": 0}, "max_concurrent_sagas=0 must be a whole number"),
        ({"max_concurrent_sagas": True}, "max_concurrent_sagas=True must be a whole number"),
        ({"rate_limit_per_second": 0}, "rate_limit_per_second=0 must be a number greater than 0"),
        ({"rate_limit_per_second": "10"}, "rate_limit_per_second='10' must be a number greater than 0"),
        ({"idempotency_key": ""}, "idempotency_key='' must be the name of a field or a function"),
        ({"concurrency_key": 5}, "concurrency_key=5 must be the name of a field or a function"),
        ({"cooldown": "6 hours"}, "cooldown='6 hours' is not a duration"),
        ({"cooldown": -1}, "cooldown=-1 must be positive"),
        ({"idempotency_key": "id", "idempotency_ttl": 0}, "idempotency_ttl=0 must be positive"),
        ({"singleton": "wait"}, "singleton='wait'; one of: skip, cancel, return_existing, error"),
        ({"until": "end"}, "until='end'; the only value is 'terminal'"),
        ({"throttle": 5}, "throttle=5 must be a Throttle"),
        ({"debounce": "1s"}, "debounce='1s' must be a Debounce"),
        ({"batch": 10}, "batch=10 must be a Batch"),
        ({"priority": "high"}, "priority='high' must be a int"),
        ({"within": "1h"}, "within= goes with all_of or sequence only"),
        ({"idempotency_ttl": "1h"}, "idempotency_ttl= and until= need idempotency_key="),
        (
            {"rate_limit_per_second": 1, "throttle": Throttle(1, "1s")},
            "rate_limit_per_second= and throttle= contradict each other",
        ),
        ({"debounce": Debounce(1, 2), "batch": Batch(2, 1)}, "debounce= and batch= contradict each other"),
        (
            {"idempotency_key": "id", "idempotency_ttl": "1h", "until": "terminal"},
            "idempotency_ttl= and until= contradict each other",
        ),
    ],
)
def test_a_malformed_or_contradicting_gate_is_named(options: dict[str, Any], message: str) -> None:
    with says(message):
        defined(source="memory", **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Throttle(0, "1s"), "limit must be 1 or more"),
        (lambda: Throttle("3", "1s"), "Throttle"),
        (lambda: Throttle(1, "soon"), "Throttle per='soon' is not a duration"),
        (lambda: Debounce("1m", "30s"), "max_wait='30s' must be longer than period='1m'"),
        (lambda: Debounce("1s", "2s", mode="last"), "Debounce mode='last'; one of: trailing, leading, all"),
        (lambda: Batch(0, "1s"), "Batch max_size=0 must be 1 or more"),
        (lambda: Batch("9", "1s"), "Batch max_size='9' must be 1 or more"),
        (lambda: Batch(5, 0), "Batch timeout=0 must be positive"),
        (lambda: TriggerConfig(max_retries=-1), "max_retries=-1 must be a whole number"),
        (lambda: TriggerConfig(retry_backoff_seconds=[10, -1]), "retry_backoff_seconds=[10, -1] must be a list"),
        (lambda: TriggerConfig(retry_backoff_seconds=[]), "retry_backoff_seconds=[] must be a list"),
        (lambda: TriggerConfig(retry_backoff_seconds="10"), "retry_backoff_seconds='10' must be a list"),
        (lambda: TriggerConfig(backpressure_strategy="wait"), "backpressure_strategy='wait'; one of: block"),
        (lambda: TriggerConfig(queue_size=0), "queue_size=0 must be a whole number, 1 or more"),
        (lambda: TriggerConfig(event_retention_days=0), "event_retention_days=0 must be greater than 0"),
        (lambda: TriggerConfig(event_retention_days="30"), "event_retention_days='30' must be greater than 0"),
        (lambda: TriggerConfig(persist_events="no"), "persist_events='no' must be True or False"),
    ],
)
def test_a_malformed_policy_is_named(make: Any, message: str) -> None:
    with says(message):
        make()


@pytest.mark.parametrize(
    ("written", "length_s"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90s", 90),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1.5 d", 129600),
        (timedelta(hours=6), 21600),
    ],
)
def test_durations_can_be_written_in_many_ways(written: Any, length_s: float) -> None:
    assert seconds(written, "cooldown") == length_s


@pytest.mark.parametrize("written", ["", "1", "1x", "h", "1h ago", True, None, float("nan"), float("inf"), [1]])
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with says("cooldown="):
        seconds(written, "cooldown")


def test_composites_can_be_defined(lab: Lab) -> None:
    features, labels = {"source": "kafka", "topic": "features"}, {"source": "redis", "stream": "labels"}

    class Joined(Saga):
        @trigger(source=all_of(features, labels), within="1h")
        def on_both(self, events): ...

        @trigger(source=any_of(features, labels))
        def on_either(self, event): ...

        @trigger(source=sequence(features, labels), within="1h")
        def on_one_then_the_other(self, events): ...

        @trigger(source=absent(labels, after=features, within="1h"))
        def on_missing_labels(self, event): ...

    composites = [one.composite for one in lab.sagas["Joined"].triggers.values()]
    assert [one.how for one in composites if one] == ["all_of", "any_of", "sequence", "absent"]


def test_a_composite_names_its_wrong_part() -> None:
    with says("all_of: no kafka option 'topik'; did you mean 'topic'?"):
        all_of({"source": "kafka", "topik": "a"}, {"source": "memory"})
    with says("any_of() takes two sources or more"):
        any_of({"source": "memory"})


def test_two_triggers_on_one_method_are_refused() -> None:
    with says("a method is one trigger"):

        class Twice(Saga):
            @trigger(source="memory", topic="a")
            @trigger(source="memory", topic="b")
            def on_event(self, event): ...


# --- trigger methods ---


@dataclass
class Drift:
    model_id: str


def test_the_annotations_of_a_trigger_method_are_read(lab: Lab) -> None:
    class Annotated(Saga):
        @trigger(source="memory")
        def typed(self, event: Drift): ...

        @trigger(source="memory")
        def quoted(self, event: "Drift"): ...

        @trigger(source="memory")
        def plain(self, event: Event): ...

        @trigger(source="memory")
        async def both(self, payload: Drift, event: Event): ...

    triggers = lab.sagas["Annotated"].triggers
    assert triggers["typed"].payload_type is Drift
    assert triggers["quoted"].payload_type is Drift
    assert triggers["plain"].payload_type is None
    assert triggers["both"].wants_event
    assert triggers["both"].is_async


def test_an_annotation_that_is_not_defined_is_named() -> None:
    with says("Unfinished.on_event: the annotation names 'Driftt', which is not defined here"):

        class Unfinished(Saga):
            @trigger(source="memory")
            def on_event(self, event: "Driftt"): ...  # noqa: F821


def wrong_signatures() -> list[Any]:
    def none(self): ...
    def three(self, event, other, third): ...
    def second_is_no_event(self, payload, count: int): ...
    def keyword_only(self, event, *, dry_run): ...

    return [none, three, second_is_no_event, keyword_only]


@pytest.mark.parametrize("method", wrong_signatures(), ids=lambda m: m.__name__)
def test_a_trigger_method_with_a_wrong_signature_is_refused(method: Any) -> None:
    with says(f"Wrong.{method.__name__}: a trigger method takes (self, event) or (self, payload, event: Event)"):
        type("Wrong", (Saga,), {method.__name__: trigger(source="memory")(method)})


def test_roles_belong_on_plain_methods() -> None:
    with says("on_event: a trigger, action or compensation is a plain method"):

        class Static(Saga):
            @staticmethod
            @trigger(source="memory")
            def on_event(event): ...

    with says("train: a trigger, action or compensation is a plain method"):

        class OfClass(Saga):
            @classmethod
            @action("train")
            def train(cls, ctx): ...

    with says("load: a trigger, action or compensation is a plain method"):

        class Computed(Saga):
            @action("load")
            def load(self, ctx): ...

            load = staticmethod(load)


def test_skip_needs_a_reason_in_words() -> None:
    assert repr(skip("score too low", score=0.3)) == "skip('score too low', score=0.3)"
    for reason in ("", None, 5):
        with pytest.raises(TypeError, match="reason"):
            skip(reason)


# --- actions ---


def test_an_unknown_dependency_is_named_with_the_nearest() -> None:
    with says("Typo: action 'deploy' depends_on: no action 'trian'; did you mean 'train'?"):

        class Typo(Saga):
            @action("train")
            def train(self, ctx): ...

            @action("deploy", depends_on=["trian"])
            def deploy(self, ctx): ...


def test_a_circle_is_shown() -> None:
    with says("Circle: the actions depend on each other in a cycle: a -> c -> b -> a"):

        class Circle(Saga):
            @action("a", depends_on="c")
            def a(self, ctx): ...

            @action("b", depends_on="a")
            def b(self, ctx): ...

            @action("c", depends_on="b")
            def c(self, ctx): ...

            @action("d", depends_on="c")
            def d(self, ctx): ...


def test_an_action_that_depends_on_itself_is_a_circle() -> None:
    with says("a -> a"):

        class Selfish(Saga):
            @action("a", depends_on="a")
            def a(self, ctx): ...


def test_two_actions_of_one_name_are_both_named() -> None:
    with says("Double: two methods for action 'train': first() and second()"):

        class Double(Saga):
            @action("train")
            def first(self, ctx): ...

            @action("train")
            def second(self, ctx): ...


def test_two_compensations_for_one_action_are_both_named() -> None:
    with says("Double: two methods for compensation for action 'train': one() and other()"):

        class Double(Saga):
            @action("train")
            def train(self, ctx): ...

            @compensate("train")
            def one(self, ctx): ...

            @compensate("train")
            def other(self, ctx): ...


def test_a_compensation_for_no_action_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName) as raised:

        class Stray(Saga):
            @action("train")
            def train(self, ctx): ...

            @compensate("trian")
            def discard(self, ctx): ...

    assert raised.value.name == "trian"
    assert raised.value.nearest == "train"
    assert "Stray.discard" in str(raised.value)


def test_a_forward_recovery_for_no_action_is_named() -> None:
    with says("Stray.again: no action 'trian'; did you mean 'train'?"):

        class Stray(Saga):
            @action("train", pivot=True)
            def train(self, ctx): ...

            @forward_recovery("trian")
            def again(self, ctx, error): ...


def test_a_method_has_one_role() -> None:
    with says("the method is already an action, a compensation or a recovery"):

        class Mixed(Saga):
            @action("train")
            @compensate("train")
            def train(self, ctx): ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_retries": -1}, "max_retries=-1 must be a whole number"),
        ({"max_retries": 1.5}, "max_retries=1.5 must be a whole number"),
        ({"timeout_s": 0}, "timeout_s=0 must be"),
        ({"timeout_s": "5m"}, "timeout_s='5m' must be"),
        ({"timeout_s": float("nan")}, "timeout_s=nan must be"),
        ({"retry_backoff_s": "1"}, "retry_backoff_s='1' must be a list of seconds"),
        ({"retry_backoff_s": [-1]}, "retry_backoff_s=[-1] must be a list of seconds"),
        ({"codec": "pickle"}, "codec='pickle' must be 'joblib' or have dump(value, path) and load(path)"),
        ({"depends_on": 5}, "depends_on=5 must be"),
        ({"depends_on": [None]}, "depends_on=[None] must be"),
        ({"name": 5}, "name=5 must be a non-empty string"),
    ],
)
def test_a_malformed_action_option_is_named(options: dict[str, Any], message: str) -> None:
    def train(self, ctx): ...

    with says(message) as raised:
        action(**options)(train)
    assert "train" in str(raised.value)


@pytest.mark.parametrize("options", [{"timeout_s": None}, {"timeout_s": "1m"}, {"timeout_s": 0}, {"max_retries": -1}])
def test_a_malformed_compensation_option_is_named(options: dict[str, Any]) -> None:
    def undo(self, ctx): ...

    with says("@compensate('train')"):
        compensate("train", **options)(undo)


def test_decorators_without_parentheses_are_told_so() -> None:
    def train(self, ctx): ...

    with says("write @action(...) with parentheses"):
        action(train)
    with says("write @compensate("):
        compensate(train)
    with says("write @forward_recovery("):
        forward_recovery(train)


def test_the_signatures_of_actions_and_compensations_are_checked() -> None:
    with says("an action takes (self, ctx)"):

        @action("train")
        def no_context(self): ...

    with says("an action takes (self, ctx)"):

        @action("train")
        def too_much(self, ctx, extra): ...

    with says("a compensation takes (self, ctx) or (self, ctx, result)"):

        @compensate("train")
        def nothing(self): ...

    with says("a forward recovery takes (self, ctx, error)"):

        @forward_recovery("train")
        def blind(self, ctx): ...


def test_a_plain_generator_is_no_action() -> None:
    with says("only an action may be a generator, and it must be `async def`"):

        @action("records")
        def records(self, ctx):
            yield 1

    with says("only an action may be a generator, and it must be `async def`"):

        @compensate("records")
        async def undo(self, ctx):
            yield 1


def test_a_stream_cannot_be_retried() -> None:
    with says("max_retries= does not go with a stream"):

        @action("records", max_retries=1)
        async def records(self, ctx):
            yield 1


# --- classes ---


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"saga_name": "a.b"}, "saga_name='a.b' must be a string without '.'"),
        ({"saga_name": "  "}, "saga_name='  ' must be a string"),
        ({"saga_name": 5}, "saga_name=5 must be a string"),
        ({"on_failure": "stop"}, "on_failure='stop' must be 'compensate' or 'hold'"),
        ({"trigger_config": {}}, "trigger_config={} must be a TriggerConfig"),
        ({"listeners": [object]}, "which is not a SagaListener instance"),
        ({"listeners": SagaListener()}, "listeners"),
    ],
)
def test_a_wrong_class_attribute_is_named(attributes: dict[str, Any], message: str, lab: Lab) -> None:
    with says(message):
        type("Wrong", (Saga,), attributes)
    assert not lab.sagas


def test_a_misspelt_hook_is_named_with_the_nearest() -> None:
    with says("no hook 'on_saga_completed'; did you mean 'on_saga_complete'?"):

        class Misspelt(SagaListener):
            def on_saga_completed(self, saga_name, run_id, ctx): ...


def test_a_saga_is_named_after_its_class_unless_it_says_otherwise(lab: Lab) -> None:
    class ModelRetraining(Saga):
        saga_name = "model-retraining"

    class Nightly(ModelRetraining): ...

    assert list(lab.sagas) == ["model-retraining", "Nightly"]


def test_an_abstract_base_is_not_registered_and_gives_its_triggers_to_its_subclasses(lab: Lab) -> None:
    class Base(Saga, abstract=True):
        @trigger(source="memory", topic="t")
        def on_event(self, event): ...

        @action("work")
        def work(self, ctx): ...

    class North(Base): ...

    class South(Base): ...

    assert list(lab.sagas) == ["North", "South"]
    assert [*lab.sagas["North"].triggers] == ["on_event"]
    assert lab.sagas["South"].triggers["on_event"].name == "South.on_event"


def test_a_concrete_bases_triggers_stay_its_own(lab: Lab) -> None:
    class Parent(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event): ...

        @action("work")
        def work(self, ctx): ...

    class Child(Parent):
        @trigger(source="memory", topic="u")
        def on_other(self, event): ...

    assert [*lab.sagas["Child"].triggers] == ["on_other"]
    assert [*lab.sagas["Child"].actions] == ["work"]


def test_an_override_stands_in_its_bases_place(lab: Lab) -> None:
    class Base(Saga, abstract=True):
        @action("load")
        def load(self, ctx): ...

        @action("train", depends_on="load")
        def train(self, ctx): ...

    class Faster(Base):
        @action("load", max_retries=2)
        def load(self, ctx): ...

    assert [*lab.sagas["Faster"].actions] == ["load", "train"]
    assert lab.sagas["Faster"].actions["load"].max_retries == 2


def test_a_class_that_is_wrong_changes_nothing(lab: Lab) -> None:
    class Good(Saga):
        @action("a")
        def a(self, ctx): ...

    before = lab.sagas["Good"]
    with says("no action 'b'"):

        class Good(Saga):
            @action("a", depends_on="b")
            def a(self, ctx): ...

    assert lab.sagas["Good"] is before


async def test_an_abstract_saga_cannot_be_run() -> None:
    class Base(Saga, abstract=True): ...

    with says("Base is abstract: it cannot be run"):
        await Base().run({})

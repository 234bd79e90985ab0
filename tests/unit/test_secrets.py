"""A credential that is written in a saga, an address or an option is neither shown nor stored in plain text."""

import asyncio
import linecache
import logging
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab import Event, Lab, Saga, action, trigger
from sagaz_lab.cli import main
from sagaz_lab.errors import DefinitionError, SagazLabError, SourceUnavailable, UnknownName, describe
from sagaz_lab.model.masked_code import masked_code
from sagaz_lab.stores import open_store
from sagaz_lab.stores.sql.sqlite_driver import connect
from sagaz_lab.texts import logger_of, masked
from tests.unit.tools import until

PASSWORD = "C4n4ryPW"
CELLS = count()

CELL = '''
class Reader(Saga):
    """Reads."""

    saga_name = "reader"

    @trigger({option})
    def on(self, event):
        return {{}}

    @action("work")
    async def work(self, ctx): ...
'''


def run_cell(lab, code):
    """As a notebook does: the code stays readable under the cell's name."""
    name = f"<cell {next(CELLS)}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    names = {"Saga": Saga, "action": action, "trigger": trigger, "PW": PASSWORD}
    with lab.activate(), lab.registry.staging() as staged:
        exec(compile(code, name, "exec"), names)
    return lab.registry.commit(staged)


WAYS = [
    'source="redis", stream="x", url="redis://u:C4n4ryPW@localhost:1/0"',
    'source="redis", stream="x", url="redis://C4n4ryPW@localhost:1"',
    'source="redis", stream="x", url="redis://C4n4ryPW:@localhost:1"',
    'source="redis", stream="x", url="redis://localhost:1/0?password=C4n4ryPW"',
    'source="redis", stream="x", url="redis://u:" + "C4n4ryPW" + "@localhost:1/0"',
    'source="redis", stream="x", url="redis://u:C4n4" "ryPW@localhost:1/0"',
    'source="redis", stream="x", url="redis://u:%s@localhost:1/0" % "C4n4ryPW"',
    'source="redis", stream="x", url="redis://u:C4n4\\x72yPW@localhost:1/0"',
    "source='rabbitmq', queue='q', url=f'amqp://{\"u\"}:C4n4ryPW@h'",
    'source="sqs", queue_url="https://u:C4n4ryPW@sqs.example/q"',
    'source="custom", factory=Saga, settings={"auth": {"pasword": "C4n4ryPW"}}',
    'source="custom", factory=Saga, settings={"servers": ["nats://u:C4n4ryPW@h"]}',
]


@pytest.mark.parametrize("option", WAYS)
async def test_the_code_is_kept_without_it_and_the_card_names_the_cure(tmp_path: Path, option: str) -> None:
    lab = Lab(f"sqlite:///{tmp_path}/lab.db", offline=True)
    [change] = run_cell(lab, CELL.format(option=option))
    run_cell(lab, CELL.format(option=option).replace("Reads.", "Reads on."))
    async with lab:
        await lab.start()
        shown = [
            lab.revisions("reader").to_string(),
            str(lab.diff("reader", 1, 2)),
            repr(lab.sagas),
            repr(lab.status()),
        ]
        shown += [repr(trigger) for trigger in lab.sagas["reader"].triggers.values()]
    assert "os.environ" in "; ".join(change.warnings)
    assert not [text for text in shown if PASSWORD in text]
    assert not [file for file in tmp_path.rglob("lab.db*") if PASSWORD.encode() in file.read_bytes()]


@pytest.mark.parametrize("option", ['url=f"redis://u:{PW}@h"', 'url="redis://h:1/0?db=2"', "url=None"])
def test_a_credential_from_elsewhere_leaves_the_code_as_it_is(option: str) -> None:
    lab = Lab("memory", offline=True)
    code = CELL.format(option=f'source="redis", stream="x", {option}')
    [change] = run_cell(lab, code)
    assert lab.sagas["reader"].source_text == code.lstrip()
    assert not change.warnings


CODE = [
    'PASSWORD: str = "C4n4ryPW"',
    'URL = f"redis://{user}:C4n4ryPW@{host}"',
    'token = os.environ.get("TOKEN", "C4n4ryPW")',
    'client = connect("h", passwrod=b"C4n4ryPW", api_key=SecretStr("C4n4ryPW"))',
    'headers = {"é": 1, "Authorization-Token": "C4n4ryPW"}',
    'if event["token"] != "C4n4ryPW": pass',
    'def login(user, password="C4n4ryPW", *, aws_secret_access_key="C4n4ryPW"): ...',
    'x = 1  # redis://u:C4n4ryPW@h, password="C4n4ryPW"',
    'dsn = """\n  host=h\n  password=C4n4ryPW\n"""',
    'this is no Python: password="C4n4ryPW"',
]


@pytest.mark.parametrize("code", CODE)
def test_code_is_masked_in_its_lines(code: str) -> None:
    for whole in (code, f"class A:\n    {code}", f"    {code}"):
        kept = masked_code(whole)
        assert PASSWORD not in kept
        assert kept.count("\n") == whole.count("\n")


KEEPS = [
    'idempotency_key = "drift_id"', 'max_tokens = "12"', 'tokenizer = "bert"', 'x = password or os.environ["PASSWORD"]',
    'url = f"https://h/{path}?page=2"', 'source = "https://example.org/ab?x=1"',
]  # fmt: skip


@pytest.mark.parametrize("code", KEEPS)
def test_code_without_credentials_stays_as_it_is(code: str) -> None:
    assert masked_code(code) == code


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_password_of_an_address_is_masked(password: str) -> None:
    at = f"redis://user:{quote('C4n4' + password, safe='')}@host/0"
    assert masked(f"no answer from {at}: refused") == "no answer from redis://user:***@host/0: refused"
    assert masked(f"{{'pasword': {'C4n4' + password!r}}}") == "{'pasword': '***'}" or password.count("'")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_password_that_only_the_settings_tell_is_masked_in_code(password: str) -> None:
    secret = "C4n4" + password
    kept = masked_code(f"url = make('redis', {secret!r})", {secret})
    assert "C4n4" not in kept


class Named:
    """A source that is named by its address."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __aenter__(self) -> "Named":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def receive(self, limit: int) -> list:
        await asyncio.sleep(3600)
        return []

    async def settle(self, deliveries: list, outcomes: object) -> None: ...
    async def nack(self, deliveries: object, *, delay_s: float = 0.0) -> None: ...
    async def keep_alive(self, deliveries: object) -> None: ...


class Refusing:
    """A broker's library whose errors tell everything."""

    def __init__(self, password: str, error: type[Exception]) -> None:
        self.name, self.password, self.error = "refusing", password, error

    async def __aenter__(self) -> "Refusing":
        raise self.error(f"login with {self.password!r} refused")

    async def __aexit__(self, *_: object) -> None: ...

    async def receive(self, limit: int) -> list: ...
    async def settle(self, deliveries: list, outcomes: object) -> None: ...
    async def nack(self, deliveries: object, *, delay_s: float = 0.0) -> None: ...
    async def keep_alive(self, deliveries: object) -> None: ...


async def test_a_source_that_is_named_by_its_address_is_kept_without_it(tmp_path: Path) -> None:
    at = f"nats://u:{PASSWORD}@h"
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:

        class Reader(Saga):
            @trigger(source=Named(at))
            def on(self, event):
                return {}

            @action("work")
            async def work(self, ctx): ...

        await lab.start()
        await lab.fire("Reader.on", Event({}, "e", at))
        shown = [lab.events().to_string(), repr(lab.status()), repr(lab.why("e")), repr(lab.sagas["Reader"].triggers)]
    assert "nats://u:***@h" in shown[0]
    assert not [text for text in shown if PASSWORD in text]
    assert not [file for file in tmp_path.rglob("lab.db*") if PASSWORD.encode() in file.read_bytes()]


@pytest.mark.parametrize("error", [SourceUnavailable, SagazLabError, ValueError])
async def test_an_error_of_a_source_tells_it_nowhere(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    def factory(password: str) -> Refusing:
        return Refusing(password, error)

    reports: list[str] = []
    async with Lab("memory") as lab:
        lab.on_report(lambda _, text: reports.append(text))

        class Reader(Saga):
            @trigger(source="custom", factory=factory, settings={"password": PASSWORD})
            def on(self, event): ...
            @action("work")
            async def work(self, ctx): ...

        if error is not SourceUnavailable:
            with pytest.raises(Exception, match=r"refused") as raised:
                await lab.start()
            reports.append(repr(raised.value))
        lab.start(skip_failed=True)
        await until(lambda: lab.status().sources and lab.status().sources[0].error)
        shown = [repr(lab.status().sources), *lab.status().warnings, *reports, caplog.text]
    assert "***" in shown[0]
    assert not [text for text in shown if PASSWORD in text]


def test_our_errors_and_logs_mask_addresses(caplog: pytest.LogCaptureFixture) -> None:
    at = f"nats://u:{PASSWORD}@h"
    assert PASSWORD not in f"{DefinitionError(at)} {UnknownName('a', 'source', at, [])} {describe(ValueError(at))}"
    try:
        raise ValueError(at)
    except ValueError:
        logger_of("sagaz_lab").exception("lost %s", at)
    assert "lost nats://u:***@h" in caplog.text
    assert PASSWORD not in caplog.text


def test_a_hostile_value_in_a_log_call_is_left_to_the_handlers() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    logging.getLogger("sagaz_lab").debug("never shown %s", Broken())


async def test_what_an_action_says_of_one_is_masked_in_all_that_is_kept(tmp_path: Path) -> None:
    at = f"redis://u:{PASSWORD}@h"
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:

        class Failing(Saga):
            @action("work")
            async def work(self, ctx):
                print("connecting to", at)
                ctx.log("with", f"password={PASSWORD}")
                raise ConnectionError(f"no answer from {at}")

        with pytest.raises(ConnectionError):
            await Failing().run({}, run_id="r")
        shown = [lab.runs().to_string(), lab.steps().to_string(), repr(lab.logs()), repr(lab.run("r").steps)]
    assert "no answer from redis://u:***@h" in shown[0]
    assert not [text for text in shown if PASSWORD in text]
    assert not [file for file in tmp_path.rglob("lab.db*") if PASSWORD.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    "line",
    [
        ["runs", "--store", f"postgresql://u:{PASSWORD}@127.0.0.1:1/db"],
        ["runs", "--store", f"other://u:{PASSWORD}@h/db"],
        ["runs", "--store", f"sqlite:///lab.db?pasword={PASSWORD}"],
        ["runs", "--store", f"sqlite://{PASSWORD}@h"],
        ["runs", "--stroe", f"other://{PASSWORD}@h"],
        ["run", f"redis://{PASSWORD}@h"],
    ],
)
def test_the_command_line_does_not_echo_one(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        assert main(line) != 0
    told = capsys.readouterr().err
    assert told
    assert PASSWORD not in told


def test_a_store_of_an_earlier_version_shows_its_code_masked(tmp_path: Path) -> None:
    connection = connect(tmp_path / "lab.db")
    code = f'url = "redis://u:{PASSWORD}@h"'
    connection.execute(
        "INSERT INTO revisions (saga, number, digest, source_text, at) VALUES ('old', 1, 'd', ?, 0)", (code,)
    )
    connection.close()
    [row] = open_store(f"sqlite:///{tmp_path}/lab.db").revisions("old")
    assert row.source_text == "url = 'redis://u:***@h'"

"""Who may import whom, and how long things may get: read from the syntax trees."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import sagaz_lab
from sagaz_lab.model.options import KINDS

PACKAGE = Path(sagaz_lab.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

MIDDLE = {"runtime", "engines", "sources", "stores", "history", "export"}
BELOW_ALL = {"errors", "texts"}
MAY_IMPORT = {
    "texts": set(),
    "errors": set(),
    "ending": set(),
    "model": set(),
    "abc": {"model"},
    **{layer: {"abc", "model"} for layer in MIDDLE},
    "history": {"abc", "model", "runtime", "sources"},  # a recording is a source: it has their ledger
    "export": {"abc", "model", "runtime"},
    "hosting": {"abc", "model", *MIDDLE},
    "lab": {"abc", "model", "hosting", *MIDDLE},
    "testing": {"abc", "model", "hosting", "lab", *MIDDLE},
    "notebook": {"abc", "model", "hosting", "lab", "testing", "package", *MIDDLE},
    "cli": {"abc", "model", "hosting", "lab", "testing", "notebook", "package", "ending", *MIDDLE},
    "package": {"abc", "model", "hosting", "lab", "testing", "notebook", "cli", "ending", *MIDDLE},
}
# What the Lab consists of.
LAB_FILES = {"lab", "current", "checking"}

HOMES = {
    "IPython": "notebook/*",
    "ipykernel": "notebook/*",
    "ipywidgets": "notebook/*",
    "anywidget": "notebook/*",
    "traitlets": "notebook/*",
    "pandas": "history/frames.py stores/values/codecs_*.py",
    "pyarrow": "history/frames.py stores/values/codecs_*.py",
    "redis": "sources/redis*.py",
    "joblib": "stores/values/codecs_joblib.py",
    "pydantic": "runtime/registry/pydantic_payloads.py stores/values/classes.py",
}

LONGEST_FILE = 400
LONGEST_FUNCTION = 50


def named(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def layer(module: str) -> str:
    """Of a module inside the package. The package itself stands on top, as it offers the names of all."""
    top = module.partition(".")[0]
    if top in LAB_FILES:
        return "lab"
    return top if (PACKAGE / top).is_dir() or ((PACKAGE / f"{top}.py").is_file() and top != "__init__") else "package"


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


@pytest.fixture(params=FILES, ids=named)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_each_layer_imports_only_what_is_below_it(file: Path) -> None:
    here = layer(named(file).removesuffix(".py").replace("/", "."))
    allowed = MAY_IMPORT[here] | BELOW_ALL | {here}
    for name, line in imports(parsed(file)):
        if name.startswith("sagaz_lab."):
            there = layer(name.removeprefix("sagaz_lab."))
            assert there in allowed, f"{named(file)}:{line} ({here}) imports {name} ({there})"


# The rooms of runtime/, floor by floor: what is below a room may be used there, and nothing else.
FLOORS = (
    {"intake", "recovery", "shadow"},
    {"dispatch"},
    {"decisions", "runs"},
    {"outbox"},
    {"triggers"},
    {"registry"},
    {"lifetime"},
    {"gates"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    """The room of a module such as "runtime.gates.windows"; None for what every room may use, or for another layer."""
    top, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return room if top == "runtime" and room in FLOOR_OF else None


def test_no_room_of_the_runtime_calls_up(file: Path) -> None:
    tree, here = parsed(file), room_of(named(file).removesuffix(".py").replace("/", "."))
    if here is None:
        return
    for name, line in imports(tree):
        there = room_of(name.removeprefix("sagaz_lab.")) if name.startswith("sagaz_lab.") else None
        if there is not None and there != here:
            below = FLOOR_OF[there] > FLOOR_OF[here]
            assert below, f"{named(file)}:{line}: {here} stands beside or below {there}, whose {name} it imports"


def test_every_file_of_the_runtime_has_a_room_or_is_for_all() -> None:
    loose = {file.stem for file in FILES if file.parent == PACKAGE / "runtime"}
    assert loose == {"__init__", "clock", "heartbeat", "owner", "reports", "service", "starting", "status"}


COLLABORATORS = 6


def test_no_constructor_asks_for_more_than_six_collaborators(file: Path) -> None:
    """The Lab and the sources have more options than that: settings, each with a default."""
    if layer(named(file).removesuffix(".py").replace("/", ".")) in ("lab", "sources", "history"):
        return
    for function in functions(parsed(file)):
        if function.name == "__init__":
            asked = [*function.args.args[1:], *function.args.kwonlyargs]
            assert len(asked) <= COLLABORATORS, f"{named(file)}:{function.lineno} asks for {len(asked)}"


def test_the_runtime_names_no_kind_of_source(file: Path) -> None:
    """It asks their traits. `rows` has views of the store by name, of which one is called like a kind."""
    if layer(named(file).removesuffix(".py").replace("/", ".")) != "runtime":
        return
    tree = parsed(file)
    calls = [it for it in ast.walk(tree) if isinstance(it, ast.Call) and ast.unparse(it.func).endswith(".rows")]
    views = {id(argument) for call in calls for argument in call.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in views:
            assert node.value.strip() not in KINDS, f"{named(file)}:{node.lineno} names the kind {node.value!r}"


TESTS = Path(__file__).parent
TEST_FILES = sorted(TESTS.rglob("*.py"))

# Not private, though they look like it: of named tuples, and what IPython asks objects for.
PUBLIC_NAMES = {"_replace", "_asdict", "_fields", "_make", "_ipython_display_"}


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.relative_to(TESTS).as_posix())
def test_tests_read_no_private_attribute(file: Path) -> None:
    """They ask what users ask: what is promised can be tested while everything behind it changes."""
    found = [
        f"{file.name}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Attribute)
        and re.match("_[^_]", node.attr)
        and node.attr not in PUBLIC_NAMES
        and ast.unparse(node.value) not in ("self", "cls")
    ]
    assert found == []


ENTRY_POINTS = "sagaz_lab.sources"


def test_a_text_names_no_module_above(file: Path) -> None:
    """Such as those that `import_module` is given: what a layer needs of one above is handed in."""
    here = layer(named(file).removesuffix(".py").replace("/", "."))
    allowed = MAY_IMPORT[here] | BELOW_ALL | {here}
    if named(file) == "sources/__init__.py":
        allowed = allowed | {"history"}  # its table has the source of recordings too
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = re.fullmatch(r"sagaz_lab\.([a-z_]\w*(?:\.\w+)*)(?::\w+)?", node.value)
            if name is not None and node.value != ENTRY_POINTS:
                there = layer(name.group(1))
                assert there in allowed, f"{named(file)}:{node.lineno} ({here}) names {node.value} ({there})"


def test_only_the_lab_names_concrete_stores_engines_and_sources(file: Path) -> None:
    here = named(file)
    for name, line in imports(parsed(file)):
        target = name.removeprefix("sagaz_lab.").split(".")[0]
        if name.startswith("sagaz_lab.sources.unsettled."):
            continue  # what all sources share
        if name.startswith("sagaz_lab.") and target in ("stores", "engines", "sources"):
            assert here == "lab.py" or here.startswith(f"{target}/"), f"{here}:{line} imports {name}"


def test_each_library_has_its_home(file: Path) -> None:
    for name, line in imports(parsed(file)):
        if homes := HOMES.get(name.split(".")[0]):
            inside = any(file.relative_to(PACKAGE).match(pattern) for pattern in homes.split())
            assert inside, f"{named(file)}:{line} imports {name}, which belongs in {homes}"


def test_no_import_hides_in_a_function(file: Path) -> None:
    if named(file) == "cli.py":
        return
    for function in functions(parsed(file)):
        if not function.name.endswith("load_ipython_extension"):
            hidden = [f"{named(file)}:{line} {name}" for name, line in imports(function)]
            assert not hidden


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_a_file_and_a_function_stay_readable(file: Path) -> None:
    assert len(file.read_text().splitlines()) < LONGEST_FILE
    for function in functions(parsed(file)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{named(file)}:{function.lineno} {function.name} has {length} lines"


def test_no_two_classes_have_one_name() -> None:
    found = Counter(node.name for file in FILES for node in parsed(file).body if isinstance(node, ast.ClassDef))
    assert [name for name, times in found.items() if times > 1] == []


def test_every_public_function_says_what_it_takes_and_gives(file: Path) -> None:
    for function in functions(parsed(file)):
        parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        bare = [p.arg for p in parameters if p.annotation is None and p.arg not in ("self", "cls")]
        assert not bare, f"{named(file)}:{function.lineno} {function.name}: {bare}"
        assert function.returns is not None, f"{named(file)}:{function.lineno} {function.name} returns what?"


USED_BY_A_FIRST_CELL = """
import sys, sagaz_lab
from sagaz_lab import *
with Lab("memory").activate() as lab:
    class First(Saga):
        @trigger(source="kafka", topic="t")
        def on_event(self, event):
            return {}
        @action()
        async def work(self, ctx): ...
print(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_the_package_loads_no_library_before_it_is_needed() -> None:
    heavy = {"pandas", "pyarrow", "numpy", "pydantic", "IPython", "ipywidgets", "anywidget", "ipykernel", "traitlets",
             "redis", "aiokafka", "aio_pika", "pulsar", "boto3", "starlette", "uvicorn", "watchfiles", "joblib",
             "fastavro", "croniter"}  # fmt: skip
    shown = subprocess.run([sys.executable, "-c", USED_BY_A_FIRST_CELL], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(shown.stdout.split())


def test_the_public_names_are_these() -> None:
    assert sorted(sagaz_lab.__all__) == [
        "Batch", "Debounce", "Event", "FileEvent", "Lab", "OutboxSagaListener", "Outcome", "OutcomeKind", "Param",
        "Permanent", "RunStatus", "Saga", "SagaContext", "SagaListener", "SagazLabError", "Throttle", "Tick",
        "TriggerConfig", "WebhookRequest", "absent", "action", "all_of", "any_of", "compensate", "default_lab",
        "fire_event", "forward_recovery", "sequence", "skip", "start_triggers", "trigger",
    ]  # fmt: skip
    for name in sagaz_lab.__all__:
        assert getattr(sagaz_lab, name) is not None
        assert name in dir(sagaz_lab)
    with pytest.raises(AttributeError, match="no attribute 'Trigger'"):
        _ = sagaz_lab.Trigger

"""What the pages say: their code runs, their names exist, their tables are those of the code."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from contextlib import nullcontext

import pytest

import sagaz_lab
from sagaz_lab import cli
from sagaz_lab.lab import Lab
from sagaz_lab.model.options import KINDS
from sagaz_lab.model.trigger import GATE_NAMES
from sagaz_lab.sources import ADAPTERS
from tests.acceptance.kernel import Kernel
from tests.acceptance.pages import LANGUAGES, ROOT, blocks, fences, pages
from tests.services.redis import running_redis

README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def named(page):
    return page.relative_to(ROOT).as_posix()


PAGES = {named(page): page for page in pages()}


def in_kernel(page):
    return any(block.language == "ipython" for block in blocks(page))


@pytest.fixture
def surroundings(request, tmp_path, monkeypatch):
    """A server for the pages whose code reads from one; `REDIS_URL` names it."""
    page = PAGES[request.node.callspec.params["name"]]
    needed = any("redis" in block.text for block in blocks(page))
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") if needed else nullcontext() as server:
        if server is not None:
            monkeypatch.setenv("REDIS_URL", server.url)
        folder = tmp_path / "page"
        folder.mkdir()
        yield page, folder


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if list(blocks(page)) and not in_kernel(page)])
def test_the_code_of_a_page_runs(name, surroundings):
    page, folder = surroundings
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.acceptance.pages", str(page)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if in_kernel(page)])
def test_the_cells_of_a_page_run_in_a_kernel(name, surroundings):
    page, folder = surroundings
    with Kernel(folder) as kernel:
        for block in blocks(page):
            if block.file:
                (folder / block.file).write_text(block.text)
                continue
            result = kernel.run(block.text)
            assert result.ok, f"{name}, line {block.line + 1}: {result.error or result.stderr}"
            block.check("\n".join([result.stdout, *(data.get("text/plain", "") for data in result.shown), result.text]))


@pytest.mark.parametrize("name", PAGES)
def test_a_block_says_what_it_is(name):
    assert set(fences(PAGES[name])) <= LANGUAGES


@pytest.mark.parametrize("name", PAGES)
def test_links_and_files_that_a_page_names_exist(name):
    page = PAGES[name]
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    paths = re.findall(r"`((?:tests|sagaz_lab|tools|notebooks|docs)/[\w./-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_promises_no_more_than_we_do(name):
    text = PAGES[name].read_text().lower()
    for word in ("robust", "production-ready", "blazing", "seamless", "powerful", "effortless"):
        assert word not in text, word
    assert not re.search(r"(?<!never say “)(?<!not )exactly[ -]once", text)


# --- the reference ---


def signature(function, name):
    """As a user writes it: without `self` and without types."""
    shown = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in shown.parameters.values() if p.name != "self"]
    return name + str(shown.replace(parameters=parameters, return_annotation=shown.empty))


def public_methods(cls, prefix):
    for name, member in vars(cls).items():
        if not name.startswith("_") and inspect.isfunction(member):
            yield signature(member, f"{prefix}.{name}")


FUNCTIONS = ("action", "compensate", "forward_recovery", "trigger", "skip", "absent", "default_lab", "fire_event",
             "start_triggers", "all_of", "any_of", "sequence")  # fmt: skip
CLASSES = ("Lab", "TriggerConfig", "Throttle", "Debounce", "Batch")


def test_every_public_name_is_in_the_reference():
    assert [name for name in sagaz_lab.__all__ if f"`{name}" not in REFERENCE] == []


@pytest.mark.parametrize("shown", [
    *(signature(getattr(sagaz_lab, name), name) for name in (*FUNCTIONS, *CLASSES)),
    *public_methods(Lab, "lab"),
])  # fmt: skip
def test_the_reference_has_every_signature(shown):
    assert f"`{shown}`" in REFERENCE


def test_the_reference_says_which_methods_are_awaited():
    for head, is_awaited in (("To await", True), ("Plain", False)):
        table = REFERENCE.partition(f"\n{head}:\n\n")[2].partition("\n\n")[0]
        methods = {name: getattr(Lab, name) for name in re.findall(r"^\| `lab\.(\w+)\(", table, re.MULTILINE)}
        assert methods
        for name, method in methods.items():
            assert inspect.iscoroutinefunction(inspect.unwrap(method)) is is_awaited, name


def test_every_command_of_the_command_line_is_in_the_reference(capsys):
    commands = re.findall(r"^    ([a-z]\S*)", cli.parser().format_help(), re.MULTILINE)
    assert len(commands) > 3
    for name in commands:
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        options = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        (line,) = [line for line in REFERENCE.splitlines() if line.startswith(f"| `sagaz-lab {name} ")]
        assert [option for option in options - {"--help", "--store"} if option not in line] == []


def test_what_is_made_from_the_code_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), f"{done.stdout}{done.stderr}make docs writes them"


def test_what_is_not_built_is_told():
    told = README.partition("not built yet")[2]
    not_ready = KINDS.keys() - ADAPTERS.keys() - {"custom"}
    assert [name for name in not_ready if f"`{name}`" not in told] == []


def test_every_gate_is_explained_and_every_picture_of_one_is_shown():
    page = (ROOT / "docs" / "flow-control.md").read_text()
    assert [name for name in GATE_NAMES if f"`{name}" not in page and f"{name}=" not in page] == []
    pictures = (ROOT / "docs" / "images" / "flow").iterdir()
    assert [path.name for path in pictures if f"(images/flow/{path.name})" not in page] == []


def test_the_fields_of_a_config_are_told():
    fields = [field.name for field in dataclasses.fields(sagaz_lab.TriggerConfig)]
    assert [name for name in fields if f"| `{name}` |" not in REFERENCE] == []


def test_the_changelog_begins_with_the_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == sagaz_lab.__version__


def test_the_picture_is_small():
    assert (ROOT / "docs" / "pictures" / "drift.png").stat().st_size < 150_000

"""What a cell is told of its mistakes and of what it has started: one line, and the truth."""

import json

import pytest

from tests.acceptance.kernel import LOAD, Kernel, saga, told


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def kernel_of_its_own(folder):
    with Kernel(folder) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


# --- what is started ---


def test_firing_into_a_paused_trigger_is_one_line(kernel):
    kernel.run(saga("paused"))
    kernel.run("%triggers pause paused.on_event")
    for line in ("paused.on_event {}", "memory topic=paused {} --no-wait"):
        assert "paused.on_event is paused and takes no event" in told(kernel.run(f"%triggers fire {line}"))
    kernel.run("%triggers resume paused.on_event")
    assert "started" in kernel.run("%triggers fire paused.on_event {}").text


def test_waiting_for_events_counts_from_now(kernel):
    kernel.run(saga("counts"))
    for n in range(3):
        kernel.run(f"%triggers fire counts.on_event {{}} --id before-{n}")
    mistake = kernel.run("%triggers wait 1 event --timeout 1")
    assert mistake.stderr.splitlines()[-1] == "UsageError: %triggers wait: 0 of 1 events within 1 s"
    assert "before-0 -> counts.on_event" in mistake.stdout  # what came before is still told
    later = "import asyncio\nasyncio.get_running_loop().call_later(0.5, lambda: asyncio.ensure_future("
    kernel.run(later + "default_lab().fire('counts.on_event', {})))")
    assert "1 event: 1 started" in kernel.run("%triggers wait 1 event --timeout 20").stdout


def test_the_picture_of_a_start_says_that_it_has_started(kernel_of_its_own):
    kernel = kernel_of_its_own
    kernel.run(saga("drawn"))
    shown = [data["text/plain"] for data in kernel.run("%triggers start").shown]
    assert "started, 0 runs in flight" in shown[-1]
    assert "connected" in shown[-1]
    look = "from sagaz_lab.notebook.dashboard import dashboard_of as d\nd(default_lab())._picture()['text/plain']"
    kernel.run("%triggers wait until idle")
    assert "started, 0 runs in flight" in kernel.run(look).text


# --- mistakes ---

MISTAKES = {
    'topik="x"': ("no memory option 'topik'; did you mean 'topic'?", "@trigger("),
    'topic="x", debounce=Debounce("1m", "1s")': ("must be longer than period", "@trigger("),
    'topic="x", params={"get": 1}': ("params has 'get'", "@trigger("),
}


@pytest.mark.parametrize("options", MISTAKES)
@pytest.mark.parametrize("head", ["%%saga\n", ""])
def test_a_mistake_in_a_saga_is_one_line_and_the_cells_own(kernel, options, head):
    message, line = MISTAKES[options]
    cell = head + saga("typo").replace('topic="typo"', options)
    shown, where = kernel.run(cell).error.splitlines()
    assert message in shown
    assert line in where
    assert cell.splitlines()[int(where.split("line ")[1].split(":")[0]) - 1].strip() in where


@pytest.mark.parametrize(
    ("edit", "message", "line"),
    [
        (('"act")\n    async', '"act", depends_on="nosuch")\n    async'), "nosuch", "class S(Saga)"),
        (('@compensate("act")', '@compensate("atc")'), "did you mean 'act'?", "class S(Saga)"),
        (("def undo(self, ctx)", "def undo(self)"), "a compensation takes (self, ctx)", '@compensate("act")'),
    ],
)
def test_so_is_one_of_the_whole_class(kernel, edit, message, line):
    shown, where = kernel.run("%%saga\n" + saga("typo").replace(*edit)).error.splitlines()
    assert message in shown
    assert line in where


@pytest.mark.parametrize(
    ("edit", "message", "line"),
    [
        (
            ('"act")\n    async', '"act", timeout=3)\n    async'),
            "did you mean 'timeout_s'?",
            '@action("act", timeout=3)',
        ),
        (('topic="typo"', 'topic="typo", batch=Batch(3)'), "Batch() needs 'timeout'", "batch=Batch(3)"),
        (('topic="typo"', 'topic="typo", throttle=Throttle()'), "Throttle() needs 'limit' and 'per'", "Throttle()"),
        (
            ('"typo"\n', '"typo"\n    trigger_config = TriggerConfig(max_retrys=3)\n'),
            "'max_retries'?",
            "trigger_config",
        ),
        (('@trigger(source="memory", topic="typo")', "@trigger"), "write @trigger(...) with parentheses", "@trigger"),
    ],
)
def test_so_is_a_call_that_python_itself_refuses(kernel, edit, message, line):
    cell = "%%saga\n" + saga("typo").replace(*edit)
    shown, where = kernel.run(cell).error.splitlines()
    assert message in shown
    assert line in where
    assert cell.splitlines()[int(where.split("line ")[1].split(":")[0]) - 1].strip() in where


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("default_lab().start(isolate=True)", "Lab.start(): no option 'isolate'; did you mean 'isolated'?"),
        ("default_lab().pause('nosuch.on_event')", "UnknownName: lab: no trigger 'nosuch.on_event'"),
        ("await default_lab().fire('nosuch.on_event', {})", "UnknownName: fire: no trigger or source"),
        ("all_of('kafka', 'redis')", "DefinitionError: all_of() takes mappings such as"),
        ("await S().run(3)", "DefinitionError: S.run: context=3 must be a mapping"),
        ("Lab(config=3)", "DefinitionError: Lab: config=3 must be a TriggerConfig"),
    ],
)
def test_an_error_of_ours_where_a_cell_calls_us_is_one_line(kernel, call, message):
    kernel.run(saga("called"))
    shown, where = kernel.run(f"x = 1\n{call}").error.splitlines()
    assert message in shown
    assert where == f"  in this cell, line 2: {call}"


def test_the_line_may_be_that_of_another_cell(kernel):
    kernel.run("def make():\n    return Batch(3)")
    assert kernel.run("make()").error.splitlines()[1] == "  in another cell, line 2: return Batch(3)"


@pytest.mark.parametrize(
    "cell",
    [
        "%%saga\nx = 1\n1 / 0",
        "x = 1\nx\nlen(3)",
        "x = 1\ndef run():\n    raise Permanent('no stock')\nrun()",
        "def batch(size): ...\n\nbatch(sise=3)",
        "class C:\n    def keys(self):\n        return 1 / 0\nSagaContext(C())",
    ],
)
def test_an_error_of_the_users_own_code_keeps_its_traceback(kernel, cell):
    assert f"----> 3 {cell.splitlines()[2]}" in kernel.run(cell).error


@pytest.mark.parametrize("async_", ["async ", ""])
def test_the_traceback_of_an_action_s_own_error_leads_from_the_cell_to_the_action(kernel, async_):
    kernel.run(saga("divides", action="return 1 / ctx['n']").replace("async ", async_, 1))
    error = kernel.run("await S().run({'n': 0})").error
    assert "----> 1 await S().run({'n': 0})" in error
    assert "return 1 / ctx['n']" in error
    assert "sagaz_lab" not in error
    assert "ZeroDivisionError: division by zero" in error


def test_a_saga_without_methods_has_no_text_to_lose(kernel):
    assert kernel.run("class Empty(Saga):\n    saga_name = 'empty'").stdout == "saga empty: revision 1, the first\n"


# --- names in a line ---


def test_a_line_expands_names_as_other_magics_do(kernel):
    kernel.run(saga("expands", trigger="return skip('seen', n=event['n'])"))
    kernel.run("name, ids, payload = 'expands', ['one', 'two'], {'n': 1}")
    assert kernel.run('%triggers fire {name}.on_event {"n": 5} --id {ids[0]}').text.startswith(
        "one -> expands.on_event"
    )
    assert kernel.run("%triggers fire memory topic=$name {payload} --id $name").text.endswith("seen [n=1])")
    assert kernel.run("%triggers fire $name.on_event $payload").text.endswith("seen [n=1])")
    assert kernel.run("%triggers why {ids[0]}").text.startswith("event one\n  expands.on_event r1: filtered")
    assert kernel.run("%triggers why $name").text.startswith("event expands\n  expands.on_event")
    assert "{nosuch} cannot be expanded: NameError" in told(kernel.run("%triggers why {nosuch}"))


def test_json_is_left_as_it_is(kernel):
    kernel.run(saga("kept", trigger="return skip('seen', n=event['n'])"))
    kernel.run("n = 7")
    assert kernel.run('%triggers fire kept.on_event {"n": "{n} $n"}').text.endswith("[n='{n} $n'])")
    assert kernel.run('%triggers forget kept.on_event {"n":1}').text == "0"


# --- magics around it ---


@pytest.mark.parametrize("head", ["", '"""What it does."""\n', "# first\n\n"])
def test_a_saga_cell_may_import_from_the_future_and_await(kernel, head):
    future = "from __future__ import (\n    annotations,  # later\n)\nimport asyncio\n"
    result = kernel.run(f"%%saga\n{head}{future}" + saga("future") + "await asyncio.sleep(0)\n6 * 7")
    assert (result.ok, result.text) == (True, "42")
    assert "future: " in result.shown[0]["text/plain"]
    broken = kernel.run(f"%%saga\n{head}{future}\n1 / 0")
    assert f"----> {7 + head.count(chr(10))} 1 / 0" in broken.error


@pytest.mark.parametrize(
    "cell",
    [
        "%%time\n%triggers fire timed.on_event {}",
        "%%time\nfor n in range(2):\n    o = %triggers fire timed.on_event {}\no",
        "%time %triggers fire timed.on_event {}",
        "%time o = %triggers fire timed.on_event {}\no",
    ],
)
def test_time_tells_how_long_a_command_took_that_waits(kernel, cell):
    kernel.run(saga("timed"))
    result = kernel.run(cell)
    assert "timed.on_event: started" in result.text
    assert "CPU times: user " in result.stdout
    assert result.stdout.count("Wall time: ") == 1


@pytest.mark.parametrize("magic", ["%%capture", "%%timeit -n1", "%%time --no-raise-error", "%timeit", "%prun"])
def test_a_magic_that_cannot_await_is_one_line_that_says_what_to_do(kernel, magic):
    kernel.run(saga("wrapped"))
    before = kernel.run("default_lab().counters()['wrapped.on_event']['received']").text
    between = "\n" if magic.startswith("%%") else " "
    line = told(kernel.run(f"{magic}{between}%triggers fire wrapped.on_event {{}}"))
    assert f"%triggers fire needs await, which {magic.split()[0]} does not support" in line
    assert kernel.run("default_lab().counters()['wrapped.on_event']['received']").text == before


def test_what_waits_for_nothing_may_stand_in_any_of_them(kernel):
    assert kernel.run("%%capture out\n%triggers status").ok
    assert "runs in flight" in kernel.run("out.outputs[0].data['text/plain']").text
    assert kernel.run("text = '''\n%time %triggers stop\n'''\ntext").text == r"'\n%time %triggers stop\n'"


@pytest.mark.parametrize("file", ["waits.ipy", "waits.ipynb"])
def test_a_file_that_waits_is_one_line_and_one_that_only_defines_may_be_run(kernel_of_its_own, folder, file):
    cells = [saga("filed"), "%triggers status", "%triggers start", "1"]
    notebook = {"cells": [{"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None,
                           "source": cell} for n, cell in enumerate(cells)],
                "metadata": {}, "nbformat": 4, "nbformat_minor": 5}  # fmt: skip
    (folder / "waits.ipynb").write_text(json.dumps(notebook))
    (folder / "waits.ipy").write_text("\n".join(cells))
    kernel = kernel_of_its_own
    failed = kernel.run(f"%run {file}")
    assert (failed.ok, failed.error) == (False, None)
    assert "UsageError: %triggers start needs await, which nested cells, as of %run" in failed.stderr
    assert "filed" not in kernel.run("default_lab().sagas").text
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace("%triggers start", "None"))
    assert kernel.run(f"%run {file}").ok
    assert "filed" in kernel.run("default_lab().sagas").text
    assert kernel.run("%triggers start").ok


def test_a_timed_saga_cell_shows_both(kernel):
    result = kernel.run("%%time\n%%saga\n" + saga("both", after="%triggers wait until idle"))
    assert "both: revision 1" in result.shown[0]["text/plain"]
    assert "Wall time: " in result.stdout


@pytest.mark.parametrize("head", ["%%time\n", "%%time\n%%saga\n", "%%capture\n%%saga\n", "%%time\n%%capture\n%%saga\n",
                                  "%%capture\n%%time\n", "%%capture\n%%time\n%%saga\n", "%%time\n\n# why\n%%saga\n",
                                  "# why\n%%saga\n"])  # fmt: skip
def test_a_revision_keeps_its_code_whichever_magic_stands_above(kernel, head):
    name = f"above{head.count('%')}{len(head)}"
    assert kernel.run(head + saga(name)).ok
    kept = kernel.run(f"print(default_lab().revisions('{name}').code[0])").stdout
    assert kept.startswith(f'class S(Saga):\n    saga_name = "{name}"\n')


def test_a_mistake_in_a_timed_saga_is_one_line(kernel):
    result = kernel.run("%%time\n%%saga\n" + saga("late").replace('"act")', '"act", timeout=3)', 1))
    assert result.error.splitlines()[1] == '  in this cell, line 8: @action("act", timeout=3)'
    assert "Wall time: " in result.stdout


def test_what_the_package_itself_refuses_is_one_line_in_its_own_words(kernel):
    refused = kernel.run("x = 1\nskip(5)")
    assert refused.error.splitlines() == ["TypeError: skip() takes the reason as a string, not 5",
                                          "  in this cell, line 2: skip(5)"]  # fmt: skip


def test_a_magic_that_leaves_no_code_to_keep_is_named(kernel):
    result = kernel.run("%%prun -q\n%%saga\n" + saga("profiled"))
    assert "its code is not stored" in result.shown[0]["text/plain"]


# --- two notebooks ---


def test_a_start_that_fails_fails_its_cell_and_a_card_names_the_kernel_of_the_revision_before(tmp_path):
    with Kernel(tmp_path) as one, Kernel(tmp_path) as other:
        for kernel in (one, other):
            kernel.run(LOAD)
        one.run("%%saga\n" + saga("shared"))
        assert one.run("%triggers start").ok
        assert "no change: still revision 1" in other.run("%%saga\n" + saga("shared")).shown[0]["text/plain"]
        assert "%triggers start: " in told(other.run("handle = %triggers start"))
        assert other.run("%triggers wait until idle --timeout 5").ok
        assert "0 of 1 events" in other.run("%triggers wait 1 event --timeout 0.3").stderr
        card = other.run("%%saga\n" + saga("shared", trigger="return None")).shown[0]["text/plain"]
        assert "shared: revision 2 (was 1)" in card
        assert "revision 1 comes from " in card
        assert f"process {one.pid}" in card
        assert "elsewhere" not in other.run("%%saga\n" + saga("shared")).shown[0]["text/plain"]


def test_a_source_that_cannot_be_read_fails_the_cell_of_the_start(kernel_of_its_own):
    kernel = kernel_of_its_own
    kernel.run(saga("missing").replace('"memory", topic="missing"', '"recording", path="nosuch.jsonl"'))
    assert "nosuch.jsonl" in told(kernel.run("%triggers start"))
    for wait in ("wait until idle", "wait 1 event --timeout 0.3", "wait --timeout 0.3"):
        assert "nosuch.jsonl" not in kernel.run(f"%triggers {wait}").stderr

"""What the notebook promises, held to in a real kernel."""

import textwrap

import pytest

from tests.acceptance.kernel import LOAD, Kernel, saga, told


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


@pytest.fixture
def kernel_of_its_own(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


# --- the saga cell ---


def test_a_saga_cell_shows_the_saga_and_makes_it_current(kernel):
    result = kernel.run("%%saga\n" + saga("shown"))
    (card,) = result.shown
    assert "shown: revision 1, the first" in card["text/plain"]
    assert "<svg" in card["text/html"]
    assert "<title>shown, revision 1</title>" in card["text/html"]
    assert kernel.run("default_lab().sagas['shown'].revision").text == "1"


def test_an_error_in_a_saga_cell_names_the_line_that_was_written(kernel):
    result = kernel.run("%%saga\nx = 1\n\nraise ValueError('here')")
    assert "----> 4 raise ValueError('here')" in result.error


def test_a_saga_cell_may_await_and_its_last_value_is_shown(kernel):
    result = kernel.run("%%saga\nimport asyncio\n" + saga("awaits") + "await asyncio.sleep(0.01)\n6 * 7")
    assert (result.ok, result.text) == (True, "42")


def test_a_cell_that_fails_registers_nothing_and_says_so(kernel):
    kernel.run("%%saga\n" + saga("fails"))
    result = kernel.run("%%saga\n" + saga("fails", trigger="return {'new': 1}", after="1 / 0"))
    assert "ZeroDivisionError" in result.error
    assert result.stderr.strip() == "nothing registered; fails stays at revision 1"
    assert kernel.run("default_lab().sagas['fails'].revision, len(default_lab().revisions('fails'))").text == "(1, 1)"


def test_neither_does_a_cell_with_a_wrong_definition_or_syntax(kernel):
    result = kernel.run("%%saga\n" + saga("typo").replace("topic=", "topik="))
    assert "did you mean 'topic'" in result.error
    assert result.stderr.strip() == "nothing registered"
    assert kernel.run("%%saga\nclass S(Saga:\n  pass").stderr.strip() == "nothing registered"
    assert kernel.run("'typo' in default_lab().sagas").text == "False"


@pytest.mark.parametrize(
    "wrong",
    [
        'source="redis", stream="t", url="redis://:hunter2@h/0", passwd="hunter2"',
        'source="redis", stream="t", password="hunter2"',
        'source="redis", stream="t", consumer_grp="x", url="redis://:hunter2" + "@h/0"',
    ],
)
def test_the_line_of_a_wrong_definition_is_shown_without_its_credentials(kernel, wrong):
    error = kernel.run("%%saga\n" + saga("secret").replace('source="memory", topic="secret"', wrong)).error
    assert "in this cell, line" in error
    assert "***" in error
    assert "hunter2" not in error


def test_running_a_cell_again_doubles_nothing(kernel):
    cell = "%%saga\n" + saga("again")
    kernel.run(cell)
    assert "no change: still revision 1" in kernel.run(cell).shown[0]["text/plain"]
    fired = kernel.run("len(await default_lab().fire('memory', {}, topic='again'))")
    assert fired.text == "1"


def test_a_changed_saga_is_the_next_revision_and_shows_what_changed(kernel):
    kernel.run("%%saga\n" + saga("changes"))
    card = kernel.run("%%saga\n" + saga("changes", "elsewhere", "return {'html': '<script>'}")).shown[0]
    assert "changes: revision 2 (was 1)" in card["text/plain"]
    assert "on_event: source changed from memory changes to memory elsewhere" in card["text/plain"]
    assert "+        return {'html': '<script>'}" in card["text/plain"]
    assert "<script" not in card["text/html"]
    assert "&lt;script&gt;" in card["text/html"]


def test_an_ordinary_cell_registers_as_well_with_one_line(kernel):
    cell = saga("plain")
    assert kernel.run(cell).stdout == "saga plain: revision 1, the first\n"
    again = kernel.run(cell)
    assert (again.stdout, again.shown) == ("", [])
    assert kernel.run(saga("plain", trigger="return None")).stdout == "saga plain: revision 2 (was 1)\n"


def test_a_changed_helper_is_told_by_the_cell_that_changed_it(kernel):
    kernel.run("LIMIT = 0.5\n" + saga("helped", trigger="return {'limit': LIMIT}"))
    assert kernel.run("LIMIT = 0.5").stdout == ""
    assert kernel.run("LIMIT = 0.7").stdout == "saga helped: revision 2 (was 1); helper changed: LIMIT\n"


def test_a_quiet_saga_cell_shows_a_line_and_a_wrong_option_is_one(kernel):
    quiet = kernel.run("%%saga --quiet\n" + saga("quiet"))
    assert (quiet.stdout, quiet.shown) == ("saga quiet: revision 1, the first\n", [])
    wrong = kernel.run("%%saga --quite\n" + saga("quite"))
    assert wrong.stderr.splitlines()[0] == (
        "UsageError: %%saga: no option '--quite'; did you mean '--quiet'? (known: --quiet, --shadow)"
    )
    assert kernel.run("'quite' in default_lab().sagas").text == "False"


def test_a_cell_that_is_run_by_a_cell_counts_with_it(kernel):
    inner = saga("inner").replace("'", "\\'")
    kernel.run(f"get_ipython().run_cell('''{inner}''')\n" + saga("outer"))
    assert kernel.run("{'inner', 'outer'} <= default_lab().sagas.keys()").text == "True"
    failing = saga("inner", trigger="return None", after="1 / 0")
    result = kernel.run(f"get_ipython().run_cell('''{failing}''')\n" + saga("outer", trigger="return None"))
    assert "inner stays at revision 1" in result.stderr
    assert kernel.run("[default_lab().sagas[name].revision for name in ('inner', 'outer')]").text == "[1, 2]"


# --- %triggers ---


def test_fire_returns_the_outcomes_also_into_a_variable(kernel):
    kernel.run(saga("fires", trigger="return skip('too low', score=event.score) if event.score < 0.5 else {}"))
    shown = kernel.run('%triggers fire fires.on_event {"score": 0.1} --id low')
    assert shown.text == "low -> fires.on_event: filtered (too low [score=0.1])"
    assert "<td" in shown.data["text/html"]
    assert kernel.run("x = %triggers fire memory topic=fires {'score': 0.2 + 0.7}\nx[0].kind").text.startswith("<")
    assert kernel.run("x[0].kind == 'started'").text == "True"
    assert kernel.run('%triggers fire fires.on_event {"score": 0.1};').data == {}


def test_it_works_in_loops_and_functions_and_sees_their_variables(kernel):
    kernel.run(saga("loops", trigger="return skip(event.name)"))
    cell = """
    reasons = []
    for n in range(2):
        if True:
            found = %triggers fire loops.on_event {"name": f"loop {n}"}
            reasons += [outcome.reason for outcome in found]
    async def send(name):
        found = %triggers fire loops.on_event {"name": name}
        return found[0].reason
    reasons + [await send("local")]"""
    assert kernel.run(textwrap.dedent(cell)).text == "['loop 0', 'loop 1', 'local']"


def test_text_that_looks_like_a_command_stays_text(kernel):
    assert kernel.run("text = '''\n%triggers stop\n'''\ntext").text == r"'\n%triggers stop\n'"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%triggers strat", "%triggers: no sub-command 'strat'; did you mean 'start'?"),
        ("%triggers start nosuch", "%triggers start: no saga or trigger 'nosuch'"),
        ("%triggers pause wrong.on_evnt", "did you mean 'wrong.on_event'?"),
        ("%triggers fire wrong.on_evnt {}", "did you mean 'wrong.on_event'?"),
        ('%triggers fire wrong.on_event {"a" 1}', "at character 6"),
        ("%triggers preview wrong.on_event undefined_name", "NameError: name 'undefined_name' is not defined"),
        ("%triggers forget nosuch.on_event", "no trigger 'nosuch.on_event'"),
        ("%triggers wait for it", "wait [N events | until idle]"),
        ("%triggers runs --status complete", "did you mean 'completed'?"),
        ("%triggers dlq redrive nosuch", "no open dead letter 'nosuch'"),
        ("%triggers dlq discard", "ids are missing"),
        ("%triggers why", "why EVENT_ID"),
    ],
)
def test_a_mistake_is_one_line(kernel, line, expected):
    kernel.run("%%saga --quiet\n" + saga("wrong"))
    assert expected in told(kernel.run(line))


def test_firing_a_saga_of_the_same_cell_says_when_it_is_registered(kernel):
    result = kernel.run(saga("toosoon", after="%triggers fire toosoon.on_event {}"))
    assert "registered when it succeeds" in result.stderr.splitlines()[0]


def test_status_preview_and_why_have_cards(kernel):
    kernel.run(saga("cards", trigger="return skip('<script>no</script>')"))
    preview = kernel.run("%triggers preview cards.on_event {}")
    assert "cards.on_event: would be filtered" in preview.text
    kernel.run("%triggers fire cards.on_event {} --id seen")
    why = kernel.run("%triggers why seen")
    assert "cards.on_event r1: filtered (<script>no</script>)" in why.text
    status = kernel.run("%triggers status")
    assert "cards.on_event" in status.text
    for result in (preview, why, status):
        assert "<table" in result.data["text/html"] or "<ul" in result.data["text/html"]
        assert "<script" not in result.data["text/html"]
    assert "<svg" in kernel.run("default_lab().sagas['cards']").data["text/html"]


def test_a_forgotten_key_may_start_a_run_again(kernel):
    kernel.run(saga("forgets"))
    cell = "%triggers fire forgets.on_event {} --id same"
    assert "started" in kernel.run(cell).text
    assert "duplicate" in kernel.run(cell).text
    assert kernel.run("%triggers forget forgets.on_event same").text == "1"
    assert "started" in kernel.run(cell).text


def test_other_lists_look_as_before(kernel):
    assert kernel.run("[1, 'two', []]").data == {"text/plain": "[1, 'two', []]"}
    assert kernel.run("[]").data == {"text/plain": "[]"}


def test_dead_letters_are_listed_redriven_and_discarded(kernel_of_its_own):
    kernel = kernel_of_its_own
    broken = saga("letters", trigger="raise ValueError('no <model>')")
    kernel.run(broken)
    for name in ("a", "b", "c"):
        kernel.run(f"%triggers fire letters.on_event {{}} --id {name}")
    assert kernel.run("x = %triggers dlq --by cause\nx['count'].tolist()").text == "[3]"
    kernel.run("x = %triggers dlq\nids = dict(zip(x.event_id, x.id))")
    assert kernel.run("x = %triggers dlq --limit 1\nlist(x.event_id)").text == "['c']"
    newest = kernel.run("print(ids['c'])").stdout.strip()
    assert kernel.run(f"x = %triggers dlq --before {newest}\nlist(x.event_id)").text == "['b', 'a']"
    assert f"%triggers dlq redrive {newest}" in kernel.completions("%triggers dlq redrive d-")
    assert "--before does not go with --by cause" in told(kernel.run(f"%triggers dlq --before {newest} --by cause"))
    assert "--limit does not go with" in told(kernel.run("%triggers dlq redrive all --limit 3"))
    letter = kernel.run("print(ids['a'])").stdout.strip()
    assert kernel.run(f"%triggers dlq discard {letter} not worth it").text == "1"
    kernel.run(saga("letters"))
    assert kernel.run("x = %triggers dlq redrive all\n[o.kind.value for o in x]").text == "['started', 'started']"
    assert kernel.run("x = %triggers dlq\nlen(x)").text == "0"


def test_runs_are_a_table_with_real_types(kernel_of_its_own):
    kernel = kernel_of_its_own
    kernel.run(saga("table", action="if ctx.get('bad'): raise ValueError('x')", trigger="return dict(event.payload)"))
    kernel.run('%triggers fire table.on_event {"bad": false}')
    kernel.run('%triggers fire table.on_event {"bad": true}')
    assert kernel.run("%triggers wait until idle --timeout 10").ok
    types = kernel.run("x = %triggers runs\nx.dtypes['started_at'], x.dtypes['revision'], len(x)").text
    assert "UTC" in types
    assert "Int64" in types
    assert kernel.run("x = %triggers runs --status completed\nlen(x)").text == "1"
    assert kernel.run("x = %triggers runs --limit 1\nlen(x)").text == "1"
    assert "<table" in kernel.run("%triggers runs").data["text/html"]


# --- help, completion, loading ---


def test_help_is_where_one_asks_for_it(kernel):
    assert "%triggers fire TRIGGER" in kernel.run("%triggers?").paged
    assert "%%saga [--quiet]" in kernel.run("%%saga?").paged
    assert "--no-wait" in kernel.run("%triggers fire?").stdout
    assert kernel.run("%triggers help fire").stdout == kernel.run("%triggers fire?").stdout
    assert "%triggers wait" in kernel.run("%triggers").stdout
    assert "triggers" in kernel.run("%lsmagic").text


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%triggers st", {"%triggers start", "%triggers stop", "%triggers status"}),
        ("x = %triggers fi", {"x = %triggers fire"}),
        ("for x in y:\n    %triggers pa", {"for x in y:\n    %triggers pause", "for x in y:\n    %triggers params"}),
        ("%triggers fire complete-me.o", {"%triggers fire complete-me.on_event"}),
        ("%triggers pause comp", {"%triggers pause complete-me.on_event"}),
        ("%triggers start comp", {"%triggers start complete-me", "%triggers start complete-me.on_event"}),
        ("%triggers fire complete-me.on_event {} --no", {"%triggers fire complete-me.on_event {} --no-wait"}),
        ("%triggers runs --status comple", {"%triggers runs --status completed"}),
        ("%triggers help pre", {"%triggers help preview"}),
        ("%%saga --q", {"%%saga --quiet"}),
    ],
)
def test_completion_offers_commands_options_and_names(kernel, typed, offered):
    kernel.run("%%saga --quiet\n" + saga("complete-me"))
    assert set(kernel.completions(typed)) == offered


def test_magics_are_completed_by_name(kernel):
    assert "%triggers" in kernel.completions("%trig")
    assert "%%saga" in kernel.completions("%%sag")


COUNTS = """
ip = get_ipython()
print(len(ip.input_transformers_cleanup), len(ip.input_transformers_post), len(ip.Completer.custom_matchers),
      [len(ip.events.callbacks[name]) for name in ("pre_run_cell", "post_run_cell")],
      len(ip.display_formatter.formatters["text/html"].type_printers), ip.find_magic("triggers") is not None)"""


@pytest.mark.parametrize("command", ["%triggers use memory", "o = %triggers use memory", "%triggers start"])
def test_a_command_that_waits_is_refused_in_the_cell_that_loads_the_extension(tmp_path, command):
    with Kernel(tmp_path) as kernel:
        result = kernel.run(f"%load_ext sagaz_lab\n%triggers help\n{command}")
        assert told(result) == "UsageError: %triggers: put %load_ext sagaz_lab into a separate cell before this one"
        assert kernel.run("%triggers use memory").stdout == "the store is now memory; no trigger is started\n"
        assert kernel.run("%reload_ext sagaz_lab\n%triggers use memory").ok


def test_loading_twice_doubles_nothing_and_unloading_takes_all_away(tmp_path):
    with Kernel(tmp_path) as kernel:
        before = kernel.run(COUNTS).stdout
        kernel.run(LOAD)
        loaded = kernel.run(COUNTS).stdout
        assert loaded != before
        kernel.run("%load_ext sagaz_lab\nimport sagaz_lab\nsagaz_lab.load_ipython_extension(get_ipython())")
        assert kernel.run(COUNTS).stdout == loaded
        kernel.run("%reload_ext sagaz_lab")
        assert kernel.run(COUNTS).stdout == loaded
        assert kernel.run(saga("once")).stdout == "saga once: revision 1, the first\n"
        kernel.run("%unload_ext sagaz_lab")
        assert kernel.run(COUNTS).stdout == before
        assert kernel.run("[1]").data == {"text/plain": "[1]"}
        kernel.run(saga("bare"))
        assert kernel.run("'bare' in default_lab().sagas").text == "True"

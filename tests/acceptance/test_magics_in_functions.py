"""A `%triggers` that waits: in a function or a class, before a semicolon, in a cell that Python refuses."""

import pytest

from tests.acceptance.kernel import LOAD, Kernel, saga, told


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        assert kernel.run(LOAD).ok
        assert kernel.run(saga("inner")).ok
        yield kernel


@pytest.mark.parametrize("head", ["", "%%time\n", "# a comment\n\n"])
@pytest.mark.parametrize("command", ["start", "wait until idle --timeout 2", "fire inner.on_event {}"])
def test_in_a_plain_function_it_is_one_line_that_names_the_line_and_the_cure(kernel, head, command):
    line = told(kernel.run(f"{head}def send():\n    %triggers {command}\nsend()"))
    row = head.count("\n") + 2
    assert line.startswith(f"UsageError: line {row}: %triggers {command.split()[0]} needs await, which a plain `def`")
    assert line.endswith("move it out of send(), or write `async def send` and `await send(...)`")


def test_an_assignment_in_a_plain_function_is_one_line(kernel):
    line = told(kernel.run("def send(n):\n    o = %triggers fire inner.on_event {'n': n}\n    return o"))
    assert line.startswith("UsageError: line 2: %triggers fire needs await")


@pytest.mark.parametrize("around", ["class X:\n    ", "async def f():\n    class X:\n        "])
def test_in_a_class_body_it_is_one_line(kernel, around):
    line = told(kernel.run(f"{around}%triggers wait until idle"))
    assert line.endswith("%triggers wait needs await, which a class body forbids; move it out of X")


def test_in_the_method_of_a_saga_nothing_is_registered(kernel):
    refused = kernel.run("%%saga\n" + saga("fires") + "    def stop(self):\n        %triggers stop\n")
    line, nothing = refused.stderr.splitlines()
    assert "line 13: %triggers stop needs await" in line
    assert "move it out of stop()" in line
    assert nothing == "nothing registered"
    assert "fires" not in kernel.run("default_lab().sagas").text


@pytest.mark.parametrize("head", ["", "%%time\n"])
def test_in_an_async_function_it_waits_with_the_names_of_that_function(kernel, head):
    body = "    o = %triggers fire inner.on_event {'n': n} --id {name}-{n}\n    return o[0].event_id"
    assert kernel.run(f"{head}async def send(n, name='in'):\n{body}").ok
    assert kernel.run("print(await send(5))").stdout == "in-5\n"


def test_what_waits_for_nothing_stands_anywhere(kernel):
    assert kernel.run("def look():\n    %triggers pause inner.on_event\n    %triggers resume inner.on_event\nlook()").ok


@pytest.mark.parametrize("head", ["", "%%time\n"])
def test_a_cell_that_python_refuses_says_so(kernel, head):
    refused = kernel.run(f"{head}%triggers wait until idle --timeout 2\ndef f(:")
    assert "SyntaxError" in refused.error
    assert kernel.run("1 + 1").text == "2"


@pytest.mark.parametrize("end", [";", " ;", ";  # a note"])
def test_with_a_semicolon_a_command_is_carried_out_and_shows_nothing(kernel, end):
    for command, is_started in (("start", True), ("fire inner.on_event {}", True), ("stop", False)):
        result = kernel.run(f"%triggers {command}{end}")
        assert (result.ok, result.data, result.shown, result.stderr) == (True, {}, [], "")
        assert kernel.run("default_lab().status().started").text == str(is_started)


def test_a_cell_that_a_cell_runs_is_refused_there(kernel):
    line = told(kernel.run("get_ipython().run_cell('%triggers start')"))
    assert line.startswith("UsageError: %triggers start needs await, which nested cells")

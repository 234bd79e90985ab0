"""Displays of a background action are on its card, and `input()` in an action is an error; no cell has either."""

import time

import pytest

from tests.acceptance.kernel import LOAD, Kernel
from tests.acceptance.test_notebook_output import everything, run_id, when_idle

SHOWS = """
from IPython.display import HTML, display, clear_output
class Shows(Saga):
    saga_name = "shows"
    @trigger(source="memory", topic="shows")
    def on_event(self, event): return {}
    @action("coroutine")
    async def coroutine(self, ctx):
        display({"text/plain": "from the coroutine"}, raw=True)
    @action("thread", depends_on="coroutine")
    def thread(self, ctx):
        display(HTML("<b>from the thread</b>"))
        bar = display("0 %", display_id=True)
        bar.update("100 %")
"""
DRAWS = """
import asyncio
class Draws(Saga):
    saga_name = "draws"
    @trigger(source="memory", topic="draws")
    def on_event(self, event): return {}
    @action("draw")
    async def draw(self, ctx):
        import matplotlib.pyplot as plt
        figure, axes = plt.subplots(figsize=(1, 1))
        axes.plot([1, 2])
        while not drawn:
            await asyncio.sleep(0.01)
        axes.plot([2, 1])
"""
TWO = """
import time
shown, left = [0], []
class Two(Saga):
    saga_name = "two"
    @trigger(source="memory", topic="two")
    def on_event(self, event): return {}
    @action("leaves")
    def leaves(self, ctx):
        import matplotlib.pyplot as plt
        plt.figure(figsize=(1, 1)).suptitle("left open")
        left.append(1)
        while not shown[0]:
            time.sleep(0.01)
    @action("shows")
    def shows(self, ctx):
        import matplotlib.pyplot as plt
        while not begun:
            time.sleep(0.01)
        plt.plot([1, 2])
        plt.show()
        shown[0] = 1
    @action("after", depends_on=("leaves", "shows"))
    def after(self, ctx):
        import matplotlib.pyplot as plt
        assert not plt.get_fignums()
        plt.show()
"""
LISTENS = """
answers = []
class Listens(SagaListener):
    def on_saga_start(self, saga_name, run_id, ctx):
        try:
            answers.append(input("listener? "))
        except Exception as error:
            answers.append(str(error))
class AsksEarly(Saga):
    saga_name = "early"
    listeners = [Listens()]
    @trigger(source="memory", topic="early")
    def on_event(self, event):
        return {"name": input("name? ") if event.ask else ""}
    @trigger(source="memory", topic="awaits")
    async def on_await(self, event):
        return {"name": input("name? ")}
    @action("act")
    async def act(self, ctx): ...
"""
ASKS = """
import getpass
from sagaz_lab import Permanent
class Asks(Saga):
    saga_name = "asks"
    @trigger(source="memory", topic="asks")
    def on_event(self, event): return {"how": event.how}
    @action("ask")
    async def ask(self, ctx):
        return {"input": input, "getpass": getpass.getpass}[ctx["how"]]("name? ")
    @action("in_thread", depends_on="ask")
    def in_thread(self, ctx): ...
"""


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


def test_what_a_background_run_displays_is_on_its_card_and_in_no_cell(kernel):
    kernel.run(SHOWS)
    fired = kernel.run("%triggers fire shows.on_event {}")
    captured = kernel.run("%%capture\nimport time; time.sleep(0.2)")
    when_idle(kernel)
    assert "from the" not in str(fired.shown) + str(captured.shown) + everything(fired)
    card = kernel.run(f"default_lab().run('{run_id(kernel)}')").data
    for told in ("coroutine displayed", "from the coroutine", "from the thread", "100 %"):
        assert told in card["text/html"]
    assert "&#x27;0 %&#x27;" not in card["text/html"]
    assert "<b>from the thread" not in card["text/html"], "HTML has a frame of its own"
    assert "thread displayed text/plain, text/html" in card["text/plain"]


def test_what_a_run_that_a_cell_awaits_displays_is_in_that_cell(kernel):
    kernel.run(SHOWS)
    assert "from the coroutine" in str(kernel.run("await Shows().run({}); None").shown)


def test_a_figure_of_a_background_action_goes_to_its_run_and_the_cells_keep_their_own(kernel):
    kernel.run("drawn = False")
    kernel.run(DRAWS)
    shown = [kernel.run("%triggers fire draws.on_event {}")]
    shown += [kernel.run(f"{n}") for n in range(3)]
    shown += [kernel.run("drawn = True")]
    when_idle(kernel)
    card = kernel.run(f"default_lab().run('{run_id(kernel)}')")
    shown += [card, kernel.run("1")]
    assert "image/png" not in str([result.shown for result in shown])
    assert card.data["text/html"].count("data:image/png;base64,") == 1
    own = kernel.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); None")
    assert "image/png" in str(own.shown)


def test_actions_that_run_at_the_same_time_and_cells_show_and_close_their_own_figures_only(kernel):
    kernel.run("begun = False\nimport matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\nplt.close('all')")
    kernel.run(TWO)
    kernel.run("%triggers fire two.on_event {} --no-wait")
    kernel.run("import asyncio\nwhile not left: await asyncio.sleep(0.01)")
    own = kernel.run("plt.plot([3, 4])\nplt.show()\nplt.close('all')\nplt.get_fignums()")
    assert (str(own.shown).count("image/png"), own.text) == (1, "[]")
    kernel.run("begun = True")
    when_idle(kernel)
    shown = kernel.run(f"[one.action for one in default_lab().run('{run_id(kernel)}').displays]").text
    assert sorted(eval(shown)) == ["leaves", "shows"]


def test_a_figure_outlives_the_kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD)
        kernel.run("drawn = True")
        kernel.run(DRAWS)
        kernel.run("%triggers fire draws.on_event {}")
        when_idle(kernel)
        id = run_id(kernel)
        kernel.run("%triggers stop")
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD)
        assert "data:image/png" in kernel.run(f"default_lab().run('{id}')").data["text/html"]


@pytest.mark.parametrize("how", ["input", "getpass"])
def test_input_in_an_action_is_one_error_and_the_page_goes_on(kernel, how):
    kernel.run(ASKS)
    kernel.run(f'%triggers fire asks.on_event {{"how": "{how}"}}')
    asked = kernel.run("import time; time.sleep(0.3)")
    when_idle(kernel)
    assert asked.ok
    error = kernel.run("print(default_lab().runs().error[0])").stdout
    assert f"action 'ask' calls {how}(), but there may be no one to answer" in error
    assert "compensated" in kernel.run("print(default_lab().runs().status[0])").stdout


def test_input_in_a_run_that_a_cell_awaits_is_the_same_error(kernel):
    kernel.run(ASKS)
    begun = time.monotonic()
    result = kernel.run("await Asks().run({'how': 'input'})")
    assert not result.ok
    assert "calls input()" in str(result.error)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("trigger", ["on_event", "on_await"])
def test_input_in_a_trigger_method_is_a_dead_letter_and_the_page_goes_on(kernel, trigger):
    kernel.run(LISTENS)
    dead = kernel.run(f'%triggers fire early.{trigger} {{"ask": 1}}')
    assert f"AsksEarly.{trigger} calls input(), but there may be no one to answer" in dead.text
    later = "import asyncio\nasyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future("
    kernel.run(f"{later}default_lab().fire('early.{trigger}', {{'ask': 1}})))")
    kernel.run("await asyncio.sleep(1)")
    assert kernel.run("len(default_lab().dead_letters())").text == "2"


def test_input_in_a_listener_is_an_error_too(kernel):
    kernel.run(LISTENS)
    kernel.run('%triggers fire early.on_event {"ask": 0}')
    when_idle(kernel)
    assert "Listens.on_saga_start calls input(), but there may be no one to answer" in kernel.run("answers").text


def test_all_is_given_back(kernel):
    kernel.run("import builtins, getpass, IPython, sys\nwas = (builtins.input, getpass.getpass)")
    kernel.run("%unload_ext sagaz_lab")
    facts = (
        "'publish' in vars(get_ipython().display_pub), 'raw_input' in vars(get_ipython().kernel), "
        "'sagaz_lab' in IPython.core.display_functions.publish_display_data.__class__.__module__, "
        "[f for f in sys.meta_path if 'sagaz' in type(f).__module__]"
    )
    assert kernel.run(facts).text == "(False, False, False, [])"

"""A page that shows a dashboard, as the kernel sees it: it opens a view, listens and sends orders."""

import json
import time
from typing import Any

import numpy as np

from tests.acceptance.kernel import Kernel


class Page:
    """`model_id` is what the cell's result names. News are what the kernel has sent, oldest first."""

    def __init__(self, kernel: Kernel, model_id: str, view: str = "a view") -> None:
        self._client = kernel.client
        self._comm = model_id
        self._view = view
        self._orders = 0
        self.news: list[dict[str, Any]] = []
        self.all: list[float] = []
        """When anything came for any widget."""

    def send(self, cmd: str, **content: Any) -> None:
        data = {"method": "custom", "content": {"cmd": cmd, "view": self._view, **content}}
        session = self._client.session
        self._client.shell_channel.send(session.msg("comm_msg", {"comm_id": self._comm, "data": data}))

    def listen(self, for_s: float) -> list[dict[str, Any]]:
        """What comes within this time."""
        begun, until = len(self.news), time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0:
            self._receive(left)
        return self.news[begun:]

    def hear(self, kind: str, timeout_s: float = 20.0, **facts: Any) -> dict[str, Any]:
        """The next news of this kind with these facts."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            news = self._receive(left)
            if news and news["kind"] == kind and all(news.get(name) == fact for name, fact in facts.items()):
                return news
        raise TimeoutError(f"no {kind} with {facts}; the last: {json.dumps(self.news[-1:])[:500]}")

    def order(self, cmd: str, **content: Any) -> dict[str, Any]:
        """Have it done; returns the reply."""
        self._orders += 1
        self.send(cmd, id=self._orders, **content)
        return self.hear("reply", view=self._view, id=self._orders)

    def trigger(self, name: str) -> dict[str, Any]:
        """As the next tick has it."""
        news = self.hear("tick")
        (found,) = [trigger for trigger in news["triggers"] if trigger["name"] == name]
        return dict(found)

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        from queue import Empty

        try:
            got = self._client.get_iopub_msg(timeout=timeout_s)
        except Empty:
            return None
        if got["msg_type"] not in ("comm_msg", "comm_open"):
            return None
        self.all.append(time.monotonic())
        data = got["content"]["data"]
        if got["content"]["comm_id"] != self._comm or data.get("method") != "custom":
            return None
        news: dict[str, Any] = data["content"]
        news["numbers"] = np.frombuffer(b"".join(map(bytes, got["buffers"])), "<f4")
        self.news.append(news)
        return news

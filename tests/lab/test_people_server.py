"""The command as people run it: killed, restarted, started twice."""

import threading
import time
import urllib.error

import pytest

from fl_privacy_audit.lab.people import Store
from tests.lab.conftest import MakeCorpus
from tests.support.annotate_server import start
from tests.support.people_page import count, hidden

pytestmark = pytest.mark.slow


def test_killed_and_restarted_it_has_lost_nothing(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(40)
    store = Store(corpus.directory / "annotations.sqlite")
    server = start(corpus.directory, "--repeat", "0")
    token = store.token()
    address, page = server.post("/join", token=token, name="ann")
    confirmed: list[tuple[int, int]] = []

    def answer() -> None:
        """Answer as fast as can be until the server is gone."""
        now = page
        try:
            while True:
                task, value = hidden(now, "task"), len(confirmed) % 4
                now = server.post(f"{address}/answer", token=token, task=task, value=value)[1]
                confirmed.append((task, value))
        except (OSError, urllib.error.URLError, ValueError):
            return

    thread = threading.Thread(target=answer)
    thread.start()
    while len(confirmed) < 7:
        time.sleep(0.01)
    server.kill()
    thread.join()

    kept = [(task.id, task.value) for task in store.tasks(store.annotators()[0])]
    given = [row for row in kept if row[1] is not None]
    assert given[: len(confirmed)] == confirmed
    assert len(given) <= len(confirmed) + 1  # the one that was on its way may be kept as well
    again = start(corpus.directory, port=server.port)
    try:
        # The open page goes on, with its old form.
        assert count(again.get(address)) == f"{len(given) + 1} of 120"
        _, now = again.post(
            f"{address}/answer", token=token, task=hidden(again.get(address), "task"), value=3
        )
        assert count(now) == f"{len(given) + 2} of 120"
    finally:
        again.kill()


def test_it_says_what_is_left_out_where_it_listens_and_whom_it_lets_in(
    make_corpus: MakeCorpus,
) -> None:
    corpus = make_corpus(1)
    (corpus.directory / corpus.pairs[1].reconstruction).unlink()
    server = start(corpus.directory, "--host", "0.0.0.0")
    try:
        assert "1 of 3 pictures are left out:" in server.said
        assert f"{corpus.pairs[1].reconstruction} is missing" in server.said
        assert "Warning: --host 0.0.0.0 lets everyone" in server.said
        assert "Your name" in server.get("/")
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1, port {server.port}: "):
            start(corpus.directory, port=server.port)
    finally:
        server.kill()

"""The command as people run it: killed, restarted, started twice."""

import os
import socket
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fl_privacy_audit.lab.people import Store
from tests.lab.conftest import MakeCorpus, write_corpus
from tests.support.annotate_server import Server, start
from tests.support.people_page import count, hidden

PATIENCE = 60
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


def test_half_open_connections_take_no_threads_and_end(make_corpus: MakeCorpus) -> None:
    server = start(make_corpus(1).directory)
    head = b"POST /join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
    with ExitStack() as opened:
        opened.callback(server.kill)
        before = threads(server)
        slow = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(400)
        ]
        for connection in slow[::2]:
            connection.sendall(head)
        assert "Your name" in server.get("/")
        assert threads(server) == before
        assert ended(slow[0])


def threads(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def ended(connection: socket.socket) -> bool:
    """Whether the other side closes it, although a byte arrives now and then."""
    connection.settimeout(0.5)
    for _ in range(2 * PATIENCE):
        try:
            connection.sendall(b"a")
            return connection.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


LINE = b"POST /join HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(write_corpus(tmp_path_factory.mktemp("corpus"), 1).directory)
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (LINE + b"X: 1\r\n" * 2000 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (LINE + b"Content-Length: 99999999\r\n\r\n", b"413"),
        (LINE + b"Transfer-Encoding: chunked\r\n\r\n20000\r\n" + b"a" * 0x20000, b"413"),
        (LINE + b"Content-Length: 1e3\r\n\r\n", b"400"),
        (b"nothing\r\n\r\n", b"400"),
    ],
    ids=["headers", "address", "length", "chunks", "number", "words"],
)
def test_what_is_no_request_of_a_page_is_refused(
    served: Server, sent: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        reply = connection.recv(4096)
    assert reply.startswith(b"HTTP/1.") and reply.split()[1] == status
    assert b"\r\nserver:" not in reply.lower()


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

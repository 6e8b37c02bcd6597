import re
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fl_privacy_audit.lab import people
from fl_privacy_audit.lab.manifest import Corpus
from fl_privacy_audit.lab.people import Service, Store, create_app
from fl_privacy_audit.lab.people.command import prepare
from fl_privacy_audit.lab.people.guard import allows
from tests.lab.conftest import MakeCorpus
from tests.support.people_page import count, hidden, locked


class Page:
    """One annotator's browser, without the script."""

    def __init__(self, client: FlaskClient, token: str) -> None:
        self.client = client
        self.token = token
        self.address = ""

    def post(self, address: str, **data: object) -> str:
        reply = self.client.post(address, data={"token": self.token, **data})
        assert reply.status_code in (200, 303), reply.text
        if reply.status_code == 303:
            return self.get(reply.location)
        return reply.text

    def get(self, address: str) -> str:
        reply = self.client.get(address)
        assert reply.status_code == 200, reply.text
        return reply.text

    def join(self, name: str) -> str:
        reply = self.client.post("/join", data={"token": self.token, "name": name, "same": "yes"})
        assert reply.status_code == 303, reply.text
        self.address = reply.location
        return self.get(self.address)

    def answer(self, value: int) -> str:
        return self.post(f"{self.address}/answer", task=hidden(self.now, "task"), value=value)

    def undo(self) -> str:
        return self.post(f"{self.address}/undo", event=hidden(self.now, "event"))

    @property
    def now(self) -> str:
        return self.get(self.address)


def begin(corpus: Corpus, **settings: object) -> tuple[Store, FlaskClient]:
    store = Store(corpus.directory / "annotations.sqlite")
    items, problems = prepare(corpus, store, settings)
    assert problems == []
    return store, create_app(Service.of(corpus, store, items)).test_client()


def test_a_collection_from_the_first_page_to_the_last(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus(2), repeat=0.5, beside=True)
    page = Page(client, store.token())
    assert "Your name, or a nickname" in page.get("/")
    now = page.join("Ann")
    assert count(now) == "Part 1 of 2: 1 of 9"  # six pictures, three of them twice
    assert "dog &lt;b&gt;" in now and "dog <b>" not in now
    assert "lawn mower" in now
    for _ in range(9):
        assert "Can you recognise" not in page.now
        now = page.answer(-1)
    assert count(now) == "Part 2 of 2: 1 of 6"
    for _ in range(6):
        now = page.answer(1)
    assert "Thank you, Ann!" in now
    assert "All 15 answers are kept" in now
    assert count(page.undo()) == "Part 2 of 2: 6 of 6"


def test_two_annotators_at_once_do_not_mix(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    store, client = begin(corpus, repeat=0)
    ann, bob = Page(client, store.token()), Page(client, store.token())
    ann.join("ann")
    bob.join("bob")
    for _ in corpus.pairs:
        ann.answer(0)
        bob.answer(1)
    values: dict[str, set[int]] = {"ann": set(), "bob": set()}
    for row in store.log():
        values[row["annotator"]].add(row["value"])
    assert values == {"ann": {0}, "bob": {1}}
    orders = [[task.key for task in store.tasks(who)] for who in store.annotators()]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    # Bob's form sent to Ann's address is refused.
    task = store.tasks(store.annotators()[1])[0].id
    reply = client.post(
        f"{ann.address}/answer", data={"token": store.token(), "task": task, "value": 0}
    )
    assert reply.status_code == 400


def test_a_form_sent_twice_counts_once(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus())
    page = Page(client, store.token())
    task = hidden(page.join("ann"), "task")
    for value, note in ((2, False), (2, False), (1, True)):
        now = page.post(f"{page.address}/answer", task=task, value=value)
        assert ("had an answer already" in now) is note
    assert [row["value"] for row in store.log()] == [2]


def test_undo_goes_back_and_stops_where_an_original_was_shown(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus(1), repeat=0, beside=True)
    page = Page(client, store.token())
    first = page.join("ann")
    assert "Take back" not in first
    page.answer(0)
    page.answer(1)
    page.undo()
    assert hidden(page.undo(), "task") == hidden(first, "task")
    for _ in range(3):
        page.answer(2)
    assert "Part 2" in page.now and "Take back" not in page.now
    event = store.tasks(store.annotators()[0])[2].event
    page.post(f"{page.address}/undo", event=event)
    assert "Part 2" in page.now
    page.answer(1)
    assert "Take back" in page.now


def test_originals_are_not_shown_before_their_time(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus(1), repeat=0, beside=True)
    page = Page(client, store.token())
    page.join("ann")
    tasks = store.tasks(store.annotators()[0])
    blind, beside = tasks[0], tasks[-1]
    assert client.get(f"{page.address}/{blind.id}/reconstruction.png").status_code == 200
    for task in (blind, beside):
        assert client.get(f"{page.address}/{task.id}/original.png").status_code == 404
    early = client.post(
        f"{page.address}/answer", data={"token": store.token(), "task": beside.id, "value": 1}
    )
    assert early.status_code == 400
    for _ in range(3):
        page.answer(0)
    assert client.get(f"{page.address}/{beside.id}/original.png").status_code == 200
    assert client.get(f"{page.address}/{blind.id}/original.png").status_code == 404


def test_a_page_gives_nothing_away(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(1)
    pair = corpus.pairs[0]
    notes = PngInfo()
    notes.add_text("label", "cat")
    path = corpus.directory / pair.reconstruction
    pixels = np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path, pnginfo=notes)
    store, client = begin(corpus, repeat=0)
    page = Page(client, store.token())
    for text in [page.join("ann"), *(page.answer(-1) for _ in range(2))]:
        for name in (pair.architecture, "lenet", "originals", "reconstructions/", "tiny"):
            assert name not in text
    (task,) = [t for t in store.tasks(store.annotators()[0]) if t.key == pair.key]
    reply = client.get(f"{page.address}/{task.id}/reconstruction.png")
    (path.parent / "served.png").write_bytes(reply.data)
    with Image.open(path.parent / "served.png") as served:
        assert served.info == {}
        assert np.array_equal(np.asarray(served), pixels)


def test_a_known_name_is_asked_who_they_are(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus())
    page = Page(client, store.token())
    page.join("Ann")
    page.answer(0)
    assert "Somebody of that name has begun here and has given 1 answer." in page.post(
        "/join", name="ann"
    )
    assert len(store.annotators()) == 1
    assert count(Page(client, store.token()).join("ANN")).startswith("2 of")


def test_names_are_escaped(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus(), question="<i>What?</i>")
    page = Page(client, store.token())
    now = page.join("<script>alert(1)</script>")
    assert "<script>alert" not in now and "&lt;script&gt;alert(1)" in now
    assert "<i>" not in now and "&lt;i&gt;What?" in now
    assert "<script>alert" not in page.post("/join", name="<script>alert(1)</script>")


@pytest.mark.parametrize("value", ["9", "-2", "cat", ""])
def test_values_that_are_no_answer_are_refused(make_corpus: MakeCorpus, value: str) -> None:
    store, client = begin(make_corpus())
    page = Page(client, store.token())
    task = hidden(page.join("ann"), "task")
    form = {"token": store.token(), "task": task, "value": value}
    reply = client.post(f"{page.address}/answer", data=form)
    assert reply.status_code == 400
    assert "Load the page again" in reply.text
    assert store.log() == []


def test_only_the_candidates_are_offered_and_taken(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus(2, classes=30), candidates=3, repeat=0)
    page = Page(client, store.token())
    page.join("ann")
    offered = [int(v) for v in re.findall(r'name="value" value="(-?\d+)"', page.now)]
    assert len(offered) == 4 and -1 in offered
    assert 'data-key="3"' in page.now and 'id="filter"' not in page.now
    other = next(index for index in range(30) if index not in offered)
    form = {"token": store.token(), "task": hidden(page.now, "task"), "value": other}
    assert client.post(f"{page.address}/answer", data=form).status_code == 400


def test_many_classes_are_typed(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus(classes=30))
    now = Page(client, store.token()).join("ann")
    assert 'id="filter"' in now and 'data-mode="type"' in now
    assert now.count('name="value"') == 31


@pytest.mark.parametrize(
    ("headers", "token", "message"),
    [
        ({"Host": "evil.example"}, True, "This address is not served here"),
        ({"Host": "evil.example:8765"}, True, "This address is not served here"),
        ({"Origin": "http://evil.example"}, True, "came from another site"),
        ({"Origin": "null"}, True, "came from another site"),
        ({"Origin": "http://localhost:1"}, True, "came from another site"),
        ({}, False, "This form is not of this server"),
    ],
)
def test_foreign_requests_are_refused(
    make_corpus: MakeCorpus, headers: dict[str, str], token: bool, message: str
) -> None:
    store, client = begin(make_corpus())
    form = {"name": "ann", "token": store.token() if token else "é"}
    reply = client.post("/join", data=form, headers=headers)
    assert reply.status_code == 403
    assert message in reply.text
    assert store.annotators() == []


def test_a_foreign_host_reads_nothing_either(make_corpus: MakeCorpus) -> None:
    _, client = begin(make_corpus())
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    for host in ("localhost:9000", "127.0.0.1", "[::1]:80"):
        assert client.get("/", headers={"Host": host}).status_code == 200


def test_on_the_open_network_addresses_are_ours_and_names_are_not() -> None:
    known = allows("0.0.0.0")
    assert known("192.168.1.7") and known("localhost")
    assert not known("evil.example")
    assert not allows("127.0.0.1")("192.168.1.7")


@pytest.mark.parametrize("address", ["/", "/judge/nobody", "/static/annotate.js", "/nothing"])
def test_headers_keep_pages_out_of_caches_frames_and_other_sites(
    make_corpus: MakeCorpus, address: str
) -> None:
    _, client = begin(make_corpus())
    with client.get(address) as reply:
        headers = reply.headers
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    for name in ("Opener", "Resource"):
        assert headers[f"Cross-Origin-{name}-Policy"] == "same-origin"
    assert "Server" not in headers and "Access-Control-Allow-Origin" not in headers


def test_a_locked_file_of_answers_keeps_what_was_sent(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_privacy_audit.lab.people.store.BUSY_SECONDS", 0.01)
    store, client = begin(make_corpus())
    page = Page(client, store.token())
    task = hidden(page.join("ann"), "task")
    form = {"token": store.token(), "task": task, "value": 2}
    with locked(store.path):
        reply = client.post(f"{page.address}/answer", data=form)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "2")
    assert "It is kept on this page." in reply.text and str(store.path) not in reply.text
    kept = dict(re.findall(r'<input type="hidden" name="(\w+)" value="(.*?)">', reply.text))
    assert kept == {name: str(value) for name, value in form.items()}
    assert store.log() == []
    page.post(f"{page.address}/answer", **kept)
    assert [row["value"] for row in store.log()] == [2]


def test_a_page_without_its_file_of_answers_tries_again(make_corpus: MakeCorpus) -> None:
    store, client = begin(make_corpus())
    page = Page(client, store.token())
    page.join("ann")
    away = store.path.rename(store.path.with_name("away"))
    reply = client.get(page.address)
    assert reply.status_code == 503 and '<meta http-equiv="refresh" content="2">' in reply.text
    away.rename(store.path)
    assert count(page.now) == "1 of 13"


@pytest.mark.parametrize("path", ["../secret.png", "..%5csecret.png", "%2e%2e/secret.png"])
def test_no_other_file_is_served(make_corpus: MakeCorpus, path: str) -> None:
    store, client = begin(make_corpus())
    page = Page(client, store.token())
    page.join("ann")
    assert client.get(f"{page.address}/{path}").status_code == 404
    assert client.get(f"/static/{path}").status_code == 404
    assert client.get(f"{page.address}/999/reconstruction.png").status_code == 404
    assert client.get("/judge/nobody").status_code == 404


def test_a_picture_that_goes_bad_is_left_out_and_named(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = make_corpus(1)
    store, client = begin(corpus, repeat=0)
    page = Page(client, store.token())
    assert count(page.join("ann")) == "1 of 3"
    key = store.tasks(store.annotators()[0])[0].key
    (pair,) = [pair for pair in corpus.pairs if pair.key == key]
    (corpus.directory / pair.reconstruction).write_bytes(b"no picture")
    assert count(page.now) == "1 of 2"
    assert f"left out: {key}: the picture" in caplog.text


def test_new_pictures_come_after_the_old_ones(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    store = Store(corpus.directory / "annotations.sqlite")
    items, _ = prepare(corpus, store, {"repeat": 0.0})
    few = dict(list(items.items())[:5])
    page = Page(create_app(Service.of(corpus, store, few)).test_client(), store.token())
    page.join("ann")
    page.answer(0)
    before = [task.key for task in store.tasks(store.annotators()[0])]
    page.client = create_app(Service.of(corpus, store, items)).test_client()
    assert count(page.join("ann")) == "2 of 12"
    after = [task.key for task in store.tasks(store.annotators()[0])]
    assert after[:5] == before and len(set(after)) == 12


def test_static_files_are_packed() -> None:
    folder = Path(people.__file__).parent
    assert {path.suffix for path in (folder / "static").iterdir()} == {".css", ".js"}
    for path in [*(folder / "static").iterdir(), *(folder / "templates").iterdir()]:
        assert "://" not in path.read_text(encoding="utf-8")  # nothing from the network

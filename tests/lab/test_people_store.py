import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.people import Settings, Store
from fl_privacy_audit.lab.people.plan import Step, plan
from fl_privacy_audit.lab.people.store import StoreError
from tests.support.people_page import locked

KEYS = ["a", "b", "c"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "answers.sqlite")
    store.create(Settings(seed=3, beside=True, question="Who?"))
    return store


def steps(name: str) -> list[Step]:
    return plan(KEYS, Settings(repeat=0), annotator=name)


def test_a_new_file_is_its_owners_and_keeps_the_settings(store: Store) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert store.settings() == Settings(seed=3, beside=True, question="Who?")
    assert len(store.token()) > 20
    assert [path.name for path in store.path.parent.iterdir()] == ["answers.sqlite"]


def test_a_file_is_never_made_over_another(store: Store) -> None:
    before = store.token()
    with pytest.raises(ConfigError, match="the answers cannot be kept in"):
        store.create(Settings())
    assert store.token() == before


def test_undone_answers_stay_in_the_log(store: Store) -> None:
    ann = store.join("ann", steps("ann"))
    task = store.tasks(ann)[0]
    assert store.answer(ann, task.id, 2, milliseconds=900)
    assert not store.answer(ann, task.id, 1)
    event = store.tasks(ann)[0].event
    assert event is not None
    assert store.undo(ann, event)
    assert not store.undo(ann, event)
    assert store.tasks(ann)[0].value is None
    assert store.answer(ann, task.id, -1)
    assert [(row["kind"], row["value"], row["milliseconds"]) for row in store.log()] == [
        ("answer", 2, 900),
        ("undo", None, None),
        ("answer", -1, None),
    ]


def test_nobody_answers_or_undoes_for_another(store: Store) -> None:
    ann, bob = store.join("ann", steps("ann")), store.join("bob", steps("bob"))
    task = store.tasks(ann)[0]
    assert not store.answer(bob, task.id, 0)
    assert store.answer(ann, task.id, 0)
    event = store.tasks(ann)[0].event
    assert event is not None
    assert not store.undo(bob, event)
    assert [task.value for task in store.tasks(bob)] == [None] * 3


def test_a_name_is_the_same_in_any_case_and_spacing(store: Store) -> None:
    ann = store.join("Ann  Lee", steps("Ann Lee"))
    assert ann.name == "Ann Lee"
    assert store.join(" ann lee ", []) == ann
    assert store.find(name="ANN LEE") == ann
    assert store.find(name="") is None
    with pytest.raises(ConfigError, match="A name must be 1 to 60 printable characters"):
        store.join("\x07", [])


def test_one_question_answered_from_many_threads_is_answered_once(store: Store) -> None:
    ann = store.join("ann", steps("ann"))
    task = store.tasks(ann)[0]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda value: store.answer(ann, task.id, value), range(8)))
    assert taken.count(True) == 1
    assert len(store.log()) == 1
    assert store.tasks(ann)[0].value == taken.index(True)


def test_each_answer_is_synced_to_the_disk(store: Store) -> None:
    with store._writing() as db:
        assert tuple(db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
        assert tuple(db.execute("PRAGMA synchronous").fetchone()) == (2,)  # FULL


def test_files_that_are_no_answers_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there are no answers in .*no.sqlite yet"):
        Store(tmp_path / "no.sqlite").log()
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 30)
    with pytest.raises(StoreError, match="text is no file of answers"):
        Store(tmp_path / "text").settings()
    with sqlite3.connect(tmp_path / "old") as db:
        db.execute("CREATE TABLE meta (name, value)")
        db.execute("INSERT INTO meta VALUES ('version', '9')")
    db.close()
    with pytest.raises(StoreError, match="has layout 9, but this package reads 1"):
        Store(tmp_path / "old").settings()


def test_a_locked_file_is_said_to_be_locked_and_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_privacy_audit.lab.people.store.BUSY_SECONDS", 0.01)
    ann = store.join("ann", steps("ann"))
    task = store.tasks(ann)[0]
    with locked(store.path), pytest.raises(StoreError, match="locked by another program"):
        store.answer(ann, task.id, 2)
    assert store.answer(ann, task.id, 2)


def test_a_full_disk_takes_no_answer_and_harms_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = store.join("ann", steps("ann"))
    first, second, _ = store.tasks(ann)
    assert store.answer(ann, first.id, 2)
    connect = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*args, **options)
        db.execute("PRAGMA max_page_count = 1")  # no more than there is
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(StoreError, match="can neither be read nor written"):
        for number in range(10_000):
            store.join(f"somebody {number}", steps("x"))
    monkeypatch.undo()
    assert store.answer(ann, second.id, 1)
    assert [task.value for task in store.tasks(ann)] == [2, 1, None]

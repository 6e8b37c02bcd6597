"""Answers in SQLite: one file, only ever added to, each answer on the disk before the reply.

An undone answer stays in the table `event`; an ``undo`` after it says that it no longer counts.
Every call opens the file for itself, so threads and a second server share nothing but the file.
"""

import os
import secrets
import sqlite3
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fl_privacy_audit.core.errors import AuditError, ConfigError

from .plan import Settings, Stage, Step

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE picture (key TEXT PRIMARY KEY, digest TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE annotator (
    id INTEGER PRIMARY KEY, ticket TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    folded TEXT NOT NULL UNIQUE, joined TEXT NOT NULL
) STRICT;
CREATE TABLE task (
    id INTEGER PRIMARY KEY, annotator INTEGER NOT NULL REFERENCES annotator,
    stage TEXT NOT NULL CHECK (stage IN ('name', 'beside')), key TEXT NOT NULL,
    visit INTEGER NOT NULL, UNIQUE (annotator, stage, key, visit)
) STRICT;
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT, task INTEGER NOT NULL REFERENCES task,
    kind TEXT NOT NULL CHECK (kind IN ('answer', 'undo')), value INTEGER,
    milliseconds INTEGER, time TEXT NOT NULL
) STRICT;
CREATE INDEX event_of_task ON event (task);
CREATE VIEW standing AS SELECT * FROM event AS e WHERE kind = 'answer'
    AND id = (SELECT max(id) FROM event WHERE task = e.task);
"""
VERSION = 1
LONGEST_NAME = 60
BUSY_SECONDS = 3.0
"""So long is waited for another program that has locked the file."""


class StoreError(AuditError):
    """The answers cannot be read or written, for the moment or at all; none of them is harmed."""


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Someone who judges, under the name that they typed the first time.

    `ticket` stands in the address of their page: random, so that nobody's is opened by counting.
    """

    id: int
    ticket: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A question to one annotator, and the answer that stands."""

    id: int  # row
    key: str  # of the pair
    stage: Stage  # name its class, or judge it beside the original
    visit: int  # 1, or 2 for a repeat
    event: int | None  # row of the standing answer; None while it is open
    value: int | None  # class or -1; 1 or 0 for yes or no; None while it is open
    time: str | None  # when it was given, ISO 8601, UTC


class Store:
    """The answers about one corpus, in the file `path`.

    Raises:
        StoreError: By all methods: there is no file, it is locked, or it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether anybody could have answered yet."""
        return self.path.is_file()

    def create(self, settings: Settings) -> None:
        """Make the file, readable by its owner only.

        Raises:
            ConfigError: It cannot be made.
        """
        draft = self.path.with_name(f".{self.path.name}.draft")
        facts = asdict(settings) | {"version": VERSION, "token": secrets.token_urlsafe(16)}
        try:
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            with closing(sqlite3.connect(draft)) as db, db:
                db.executescript(SCHEMA)
                rows = [(name, str(value)) for name, value in facts.items()]
                db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            os.link(draft, self.path)  # whole or not at all, and never over older answers
            draft.unlink()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the answers cannot be kept in {self.path} ({error}); give another --database"
            ) from error

    def settings(self) -> Settings:
        """What the file was begun with.

        Raises:
            StoreError: It is no file of answers, or of another version.
        """
        facts = self._facts()
        known = {field.name: facts[field.name] for field in fields(Settings)}
        return TypeAdapter(Settings).validate_python(known)  # all are kept as text

    def token(self) -> str:
        """A secret of this file that every form carries; an open page outlives a restart."""
        return self._facts()["token"]

    def digests(self) -> dict[str, str]:
        """Digests of the pictures that were ever served, by key."""
        with self._opened() as db:
            return dict(db.execute("SELECT key, digest FROM picture"))

    def remember(self, digests: Mapping[str, str]) -> None:
        """Note which bytes belong to which key; the first note stays."""
        with self._writing() as db:
            db.executemany("INSERT OR IGNORE INTO picture VALUES (?, ?)", digests.items())

    def annotators(self) -> list[Annotator]:
        """Everyone who joined, in that order."""
        with self._opened() as db:
            rows = db.execute("SELECT id, ticket, name FROM annotator ORDER BY id")
            return [Annotator(**row) for row in rows]

    def find(self, *, name: str = "", ticket: str = "") -> Annotator | None:
        """By name, whatever the case, or by ticket."""
        for annotator in self.annotators():
            if annotator.ticket == ticket or (name and _folded(annotator.name) == _folded(name)):
                return annotator
        return None

    def join(self, name: str, steps: Sequence[Step]) -> Annotator:
        """Let someone in, or back in; steps that are new to them come after the old ones.

        Raises:
            ConfigError: The name is empty, too long, or not printable.
        """
        name = tidy_name(name)
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO annotator (ticket, name, folded, joined) VALUES (?, ?, ?, ?)",
                (secrets.token_urlsafe(9), name, _folded(name), now()),
            )
            db.executemany(
                "INSERT OR IGNORE INTO task (annotator, stage, key, visit) "
                "SELECT id, ?, ?, ? FROM annotator WHERE folded = ?",
                [(step.stage, step.key, step.visit, _folded(name)) for step in steps],
            )
        found = self.find(name=name)
        assert found is not None
        return found

    def tasks(self, annotator: Annotator) -> list[Task]:
        """All questions of one annotator in the order of asking: naming first."""
        with self._opened() as db:
            rows = db.execute(
                "SELECT t.id, t.key, t.stage, t.visit, s.id AS event, s.value, s.time "
                "FROM task AS t LEFT JOIN standing AS s ON s.task = t.id WHERE t.annotator = ? "
                "ORDER BY t.stage = 'beside', t.id",
                (annotator.id,),
            )
            return [Task(**row) for row in rows]

    def answer(
        self, annotator: Annotator, task: int, value: int, *, milliseconds: int | None = None
    ) -> bool:
        """Write an answer to the disk; False if the question was not open for this annotator."""
        with self._writing() as db:
            done = db.execute(
                "INSERT INTO event (task, kind, value, milliseconds, time) "
                "SELECT t.id, 'answer', ?, ?, ? FROM task AS t WHERE t.id = ? AND t.annotator = ? "
                "AND NOT EXISTS (SELECT 1 FROM standing WHERE task = t.id)",
                (value, milliseconds, now(), task, annotator.id),
            )
            return done.rowcount == 1

    def undo(self, annotator: Annotator, event: int) -> bool:
        """Take back an answer that stands; False if it does not stand, or is someone else's."""
        with self._writing() as db:
            done = db.execute(
                "INSERT INTO event (task, kind, time) SELECT s.task, 'undo', ? "
                "FROM standing AS s JOIN task AS t ON t.id = s.task "
                "WHERE s.id = ? AND t.annotator = ?",
                (now(), event, annotator.id),
            )
            return done.rowcount == 1

    def log(self) -> list[dict[str, Any]]:
        """Everything that was ever answered or undone, in order."""
        with self._opened() as db:
            rows = db.execute(
                "SELECT e.id AS event, a.name AS annotator, t.key, t.stage, t.visit, e.kind, "
                "e.value, e.milliseconds, e.time FROM event AS e JOIN task AS t ON t.id = e.task "
                "JOIN annotator AS a ON a.id = t.annotator ORDER BY e.id"
            )
            return [dict(row) for row in rows]

    def _facts(self) -> dict[str, str]:
        with self._opened() as db:
            facts = dict(db.execute("SELECT name, value FROM meta"))
        if facts.get("version") != str(VERSION):
            raise StoreError(
                f"{self.path} has layout {facts.get('version')}, but this package reads {VERSION}"
            )
        return facts

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self.exists():
            raise StoreError(f"there are no answers in {self.path} yet; serve the corpus first")
        try:
            # isolation_level=None: transactions are begun by hand.
            with closing(
                sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            ) as db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA foreign_keys = ON")
                yield db
        except sqlite3.Error as error:
            raise StoreError(_why(self.path, error)) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # a commit returns once it is on the disk
            with db:
                db.execute("BEGIN IMMEDIATE")
                yield db


def tidy_name(name: str) -> str:
    """A name as it is kept: composed letters, single spaces.

    Raises:
        ConfigError: Empty, too long, or not printable.

    >>> tidy_name("  Ann   Lee ")
    'Ann Lee'
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"A name must be 1 to {LONGEST_NAME} printable characters.")
    return name


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _why(path: Path, error: sqlite3.Error) -> str:
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"the answers in {path} are locked by another program; close it, or wait for it"
    if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return f"{path} is no file of answers ({error}); give another --database"
    return f"the answers in {path} can neither be read nor written ({error})"


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())

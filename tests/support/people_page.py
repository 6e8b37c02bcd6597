"""What a page of the annotators says, read without a browser, and its answers under lock."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


def hidden(page: str, name: str) -> int:
    (value,) = re.findall(rf'name="{name}" value="(\d+)"', page)
    return int(value)


def count(page: str) -> str:
    (text,) = re.findall(r'<span class="count">(.*?)</span>', page, flags=re.DOTALL)
    return " ".join(text.split())


@contextmanager
def locked(answers: Path) -> Iterator[None]:
    """As while another program writes to the file, or copies it."""
    with closing(sqlite3.connect(answers, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield

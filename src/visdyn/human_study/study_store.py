"""Annotators and their answers in one SQLite file, safe under several annotators, double clicks and a kill."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

BUSY_SECONDS = 30
MAX_ANNOTATORS = 2000  # who consented; a stranger with a script could else fill the disk, and the results

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS annotators (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    token_hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    consented_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (
    annotator INTEGER NOT NULL REFERENCES annotators (number),
    task TEXT NOT NULL,
    criterion TEXT NOT NULL,
    shown TEXT NOT NULL,
    best TEXT NOT NULL,
    worst TEXT NOT NULL,
    revision INTEGER NOT NULL,
    answered_at TEXT NOT NULL,
    PRIMARY KEY (annotator, task, criterion)
);
"""

# A submission names the revision it saw. A page sent twice names one that is no longer the last, and changes nothing.
_RECORD = """
INSERT INTO answers VALUES (:annotator, :task, :criterion, :shown, :best, :worst, 1, :now)
ON CONFLICT (annotator, task, criterion) DO UPDATE
SET best = :best, worst = :worst, revision = revision + 1, answered_at = :now
WHERE revision = :seen AND (best <> :best OR worst <> :worst)
"""

_WHO = "SELECT number, name FROM annotators WHERE token_hash = ?"


class StoreError(ValueError):
    """The file of answers does not fit the study, or is none; the message says what to do."""


class FullError(RuntimeError):
    """The study has as many annotators as it takes."""


@dataclass(frozen=True)
class Choice:
    """An answer: the systems chosen as best and worst, both empty where there is no preference."""

    best: str
    worst: str


@dataclass(frozen=True)
class Answer:
    """A stored answer; `revision` counts how often it was given and changed."""

    annotator: int
    task: str
    criterion: str
    shown: tuple[str, ...]
    choice: Choice
    revision: int
    answered_at: str


@dataclass(frozen=True)
class Annotator:
    """One who consented; `number` (1, 2, ...) stands for them in the results, `name` is what they call themselves."""

    number: int
    name: str


class Store:
    """The file of answers to one study. Every call has its own connection, so threads may share a `Store`."""

    def __init__(self, path: str | Path, fingerprint: str) -> None:
        """Open or create the file at `path`.

        Args:
            path: of the SQLite file; its folder is made.
            fingerprint: `Study.fingerprint`.

        Raises:
            StoreError: the file is no database, or holds answers to another study.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _make_private(self.path)
        try:
            with closing(self._open_connection()) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} is no file of answers ({error}); name another file") from error
        if self._store_once("fingerprint", fingerprint) != fingerprint:
            raise StoreError(
                f"{path} holds answers to another study, or its items, images or questions were changed since; "
                "restore them, or name another file for the answers"
            )
        self.secret = self._store_once("secret", secrets.token_hex(32))
        # A study that was begun before the secret went into the draw keeps the pages that its annotators were shown.
        drawn = self._store_once("drawn", "from the seed" if self.annotators() else "from the secret")
        self.draw = self._derive("draw") if drawn == "from the secret" else ""

    def completion_code(self, annotator: int) -> str:
        """Return what an annotator who has finished can show for it; whoever runs the study has the same list."""
        return self._derive(f"completion:{annotator}")[:10].upper()

    @property
    def owner_key(self) -> str:
        """What opens the page of progress, which is not for annotators."""
        return self._derive("owner")[:32]

    def join(self, name: str, form: str) -> tuple[Annotator, str]:
        """Add one who consented; returns them and the token that is their session (only its hash is stored).

        Args:
            name: what they call themselves.
            form: a random text given out with the consent form; the same form sent twice is the same annotator.

        Raises:
            FullError: `MAX_ANNOTATORS` have consented.
        """
        token = self._derive(f"session:{form}")
        query = "INSERT INTO annotators (token_hash, name, consented_at) VALUES (?, ?, ?)"
        with self._write_transaction() as connection:
            # Looked up first: a refused insert would still use up a number.
            if connection.execute(_WHO, (_hash_token(token),)).fetchone() is None:
                if connection.execute("SELECT COUNT(*) FROM annotators").fetchone()[0] >= MAX_ANNOTATORS:
                    raise FullError(f"this study has the {MAX_ANNOTATORS} annotators that it takes")
                connection.execute(query, (_hash_token(token), name, _format_now()))
            return Annotator(*connection.execute(_WHO, (_hash_token(token),)).fetchone()), token

    def annotator(self, token: str | None) -> Annotator | None:
        """Return whose session `token` is, or None."""
        row = self._fetch_row(_WHO, (_hash_token(token or ""),))
        return Annotator(*row) if row else None

    def record(
        self, annotator: int, task: str, shown: Sequence[str], choices: Mapping[str, tuple[Choice, int]]
    ) -> bool:
        """Store a page's answers, all or none.

        Args:
            annotator: number.
            task: `Task.key`.
            shown: systems in the order shown.
            choices: criterion -> (choice, the revision that the page showed; 0 where it showed no answer).

        Returns:
            Whether the stored answers are now the ones given. False: another submission was faster, and it stands.
        """
        common = {"annotator": annotator, "task": task, "shown": json.dumps(list(shown)), "now": _format_now()}
        with self._write_transaction() as connection:
            for criterion, (choice, seen) in choices.items():
                given = {"criterion": criterion, "best": choice.best, "worst": choice.worst, "seen": seen}
                connection.execute(_RECORD, common | given)
            stored = self._read_page(connection, annotator, task)
        return all(stored[criterion].choice == choice for criterion, (choice, _) in choices.items())

    def page(self, annotator: int, task: str) -> dict[str, Answer]:
        """Return the answers of one page by criterion."""
        with closing(self._open_connection()) as connection:
            return self._read_page(connection, annotator, task)

    def counts(self, annotator: int) -> dict[str, int]:
        """Return task -> number of criteria answered, of one annotator."""
        query = "SELECT task, COUNT(*) FROM answers WHERE annotator = ? GROUP BY task"
        with closing(self._open_connection()) as connection:
            return dict(connection.execute(query, (annotator,)).fetchall())

    def annotators(self) -> list[Annotator]:
        """Return all who consented, by number."""
        with closing(self._open_connection()) as connection:
            return [
                Annotator(*row) for row in connection.execute("SELECT number, name FROM annotators ORDER BY number")
            ]

    def answers(self) -> list[Answer]:
        """Return all answers, sorted by annotator, task and criterion."""
        with closing(self._open_connection()) as connection:
            rows = connection.execute("SELECT * FROM answers ORDER BY annotator, task, criterion")
            return [_parse_answer(row) for row in rows]

    def _derive(self, what: str) -> str:
        return hmac.new(self.secret.encode(), what.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def _read_page(self, connection: sqlite3.Connection, annotator: int, task: str) -> dict[str, Answer]:
        rows = connection.execute("SELECT * FROM answers WHERE annotator = ? AND task = ?", (annotator, task))
        return {answer.criterion: answer for answer in map(_parse_answer, rows)}

    def _store_once(self, key: str, value: str) -> str:
        """Return the value stored under `key`, which is `value` if this call is the first."""
        with self._write_transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        return self._fetch_row("SELECT value FROM meta WHERE key = ?", (key,))[0]

    def _fetch_row(self, query: str, values: tuple) -> tuple | None:
        with closing(self._open_connection()) as connection:
            return connection.execute(query, values).fetchone()

    def _open_connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        # An answer that the annotator saw accepted must outlast a power cut; WAL alone promises only a crash.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    @contextmanager
    def _write_transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(self._open_connection()) as connection:
            # Taking the lock at once makes writers wait; a reader that turns writer would be refused instead.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _make_private(path: Path) -> None:
    """Make a file that its owner alone may read: it holds the secret of the draw, pseudonyms, and the answers.

    What SQLite writes beside it (`-wal`, `-shm`) has the same mode.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    with suppress(PermissionError):  # another's file: its owner has chosen
        path.chmod(0o600)


def _parse_answer(row: tuple) -> Answer:
    annotator, task, criterion, shown, best, worst, revision, answered_at = row
    choice = Choice(best, worst)
    return Answer(annotator, task, criterion, tuple(json.loads(shown)), choice, revision, answered_at)


def _hash_token(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _format_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

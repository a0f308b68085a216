"""Writes a recording: one run, one process."""

import json
import os
import sqlite3
import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from clipwise.monitor.store._schema import ENDING, open_database, patiently
from clipwise.monitor.store.plain import plain, text
from clipwise.monitor.store.records import Alert, Rows
from clipwise.processes import machine

SAY_EVERY = 10.0
"""Seconds after which a process with nothing to write says that it is there; well below what readers wait."""


class Writer:
    """One process of a run. Several processes may write to one file at the same time.

    Each call is one transaction: it is written completely when the call returns, or not at all.

    Args:
        path: the file, created if it does not exist.
        uid: the same for all processes of a run.
        name: name of the run.
        rank: rank of this process.
        command, clip, facts: as in `Run`; those of the first process of a run are stored.

    Raises:
        StoreError: the file is not a recording of clipwise, or has another version.
        sqlite3.Error, OSError: the file cannot be written at the moment.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        uid: str,
        name: str,
        rank: int = 0,
        *,
        command: str | None = None,
        clip: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.rank = rank
        self._db = open_database(path, write=True)
        try:
            with self._transaction():
                now = time.time()
                self._db.execute(
                    # A run that was deleted has left a frame: its number is not given again.
                    "INSERT INTO runs (id, uid, name, started, command, clip, facts) VALUES ("
                    "(SELECT 1 + max(id) FROM (SELECT 0 AS id UNION ALL SELECT max(id) FROM runs"
                    " UNION ALL SELECT max(run) FROM frames)), ?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT (uid) DO NOTHING",
                    (
                        uid,
                        text(name),
                        now,
                        None if command is None else text(command),
                        clip,
                        json.dumps(plain(facts or {})),
                    ),
                )
                (self.run,) = self._db.execute("SELECT id FROM runs WHERE uid = ?", (uid,)).fetchone()
                here = (self.run, rank, os.getpid(), machine())
                # After a write that failed a process opens the file anew; it is no other one.
                self._db.execute(
                    "DELETE FROM writers WHERE run = ? AND rank = ? AND pid = ? AND host = ?", here
                )
                self._id = self._db.execute(
                    "INSERT INTO writers (run, rank, pid, host, seen, status)"
                    " VALUES (?, ?, ?, ?, ?, 'running')",
                    (*here, now),
                ).lastrowid
        except BaseException:
            self._db.close()
            raise
        self._layouts: dict[tuple[str, ...], int] = {}
        self._said = now

    def write(
        self,
        rows: Collection[Rows] = (),
        alerts: Collection[Alert] = (),
        cooldowns: Mapping[str, int] | None = None,
    ) -> list[Alert]:
        """Add rows and alerts, and report that this process is alive; without any, every 10 seconds.

        Args:
            rows, alerts: new ones.
            cooldowns: by rule, the number of steps within which an alert is not added if another process of
                the run has raised the same.

        Returns:
            The alerts that were added.
        """
        added: list[Alert] = []
        now = time.time()
        if not (rows or alerts) and 0 <= now - self._said < SAY_EVERY:
            return added
        with self._transaction():
            for some in rows:
                self._add(some)
            for alert in alerts:
                apart = (cooldowns or {}).get(alert.rule, 0)
                if not self._is_said(alert, apart):
                    added.append(alert)
                    self._say(alert)
            self._db.execute("UPDATE writers SET seen = ? WHERE id = ?", (now, self._id))
        self._said = now
        return added

    def finish(self, status: str = "finished", note: str = "", clip: str | None = None) -> None:
        """Store how this process ended, and the clip if it was unknown before; close the file."""

        def end() -> None:
            with self._transaction():
                self._db.execute("UPDATE runs SET clip = coalesce(clip, ?) WHERE id = ?", (clip, self.run))
                self._db.execute(
                    "UPDATE writers SET seen = ?, status = ?, note = ? WHERE id = ?",
                    (time.time(), status, text(note), self._id),
                )

        try:
            patiently(end, ENDING)  # nobody says it later
        finally:
            self.close()

    def close(self) -> None:
        """Close the file without storing how this process ended."""
        self._db.close()

    def _is_said(self, alert: Alert, apart: int) -> bool:
        """Whether another process of the run has said it, less than so many steps away."""
        return apart > 0 and bool(
            self._db.execute(
                "SELECT count(*) FROM alerts"
                " WHERE run = ? AND rule = ? AND source = ? AND rank <> ? AND abs(step - ?) < ?",
                (self.run, alert.rule, text(alert.source), alert.rank, alert.step, apart),
            ).fetchone()[0]
        )

    def _say(self, a: Alert) -> None:
        self._db.execute(
            "INSERT INTO alerts (run, rank, step, time, rule, level, seen, why, advice, source)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.run,
                a.rank,
                a.step,
                a.time,
                a.rule,
                a.level,
                *map(text, (a.seen, a.why, a.advice, a.source)),
            ),
        )

    def _add(self, rows: Rows) -> None:
        if not len(rows.data):
            return
        data = np.ascontiguousarray(rows.data, dtype="<f8")
        steps = data[:, 0]
        self._db.execute(
            "INSERT INTO frames"
            " (run, rank, kind, source, layout, first_step, last_step, rows, nonfinite, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.run,
                self.rank,
                rows.kind,
                text(rows.source),
                self._layout(rows.names),
                int(steps.min()),
                int(steps.max()),
                len(data),
                int(data.size - np.count_nonzero(np.isfinite(data))),
                data.tobytes(),
            ),
        )

    def _layout(self, names: tuple[str, ...]) -> int:
        found = self._layouts.get(names)
        if found is None:
            text = json.dumps(names)
            self._db.execute("INSERT INTO layouts (names) VALUES (?) ON CONFLICT DO NOTHING", (text,))
            (found,) = self._db.execute("SELECT id FROM layouts WHERE names = ?", (text,)).fetchone()
            self._new[names] = found
        return int(found)

    def _transaction(self) -> "_Transaction":
        self._new: dict[tuple[str, ...], int] = {}
        return _Transaction(self)

    def _known(self) -> None:
        self._layouts |= self._new


class _Transaction:
    """All or nothing; what was learnt of the file holds only if it was committed."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        self._writer._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        database = self._writer._db
        if kind is None:
            try:
                database.execute("COMMIT")
            except sqlite3.Error:
                self._roll_back(database)
                raise
            if hasattr(self._writer, "_layouts"):
                self._writer._known()
        else:
            self._roll_back(database)

    @staticmethod
    def _roll_back(database: sqlite3.Connection) -> None:
        if database.in_transaction:  # a full disk ends a transaction by itself
            database.execute("ROLLBACK")

"""Asks the user's transform what becomes of conflicts, and does as it says.

The slave's row is locked when it is read: nobody writes it until the batch is committed, or the
function has been asked again because the batch was made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.config.policies import Policy
from pyreplica.database import Connection, Row, sql
from pyreplica.errors import ApplyError
from pyreplica.slave.culprit import verb
from pyreplica.slave.stage import Stage
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.slave.verdict import MEANINGS, RESOLUTIONS, Met
from pyreplica.transform import Conflict
from pyreplica.transform.files import described
from pyreplica.transform.module import Hooks
from pyreplica.transform.row import Row as Values
from pyreplica.transform.row import as_logged, texts_of

_SQL = sqlfiles.statements("conflicts.sql")

CONFLICTS_OF: Mapping[str, tuple[str, ...]] = {
    "I": ("insert_exists",),
    "U": ("update_missing", "update_differs"),
    "D": ("delete_missing",),
}
"""What each kind of net change may meet."""
APPLIED_AS = {"I": "e", "U": "u", "D": "-"}
"""Which kind a net change becomes when the master's word counts; e: an insert that replaces."""
LONGEST_VALUE = 10_000
"""Characters of a value of the slave's row that are kept with a conflict."""
ROWS = 500
"""So many rows are in this process's memory at a time."""
_POLICIES = {policy.value: policy for policy in (Policy.APPLY, Policy.SKIP)}


class Asked(NamedTuple):
    """A conflict that the function is asked about; all but its name are texts of jsonb objects.

    Args:
        slave_row: as TableStatements.slave_row() gives it as a whole; None where there is no row.
    """

    conflict: str
    key: str
    row: str | None
    old: str | None
    slave_row: str | None


class Answer(NamedTuple):
    """What becomes of it.

    Args:
        resolution: as in ``replica_conflict``; None: it cannot be applied.
        row: the columns that the slave's row is to have, for "merged".
        why: it cannot be applied.
    """

    resolution: str | None
    row: str | None = None
    why: str = ""

    def becomes(self, kind: str, asked: Asked) -> str:
        """The kind of net change that does it, of one of this kind; -: there is nothing to do."""
        if self.resolution == "merged":
            if asked.slave_row is None:
                return "I"
            return {"{}": "-"}.get(self.row or "", "e" if kind == "I" else "u")
        return APPLIED_AS[kind] if self.resolution == "applied" else "-"


_Answered = tuple[Asked, Answer, str | None]
"""The last is the slave's row as it is shown."""


def ask(hooks: Hooks, statements: TableStatements, asked: Asked) -> Answer:
    """Ask the function about one conflict; what it raises is an answer as well."""
    captured = statements.captured
    # what is masked is of another type than its column
    types = {c: t for c, t in captured.types.items() if c not in statements.masks}
    others = [c for c in captured.columns if c not in captured.key]
    here = None
    if asked.slave_row is not None:
        stands = json.loads(asked.slave_row)
        here = Values({c: stands[c] for c in others if c in stands}, types)
    try:
        assert hooks.conflict is not None
        result = hooks.conflict(
            Conflict(
                asked.conflict,  # type: ignore[arg-type]
                str(captured),
                Values(json.loads(asked.key), types),
                Values(json.loads(asked.row or "{}"), types),
                Values(json.loads(asked.old or "{}"), types),
                here,
            )
        )
    except Exception as error:
        return Answer(None, why=f"the transform failed on it: {described(error, hooks.path)}")
    if isinstance(result, str):
        return _by_policy(result, statements, asked)
    try:
        row = texts_of(result, types)
        unknown = sorted({*row} - {*others})
        if unknown:
            raise ValueError(f"table {captured} has no column {unknown[0]} beside its key")
    except (TypeError, ValueError) as error:
        return Answer(None, why=f"what the transform has made of it cannot be applied: {error}")
    if here is None:
        row = {name: row.get(name) for name in others}
    return Answer("merged", as_logged(row))


def _by_policy(word: str, statements: TableStatements, asked: Asked) -> Answer:
    if word == "error":
        return Answer(None, why=MEANINGS[asked.conflict])
    if word not in _POLICIES:
        why = f"the transform has returned {word!r}, which is none of apply, skip and error"
        return Answer(None, why=why)
    settled = RESOLUTIONS[asked.conflict][_POLICIES[word]]
    if settled == "restating" and statements.key_masked:
        # the master could not tell which row that is
        return Answer(None, why=MEANINGS[asked.conflict])
    return Answer(settled)


class Asking:
    """Has the transform settle the conflicts of batches.

    Args:
        connection: the session.
        stage: where the net changes are.
        config: the replication; its policies say which conflicts.
        hooks: the transform.
        waits: whether a change waits that cannot be applied; else that is an error.
    """

    def __init__(
        self,
        connection: Connection,
        stage: Stage,
        config: ReplicationConfig,
        hooks: Hooks,
        *,
        waits: bool,
    ) -> None:
        self._connection = connection
        self._stage = stage
        self._replication = config.name
        self._asked = {*config.conflicts.asked}
        self._hooks = hooks
        self._waits = waits

    def settle(
        self,
        batch: int,
        id_: int,
        statements: TableStatements,
        kind: str,
        find: Callable[[Part], Sequence[Row]],
    ) -> tuple[list[Met], set[str]]:
        """Settle the conflicts of a table's net changes of a kind, before these are applied.

        Args:
            find: executes a query; values that cannot be read are its business.

        Returns:
            What was met, and of which kinds there are net changes now.

        Raises:
            ApplyError: a change cannot be applied, and is not to wait.
        """
        told: dict[tuple[str, str], Met] = {}
        present: set[str] = set()
        for conflict in CONFLICTS_OF[kind]:
            if conflict not in self._asked:
                continue
            mark, query = self._queries(id_, statements, kind, conflict)
            # until there are none, of what others have made meanwhile either
            while find(mark) != [(0,)]:
                while rows := self._connection.query(query):
                    answers = self._answers(statements, kind, conflict, rows)
                    self._note(batch, id_, statements, kind, conflict, answers)
                    for asked, answer, _ in answers:
                        present.add(answer.becomes(kind, asked))
                        settled = answer.resolution or "waiting"
                        table = str(statements.captured)
                        first = Met(conflict, table, settled, 0, asked.key, answer.why)
                        before = told.get((conflict, settled), first)
                        told[conflict, settled] = before._replace(rows=before.rows + 1)
        return list(told.values()), present

    def _answers(
        self, statements: TableStatements, kind: str, conflict: str, rows: Sequence[Row]
    ) -> list[_Answered]:
        answers = []
        # whoever has made a missing row since it was looked for comes later
        missing = conflict.endswith("_missing")
        for change_id, key, row, old, whole, cut in rows:
            here, shown = (None, None) if missing else (whole, cut)
            asked = Asked(conflict, key, row, old, here)
            answer = ask(self._hooks, statements, asked)
            if answer.resolution is None and not self._waits:
                raise self._refused(statements, kind, asked, answer, change_id)
            answers.append((asked, answer, shown))
        return answers

    def _queries(
        self, id_: int, statements: TableStatements, kind: str, conflict: str
    ) -> tuple[Part, Part]:
        """What locks and marks the conflicts, and what then gives some of them."""
        differs = statements.as_it_was(None) if conflict == "update_differs" else sql.SQL("false")
        names: dict[str, Part] = {
            **self._stage.names,
            "source": self._stage.net_rows(id_, kind),
            "table": statements.rows,
            "same_key": statements.same_key(),
            "as_it_was": differs,
            "whole": statements.slave_row(),
            "shown": statements.slave_row(LONGEST_VALUE),
            "tab": sql.Literal(id_),
            "kind": sql.Literal(kind),
            "most": sql.Literal(ROWS),
        }
        mark = "ask_of_none" if conflict.endswith("_missing") else "ask_of_rows"
        return sql.SQL(_SQL[mark]).format(**names), sql.SQL(_SQL["asked"]).format(**names)

    def _note(
        self,
        batch: int,
        id_: int,
        statements: TableStatements,
        kind: str,
        conflict: str,
        answers: Sequence[_Answered],
    ) -> None:
        """Write down what has become of conflicts, and have the net changes be so."""
        captured = statements.captured
        self._connection.execute(
            sql.SQL(_SQL["answered"]).format(**self._stage.names),
            {
                "replication": self._replication,
                "batch": batch,
                "relid": captured.relid,
                "schema": captured.schema,
                "name": captured.name,
                "tab": id_,
                "kind": kind,
                "conflict": conflict,
                "keys": [asked.key for asked, _, _ in answers],
                "resolutions": [answer.resolution or "waiting" for _, answer, _ in answers],
                "kinds": [answer.becomes(kind, asked) for asked, answer, _ in answers],
                "rows": [answer.row for _, answer, _ in answers],
                "slave_rows": [shown for _, _, shown in answers],
                "errors": [answer.why or None for _, answer, _ in answers],
            },
        )

    def _refused(
        self,
        statements: TableStatements,
        kind: str,
        asked: Asked,
        answer: Answer,
        change_id: int,
    ) -> ApplyError:
        table = str(statements.captured)
        return ApplyError(
            f"conflict {asked.conflict}: cannot {verb(kind)} {table} {asked.key}: {answer.why}",
            table=table,
            key=asked.key,
            change_id=change_id,
            where=self._connection.where,
            hint=f"Repair the row on the slave, or correct {self._hooks.path} and reload the "
            "daemon; nothing was applied.",
        )

"""What is done about conflicts afterwards: by the daemon, and by `pyreplica conflicts`.

`retry` and `skip` work beside the daemon. Each row is a transaction of its own, which locks the
row's waiting changes, then the row, and the replication's cursor last, as a batch does. A batch
that was made without knowing of it finds the number of its tables changed, and is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

from pyreplica.config import ReplicationConfig
from pyreplica.config.policies import Policy
from pyreplica.database import errorcodes, sql
from pyreplica.errors import ApplyError, DatabaseError, PyReplicaError, Refused
from pyreplica.master import Master
from pyreplica.model import Change
from pyreplica.replication.hooks import hooks_of
from pyreplica.replication.place import placed
from pyreplica.replication.transforming import Transforming
from pyreplica.slave import Slave
from pyreplica.slave.asking import Asked, ask
from pyreplica.slave.conflicts import Conflict, WaitingChange, WaitingRow
from pyreplica.slave.culprit import is_data_error
from pyreplica.slave.fold import Net, fold
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.slave.verdict import MEANINGS, resolution
from pyreplica.transform.module import Hooks

ROWS = 1_000
"""So many rows the master logs again in a transaction."""
PATIENCE = 0.05
"""How long the daemon waits for a lock on the master, seconds."""
BUSY = {
    errorcodes.LOCK_NOT_AVAILABLE,
    errorcodes.DEADLOCK_DETECTED,
    errorcodes.SERIALIZATION_FAILURE,  # a row has moved to another partition
}
"""How it ends when others keep what a statement needs; it may do at another time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of the waiting changes of a row.

    Args:
        resolution: as in ``replica_conflict``; "waiting" when they still do.
        problem: why they still wait.
    """

    table: str
    key: str
    ids: tuple[int, ...]
    resolution: str
    problem: str | None = None


def restate(master: Master, slave: Slave) -> None:
    """Have the master log again the rows that updates have not found on the slave.

    Those that somebody is writing just now are left for another time.
    """
    for relid, keys in slave.conflicts.restating().items():
        table = next((table for table in master.tables() if table.relid == relid), None)
        if table is None:
            slave.conflicts.restated(relid, keys, "skipped")
            continue
        for start in range(0, len(keys), ROWS):
            some = keys[start : start + ROWS]
            try:
                _, left = master.restate(table, some, patience=PATIENCE, tick=False)
            except DatabaseError as error:
                if error.sqlstate not in BUSY:
                    raise
                left = some
            slave.conflicts.restated(relid, [key for key in some if key not in {*left}])


def listed(config: ReplicationConfig, *, settled_too: bool) -> list[Conflict]:
    """The conflicts that are not settled, or all that are still known."""
    with closing(_slave(config)) as slave:
        return slave.conflicts.known(settled_too=settled_too)


def retry(
    config: ReplicationConfig,
    ids: Sequence[int] = (),
    done: Callable[[Outcome], object] = lambda outcome: None,
) -> list[Outcome]:
    """Apply waiting changes, in their order, all those of a row at once.

    Args:
        ids: the changes; those of the same rows are taken along. Without any all that wait.
        done: told of each row.

    Raises:
        Refused: a change of that number does not wait, or a batch is in doubt.
    """
    with closing(_slave(config)) as slave, closing(Master(config)) as master:
        rows = _chosen(slave, ids)
        retrying = _Retry(config, master, slave)
        outcomes = []
        for row in rows:
            outcomes.append(retrying.row(row))
            done(outcomes[-1])
        if any(outcome.resolution == "restating" for outcome in outcomes):
            master.announce_tables()  # so that the daemon asks at once
        return outcomes


def skip(config: ReplicationConfig, ids: Sequence[int] = ()) -> int:
    """Give waiting changes up, all those of a row at once; the slave's rows stay as they are.

    Args:
        ids: as for ``retry``.

    Returns:
        The number of changes.

    Raises:
        Refused: as ``retry``.
    """
    with closing(_slave(config)) as slave:
        _chosen(slave, ids)
        with slave.records.changing():
            return slave.conflicts.skip(ids or None)


def _slave(config: ReplicationConfig) -> Slave:
    slave = Slave(config)
    try:
        slave.check_installed()
    except BaseException:
        slave.close()
        raise
    return slave


def _chosen(slave: Slave, ids: Sequence[int]) -> list[WaitingRow]:
    rows = slave.conflicts.waiting_rows(ids or None)
    found = {number for row in rows for number in row.ids}
    missing = sorted({*ids} - found)
    if missing:
        raise Refused(
            f"no change of the number {missing[0]} waits",
            where=slave.connection.where,
            hint=f"`pyreplica conflicts list {slave.replication}` shows those that do.",
        )
    return rows


class _Again(Exception):
    """Another change of the row has come to wait meanwhile."""


class _Retry:
    """Applies waiting changes row by row."""

    def __init__(self, config: ReplicationConfig, master: Master, slave: Slave) -> None:
        self._config = config
        self._master = master
        self._slave = slave
        self._connection = slave.connection
        self._tables: dict[int, TableStatements] = {}

    @cached_property
    def _hooks(self) -> Hooks | None:
        """The transform, as it is now; executed only where it is needed."""
        return hooks_of(self._config)

    def row(self, row: WaitingRow) -> Outcome:
        """Apply the changes of a row, or say why they still cannot be applied."""
        while True:
            changes: list[WaitingChange] = []
            try:
                with self._slave.records.changing():
                    changes += self._slave.conflicts.waiting_changes(row)
                    if not changes:
                        return Outcome("", row.key, row.ids, "superseded")
                    settled = self._applied(row, changes)
                    ids = [change.id for change in changes]
                    self._slave.conflicts.settle(ids, settled)
                    # no batch is decided from here on
                    self._slave.records.touch()
                    if len(self._slave.conflicts.waiting_changes(row)):
                        raise _Again
            except _Again:
                continue
            except ApplyError as error:
                return self._kept(row, changes, error)
            except DatabaseError as error:
                if not is_data_error(error):
                    raise
                return self._kept(row, changes, error)
            return Outcome(changes[-1].table, row.key, tuple(ids), settled)

    def _kept(
        self, row: WaitingRow, changes: Sequence[WaitingChange], error: PyReplicaError
    ) -> Outcome:
        self._slave.conflicts.settle([changes[0].id], "waiting", error.what)
        ids = tuple(change.id for change in changes)
        return Outcome(changes[-1].table, row.key, ids, "waiting", error.what)

    def _applied(self, row: WaitingRow, changes: Sequence[WaitingChange]) -> str:
        """Apply the changes of a row; gives what has become of them."""
        hooks = self._hooks if any(one.untransformed for one in changes) else None
        if hooks is not None and hooks.change is not None:
            return self._transformed(row, changes, hooks)
        statements = self._statements(changes[-1].generation)
        nets = fold((_as_logged(one.op), one.key, one.row, one.old) for one in changes)
        return self._net(nets[0], statements) if nets else "applied"

    def _transformed(self, row: WaitingRow, changes: Sequence[WaitingChange], hooks: Hooks) -> str:
        """Apply what the transform makes of the changes of a row now; these may be of others."""
        copies = self._slave.records.copies()
        ready = {relid for relid, copy in copies.items() if copy.state == "ready"}
        transforming = Transforming(self._config, hooks, self._master, lambda: ready)
        made: dict[tuple[int, str], list[Change]] = {}
        for one in changes:
            change = Change(
                one.change_id, one.generation, _as_logged(one.op), one.key, one.row, one.old
            )
            for each in transforming.changes([change]) if one.untransformed else [change]:
                if each.op == "T":
                    raise ApplyError("the transform has made TRUNCATE of it, which cannot wait")
                relid = transforming.table(each.table).relid
                made.setdefault((relid, each.key), []).append(each)
        settled = "applied"
        for (relid, key), some in made.items():
            own = (relid, key) == (row.relid, row.key)
            statements = self._statements(some[-1].table)
            if not own and self._slave.conflicts.waits(relid, key):
                raise ApplyError(
                    f"changes of {statements.captured} {key} wait as well, which the transform has "
                    "made it a change of"
                )
            nets = fold((one.op, one.key, one.row, one.old) for one in some)
            done = self._net(nets[0], statements) if nets else "applied"
            settled = done if own else settled
        return settled

    def _net(self, net: Net, statements: TableStatements) -> str:
        """Apply a net change; gives what has become of it."""
        source = _source(net)
        conflict, slave_row = self._conflict(net, statements, source)
        settled = "applied"
        replacing = conflict == "insert_exists"
        if conflict is not None and self._config.conflicts.of(conflict) is Policy.TRANSFORM:
            asked = Asked(conflict, net.key, net.row, net.old, slave_row)
            assert self._hooks is not None
            answer = ask(self._hooks, statements, asked)
            if answer.resolution is None:
                raise ApplyError(f"conflict {conflict}: {answer.why}")
            settled = answer.resolution
            if settled == "merged":
                net = Net("u" if slave_row is not None else "I", net.key, answer.row)
                source, replacing = _source(net), False
        elif conflict is not None:
            policy = resolution(self._config.conflicts, conflict)
            if policy is None or (policy == "restating" and statements.key_masked):
                raise ApplyError(f"conflict {conflict}: {MEANINGS[conflict]}")
            settled = policy
        if settled in ("applied", "merged"):
            for statement in _doing(net, statements, source, replacing=replacing):
                self._connection.execute(statement)
        return settled

    def _conflict(
        self, net: Net, statements: TableStatements, source: Part
    ) -> tuple[str | None, str | None]:
        """The conflict that a net change meets, and the slave's row in it, which is locked."""
        if net.kind not in "IUD":
            return None, None
        compares = self._config.conflicts.update_differs is not Policy.APPLY
        was = statements.as_it_was(None) if net.kind == "U" and compares else sql.SQL("true")
        found = self._connection.query(
            sql.SQL("SELECT {}, ({})::text FROM {} c JOIN {} t ON {} FOR UPDATE OF t").format(
                was, statements.slave_row(), source, statements.rows, statements.same_key()
            )
        )
        if not found:
            missing = {"I": None, "U": "update_missing", "D": "delete_missing"}
            return missing[net.kind], None
        ((same, slave_row),) = found
        if net.kind == "I":
            return "insert_exists", slave_row
        return (None if same else "update_differs"), slave_row

    def _statements(self, generation: int) -> TableStatements:
        if generation not in self._tables:
            found = self._master.tables([generation])
            if not found:
                raise ApplyError("the master does not know the table any more")
            captured = found[0]
            table, problem = placed(self._master, self._slave, captured)
            if problem is not None or table is None:
                raise ApplyError((problem or ("", ""))[0])
            self._tables[generation] = TableStatements(captured, table)
        return self._tables[generation]


def _source(net: Net) -> Part:
    """A net change, for a statement."""
    return sql.SQL("(SELECT {}::jsonb AS key, {}::jsonb AS row, {}::jsonb AS old OFFSET 0)").format(
        sql.Literal(net.key), sql.Literal(net.row), sql.Literal(net.old)
    )


def _as_logged(op: str) -> str:
    """The operation of the log that a net change is like."""
    return "i" if op == "r" else op


def _doing(net: Net, statements: TableStatements, source: Part, *, replacing: bool) -> list[Part]:
    """The statements that apply a net change."""
    if net.kind in "Dd":
        return [statements.delete(source)]
    if net.kind == "r" or replacing:
        return [statements.reinsert(source), statements.insert_missing(source)]
    if net.kind == "I":
        return [statements.insert(source)]
    if not statements.updates:
        return []
    # an update is done like this also where UPDATE could not
    return [statements.reinsert(source)]

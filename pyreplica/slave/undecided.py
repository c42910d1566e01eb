"""Conflicts of merged tables that the database does not settle by itself.

Either a function of the user's says which row is to stay, or the table's policy is "error": then
somebody settles the row on one node, with pyreplica.settle_row(), and all others wait for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyreplica import sqlfiles
from pyreplica.database import Connection, sql
from pyreplica.errors import ApplyError
from pyreplica.slave.catalog import Merging
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.transform.merging import MergeFunction, NoRow, has_seen

_SQL = sqlfiles.statements("versions.sql")


class Undecided:
    """Looks after the rows of a batch that ``merge_versions()`` has not decided on.

    Args:
        connection: the session with the slave.
        merging: has the functions, and asks the master.
    """

    def __init__(self, connection: Connection, merging: Merging) -> None:
        self._connection = connection
        self._merging = merging

    def function(self, statements: TableStatements) -> MergeFunction:
        """The function of a table.

        Raises:
            ApplyError: the replication has none.
        """
        function = self._merging.function(statements.captured)
        if function is None:
            raise self._refused(
                statements,
                "cannot merge {table}: it is merged by a function, and the replication names none",
                "Name the file in `merge:`, as {function: /etc/pyreplica/merge.py}, and reload the "
                "daemon.",
            )
        return function

    def choose(self, statements: TableStatements, names: Mapping[str, Part]) -> dict[str, int]:
        """Have the function choose the rows; gives how many there are of each kind.

        Raises:
            ApplyError: the function fails on a row.
        """
        function = self.function(statements)
        keys, kinds, rows = [], [], []
        for key, logged, siblings, stands in self._connection.query(
            sql.SQL(_SQL["undecided"]).format(**names)
        ):
            try:
                row = function.row(statements.captured, logged, siblings)
            except NoRow as error:
                raise self._refused(
                    statements,
                    f"the function of {function.path} has not merged {{table}} {key}: {error}",
                    f"Correct {function.path}, on all nodes, and reload the daemon; nothing was "
                    "applied.",
                    key,
                ) from error
            keys.append(key)
            kinds.append(("u" if stands else "i") if row is not None else "d" if stands else "k")
            rows.append(row)
        self._connection.execute(
            sql.SQL(_SQL["decided"]).format(**names), {"keys": keys, "kinds": kinds, "rows": rows}
        )
        return {kind: kinds.count(kind) for kind in {*kinds}}

    def wait(self, statements: TableStatements, names: Mapping[str, Part]) -> None:
        """Leave out rows that somebody has settled on the master: a later version comes.

        Raises:
            ApplyError: nobody has settled one of them.
        """
        rows = self._connection.query(sql.SQL(_SQL["unsettled"]).format(**names))
        settled = self._merging.seen(statements.captured, [key for key, _, _, _ in rows])
        for key, here, both, change_id in rows:
            if has_seen(settled.get(key, {}), here):
                continue
            call = sql.SQL("SELECT pyreplica.settle_row({})").format(
                sql.SQL(", ").join(map(sql.Literal, (_regclass(statements), key, both)))
            )
            raise self._refused(
                statements,
                f"conflict on {{table}} {key}: it was changed here and on another node at the same "
                "time",
                "Nothing was applied, and nothing is lost. On the node whose row is to stay: "
                f"{self._connection.text(call)}; all replications go on by themselves.",
                key,
                change_id,
            )
        self._connection.execute(sql.SQL(_SQL["settled"]).format(**names))

    def _refused(
        self,
        statements: TableStatements,
        what: str,
        hint: str,
        key: str = "",
        change_id: int | None = None,
    ) -> ApplyError:
        table = str(statements.captured)
        return ApplyError(
            what.replace("{table}", table),
            table=table,
            key=key,
            change_id=change_id,
            where=self._connection.where,
            hint=hint,
        )


def _regclass(statements: TableStatements) -> str:
    """The table's name as SQL reads it, quoted where it has to be."""
    names = (statements.captured.schema, statements.captured.name)
    return ".".join(
        name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
        for name in names
    )

"""Has the user's transform change what goes to the slave: changes of the log, and rows of a copy.

Nothing is folded before: the transform sees every change, in the order of the log. What it gives
is checked here, by name, before anything of it reaches the slave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from pyreplica.config import ReplicationConfig
from pyreplica.config.policies import Policy
from pyreplica.errors import ApplyError
from pyreplica.master import Master
from pyreplica.model import BARRIERS, CapturedTable, Change
from pyreplica.replication.aside import Aside
from pyreplica.transform import Batch
from pyreplica.transform import Change as Given
from pyreplica.transform.files import described
from pyreplica.transform.module import Hooks
from pyreplica.transform.row import Row, as_logged, texts_of

_OPS: Mapping[str, Any] = {"i": "insert", "u": "update", "d": "delete", "t": "truncate"}
_MADE = {"insert": "i", "update": "u", "delete": "d", "truncate": "T"}
"""What a change becomes that the transform has made, or given another row: it is applied without
expecting anything of the row that is there."""


class Transforming:
    """Applies a transform for one session with the master.

    Args:
        config: the replication.
        hooks: the transform.
        master: knows the tables.
        applied: gives the oids of the tables whose changes are applied.
        aside: takes changes that the transform has failed on; without it that is an error.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        hooks: Hooks,
        master: Master,
        applied: Callable[[], Collection[int]],
        aside: Aside | None = None,
    ) -> None:
        self._name = config.name
        self._hooks = hooks
        self._master = master
        self._applied = applied
        self._aside = aside
        self._compares = config.conflicts.update_differs is Policy.TRANSFORM
        self._tables: dict[int, CapturedTable] = {}
        self._types: dict[int, Mapping[str, str]] = {}
        self._named: dict[str, CapturedTable] = {}

    @property
    def changes_rows(self) -> bool:
        """Whether changes go through it; else they need not."""
        return self._hooks.change is not None

    def begin(self, batch: int | None) -> None:
        """A batch, or the copy of a table, begins."""
        self._around("before_batch", batch)

    def end(self, batch: int | None) -> None:
        """It is committed."""
        self._around("after_batch", batch)

    def _around(self, name: str, batch: int | None) -> None:
        hook = getattr(self._hooks, name)
        if hook is None:
            return
        try:
            hook(Batch(self._name, batch))
        except Exception as error:
            raise self._refused(f"{name} of the transform failed: {self._said(error)}") from error

    def changes(self, changes: Iterable[Change]) -> Iterator[Change]:
        """What becomes of changes, one after the other."""
        applied = self._applied()
        for change in changes:
            if self._hooks.change is None or change.op in BARRIERS:
                yield change
                continue
            table = self.table(change.table)
            if table.relid in applied and not (self._aside and self._aside.follows(change, table)):
                yield from self._or_aside(change, table, applied)

    def _or_aside(
        self, change: Change, table: CapturedTable, applied: Collection[int]
    ) -> list[Change]:
        """What becomes of a change; it is put aside as a whole, or not at all."""
        try:
            made = list(self._change(change, table, applied))
        except ApplyError as error:
            if self._aside is None:
                raise
            self._aside.take(change, table, error)
            return []
        if self._aside is not None:
            for one in made:
                if one.op == "T":
                    self._aside.truncated(self.table(one.table).relid)
        return made

    def table(self, generation: int) -> CapturedTable:
        """A generation of a table, as the log names it."""
        if generation not in self._tables:
            found = self._master.tables([generation])
            if not found:
                raise self._refused(f"the log names table {generation}, which is not known")
            self._know(found[0])
        return self._tables[generation]

    def _know(self, table: CapturedTable) -> None:
        self._tables[table.id] = table
        masks = self._master.masking.of(table)
        # what is masked is of another type than its column
        self._types[table.id] = {c: t for c, t in table.types.items() if c not in masks}

    def _change(
        self, change: Change, table: CapturedTable, applied: Collection[int]
    ) -> Iterator[Change]:
        types = self._types[table.id]
        given = Given(
            str(table),
            _OPS[change.op.lower()],
            Row(json.loads(change.key or "{}"), types),
            Row(json.loads(change.row or "{}"), types),
            Row(json.loads(change.old or "{}"), types),
        )
        try:
            assert self._hooks.change is not None
            result = self._hooks.change(given)
        except Exception as error:
            raise self._refused(
                f"the transform failed on {_named(change, table)}: {self._said(error)}",
                change,
                table,
            ) from error
        made = result if isinstance(result, list) else [] if result is None else [result]
        seen: set[tuple[int, str]] = set()
        for one in made:
            try:
                found = self._checked(one, change, table, applied)
            except (TypeError, ValueError) as error:
                raise self._refused(
                    f"what the transform has made of {_named(change, table)} cannot be applied: "
                    f"{error}",
                    change,
                    table,
                ) from error
            if found is None:
                continue
            key = "" if found.op == "T" else found.key
            beside = not key and any(id_ == found.table for id_, _ in seen)
            if beside or not seen.isdisjoint({(found.table, key), (found.table, "")}):
                raise self._refused(
                    f"of {_named(change, table)} the transform has made two changes of one row of "
                    f"{one.table}, or truncates that table besides",
                    change,
                    table,
                )
            seen.add((found.table, key))
            yield found

    def _checked(
        self, one: Any, change: Change, table: CapturedTable, applied: Collection[int]
    ) -> Change | None:
        """A change that the transform has given, for the log; None when it changes nothing.

        Raises:
            ValueError, TypeError: it cannot be one.
        """
        if not isinstance(one, Given):
            raise TypeError(f"it has returned a {type(one).__name__}")
        target = self._target(one.table, table, applied)
        if one.op not in _MADE:
            raise ValueError(f"{one.op!r} is none of {', '.join(_MADE)}")
        if one.op == "truncate":
            same = target is table and change.op == "T"
            return change if same else Change(change.id, target.id, "T", "", None)
        key = texts_of(one.key, self._types[target.id])
        if key.keys() != {*target.key}:
            raise ValueError(
                f"the key of {target} is ({', '.join(target.key)}), and not ({', '.join(key)})"
            )
        text = as_logged(key)
        row: dict[str, str | None] = {}
        if one.op != "delete":
            row = texts_of(one.row, self._types[target.id])
            others = [c for c in target.columns if c not in target.key]
            unknown = sorted({*row} - {*others})
            if unknown:
                raise ValueError(f"table {target} has no column {unknown[0]} beside its key")
            if one.op == "insert":
                row = {name: row.get(name) for name in others}
            elif not row:
                return None
        same = target is table and text == change.key and _OPS[change.op.lower()] == one.op
        alone = same and one.op == "update" and row == json.loads(change.row or "{}")
        return Change(
            change.id,
            target.id,
            change.op if same else _MADE[one.op],
            text,
            None if one.op == "delete" else as_logged(row),
            # what it has made of that before nobody knows: the slave need not have it
            change.old if alone and self._compares else None,
        )

    def _target(self, name: str, table: CapturedTable, applied: Collection[int]) -> CapturedTable:
        """The table of a change that was given."""
        if name == str(table):
            return table
        if name not in self._named:
            self._named = {str(one): one for one in self._master.tables()}
        found = self._named.get(name)
        if found is None or found.relid not in applied:
            raise ValueError(f"table {name} is not replicated")
        if found.id not in self._tables:
            self._know(found)
        return self._tables[found.id]

    def _said(self, error: BaseException) -> str:
        return described(error, self._hooks.path)

    def _refused(
        self, what: str, change: Change | None = None, table: CapturedTable | None = None
    ) -> ApplyError:
        return ApplyError(
            what,
            table=str(table or ""),
            key=change.key if change else "",
            change_id=change.id if change else None,
            where=self._name,
            hint=f"Correct {self._hooks.path} and reload the daemon; nothing was applied.",
        )


def _named(change: Change, table: CapturedTable) -> str:
    return " ".join(filter(None, (_OPS[change.op.lower()], "of", str(table), change.key)))

"""A connected replication: both sides, recovered and agreed on where they stand.

The order of a batch is what the promise of exactly once rests on (docs/protocol.md):

1. the slave applies the batch, moves its cursor and prepares the transaction;
2. the master records the batch as confirmed: the decision;
3. the slave commits what it prepared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pyreplica.config import CommitMode, ReplicationConfig
from pyreplica.database import sql
from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.master import ROTATE_BYTES, SEQUENCES_ANEW, Master
from pyreplica.model import (
    Change,
    Cursor,
    Position,
    Step,
    TableCopy,
)
from pyreplica.replication.agreement import Observer, agree
from pyreplica.replication.aside import Aside
from pyreplica.replication.catalog import Catalog
from pyreplica.replication.conflicts import restate
from pyreplica.replication.drift import check_ddl
from pyreplica.replication.forwarding import Forwarding
from pyreplica.replication.guard import Guard
from pyreplica.replication.hooks import hooks_of
from pyreplica.replication.joining import ANNOUNCED, Tables
from pyreplica.replication.reading import Reading
from pyreplica.replication.sequences import Sequences
from pyreplica.replication.transforming import Transforming
from pyreplica.slave import OTHER_VERSION, TABLES_CHANGED, Slave, staging
from pyreplica.slave.apply import Applier
from pyreplica.slave.verdict import Met
from pyreplica.transform.module import Hooks


class Session:
    """Connects both sides, decides what a crash left undecided, and moves batches.

    Args:
        config: the replication.
        observe: told of each step.
        met: given the conflicts of a batch that somebody should look at, when it is committed.
        large: told before a batch is read that is too large for one answer, and may take long.

    Attributes:
        waiting: changes that could not be applied and wait, as last looked at.

    Raises:
        Unreachable: a side cannot be reached.
        NotInstalled, Refused: the two sides do not belong together; nothing was changed.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        observe: Observer,
        met: Callable[[Sequence[Met]], None] = lambda met: None,
        large: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._observe = observe
        self._met = met
        self._large = large
        self.waiting = 0
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._mixed: set[int] = set()
        self.master = Master(config)
        try:
            self.slave = Slave(config)
        except BaseException:
            self.master.close()
            raise
        self._sequences = Sequences(config, self.master, self.slave)
        self._members = Tables(config, self.master, self.slave)
        self._guard = Guard(config, self.master, self.slave)
        self._forwarding = Forwarding(config, self.master, self.slave)
        self._aside = Aside(config, self.slave)
        self._catalog = Catalog(config, self.master, self.slave, self._members, self._sequences)
        self._transforming: Transforming | None = None
        self._hooks: Hooks | None = None
        try:
            for side in (self.master, self.slave):
                side.check_installed()
                side.check_writable()
            self.slave.lock()
            self.master.lock()
            self._hooks = hooks_of(config)
            if self._hooks is not None:
                self._transforming = Transforming(
                    config,
                    self._hooks,
                    self.master,
                    lambda: self._members.transformed,
                    self._aside,
                )
            self._catalog.merging.load()
            self.master.listen()  # first, so that no announcement is missed after looking
            self.recover()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End both sessions."""
        self.master.close()
        self.slave.close()

    def unlock(self) -> None:
        """Let another daemon take over."""
        self.slave.unlock()
        self.master.unlock()

    def cancel(self) -> None:
        """Break off what either side is executing; for another thread."""
        self.master.connection.cancel()
        self.slave.connection.cancel()

    # Recovery

    def recover(self) -> None:
        """Agree on where both sides stand, and look at the tables anew.

        Done at the beginning, and again after an error that has left both connections alive: so
        the locks are kept, and nobody takes a daemon that tries again for one that is gone.
        """
        self.master.connection.rollback()
        self.slave.connection.rollback()
        self.master.check_installed()
        self.slave.check_installed()
        self.bit, self.cursor, applied = agree(self._config, self.master, self.slave, self._observe)
        self.changes = applied.changes
        check_ddl(self._config, self.master)
        self._forwarding.begin()
        self.master.record.want_ddl(self._config.ddl)
        self.master.record.set_limits(self._config.max_log_size, self._config.max_log_age)
        self._staging = applied.id
        staging.create(self.slave.connection, applied.id)
        self._passed = False
        self._sequences.forget()
        self._look_at_tables()
        self._count_waiting()

    def _look_at_tables(self) -> None:
        """Know nothing of the tables but what is recorded now."""
        self.master.masking.load()
        self._members.load()
        self._guard.follow(self._staging, self._members.applied)
        self._catalog.altered = False
        self._catalog.forget()
        self.slave.connection.execute("DEALLOCATE ALL")
        self._applier = Applier(self.slave, self._staging, self._catalog, self._config, self._hooks)

    # Batches

    def step(self, look: bool = False) -> tuple[int, Position]:
        """Move one batch, if there is anything to move.

        Args:
            look: have a look at all sequences as well; also had at first, and when somebody rings
                for more than a change.

        Returns:
            How many changes the log had for it, and the moment the log was read at.
        """
        while True:
            try:
                return self._step(look)
            except DatabaseError as error:
                self._look_again(error)

    def _look_again(self, error: DatabaseError) -> None:
        """Tables were added or removed after a batch was made; another error is raised again."""
        if error.sqlstate == OTHER_VERSION:
            self.slave.check_installed()
        if error.sqlstate != TABLES_CHANGED:
            raise error
        self._log.debug("tables were added or removed: the batch is made again")
        self._sequences.forget()
        self._look_at_tables()

    def _step(self, look: bool) -> tuple[int, Position]:
        sequences = self._sequences
        heard = self.master.connection.heard()
        if ANNOUNCED in heard:
            self._look_at_tables()
            self.restate()
        if SEQUENCES_ANEW in heard:
            sequences.forget()
        if look and self._guard.pending:
            self._guard.follow(self._staging, self._members.applied)
        look = look or any(heard) or sequences.unseen
        while True:
            fetched = self.master.log.fetch(self.cursor.position.snapshot, sequences.relids, look)
            if fetched.changes == () or not self._forwarding.look():
                break
        if fetched.changes is None or self._members.joining:
            return self._large_batch(), fetched.position
        if not all(self._catalog.knows(change.table) for change in fetched.changes):
            # a new column may have a new sequence
            first = sequences.look()
        else:
            first = sequences.moves(fetched)
        if fetched.changes:
            batch = Cursor(self.cursor.batch + 1, fetched.position)
            changes: Sequence[Change] = fetched.changes
            if self._transforming is not None:
                self._begin(self._transforming, batch)
                if self._transforming.changes_rows:
                    changes = list(self._transforming.changes(changes))
                    first = [*self._put_aside(), *first]
            self._fetched(batch)
            self._finish(batch, self._applier.apply(changes, batch, first))
        else:
            sequences.send(first)
            if self._passes(fetched.position):
                return 1, fetched.position
        return len(fetched.changes), fetched.position

    def _passes(self, position: Position) -> bool:
        """Whether there may be changes up to a position that are not for this slave.

        Those are not to be read again, nor to be kept in the log for this slave.
        """
        if not (self._config.filters or self._forwarding.passes_over):
            return False
        if position.log_id <= self.cursor.position.log_id:
            return False
        self.cursor = Cursor(self.cursor.batch, position)
        self._passed = True
        return True

    def confirm_passed(self) -> None:
        """Have the master record what was passed by, if anything was: an empty batch does."""
        if self._passed:
            self._empty_batch(self.cursor.position)

    def _empty_batch(self, read: Position) -> bool:
        """Move both sides to where nothing was found; False: it is to be tried again."""
        batch = Cursor(self.cursor.batch + 1, read)
        self._observe(Step.FETCHED, batch.batch)
        try:
            applied = self._applier.apply((), batch)
        except DatabaseError as error:
            self._look_again(error)
            return False
        self._finish(batch, applied)
        return True

    def _large_batch(self) -> int:
        """Move a batch that is too large for one answer; gives about its number of changes."""
        self._large()
        master = self.master
        with master.connection.transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            now = master.log.position()
            self._forwarding.look()
            until = master.log.cut(self.cursor, now, self._config.batch_rows)
            batch = Cursor(self.cursor.batch + 1, until)
            joining = self._members.due(until, now)
            transforming = self._transforming
            changes_rows = transforming is not None and transforming.changes_rows
            reading = Reading(
                master,
                self._applier.stage,
                self.cursor.position.snapshot,
                until.snapshot,
                apart=self._members.apart(joining),
                statements=self._catalog.statements,
                mixed=self._mixed,
                all_read=self._all_read,
                transforming=transforming if changes_rows else None,
            )
            if transforming is not None:
                self._begin(transforming, batch)
            whole = bool(joining) or changes_rows or self._applier.judge.waiting
            staged, unstaged = reading.read(staged=whole)
        if not staged and not joining and not unstaged:
            # nothing was committed up to that cut: go on from there, it needs no batch
            self.cursor = Cursor(self.cursor.batch, until)
            self._passed = bool(self._config.filters) or self._forwarding.passes_over
            return 1
        self._fetched(batch)
        # not in the transaction above, which would hold its locks on them for long
        first = [*self._put_aside(), *self._sequences.look()]
        if joining:
            self._join(batch, joining, first)
            return max(staged, 1)
        applied = self._applier.apply_staged(batch, first, unstaged)
        self._finish(batch, applied)
        return max(staged, applied, 1)

    def _begin(self, transforming: Transforming, batch: Cursor) -> None:
        """The transform is to see a batch, perhaps once more."""
        self._aside.begin(batch.batch, waiting=self._applier.judge.waiting)
        transforming.begin(batch.batch)

    def _put_aside(self) -> list[sql.Composable]:
        """What writes down the changes of the batch that the transform has failed on."""
        statements = self._aside.statements()
        # what comes after them in the batch may be about them as well
        self._applier.judge.waiting |= bool(statements)
        return statements

    def _fetched(self, batch: Cursor) -> None:
        self._all_read()
        self._observe(Step.FETCHED, batch.batch)

    def _all_read(self) -> None:
        """What was read is complete unless the slave was dropped before.

        The record of the batch on the master would find that out, but in one phase it comes too
        late.
        """
        if self._config.commit is CommitMode.ONE_PHASE:
            self.master.record.check_kept()

    def _join(
        self, batch: Cursor, joining: Sequence[TableCopy], first: Sequence[sql.Composable]
    ) -> None:
        """Move a staged batch that brings tables in; or leave them out when it cannot."""
        first = [*self._members.begin_joining(joining), *first]
        self._catalog.forget()
        try:
            applied = self._applier.apply_staged(batch, first)
        except ApplyError as error:
            self.slave.connection.rollback()
            if not self._members.give_up(joining, error):
                raise
        else:
            self._finish(batch, applied)
            for copy in joining:
                self._log.info("table %s is in step, %d rows were copied", copy, copy.rows or 0)
        self._look_at_tables()

    def _finish(self, batch: Cursor, applied: int) -> None:
        """The batch is prepared: decide it on the master, commit it on the slave."""
        self._observe(Step.PREPARED, batch.batch)
        self.master.record.confirm(batch)
        self._observe(Step.CONFIRMED, batch.batch)
        if self._config.commit is CommitMode.TWO_PHASE:
            self.slave.commit_prepared(batch.batch)
        if applied:
            self.slave.forwarding.ring()
        self.cursor = batch
        self._passed = False
        self.changes += applied
        self._sequences.done()
        met = self._applier.committed()
        aside = self._aside.committed()
        if aside:
            met = (*met, *aside)
            self._applier.judge.look()  # also where all of the batch was put aside
        if self._catalog.altered:
            self._guard.follow(self._staging, self._members.applied)
            self._catalog.altered = False
        self._observe(Step.COMMITTED, batch.batch)
        if met:
            self._count_waiting()
            self._met(met)
        self.restate()
        if self._transforming is not None:
            self._transforming.end(batch.batch)

    def restate(self) -> None:
        """Have the master log the rows again that updates have not found."""
        if self._applier.judge.restating:
            restate(self.master, self.slave)
            self._applier.judge.look()

    # Upkeep

    def look_after_conflicts(self) -> None:
        """Ask again for rows that the master was busy with; forget what was settled long ago."""
        self._applier.judge.look(self._config.keep_conflicts)
        self.restate()
        self._count_waiting()

    def _count_waiting(self) -> None:
        self.waiting = self.slave.conflicts.count().waiting if self._applier.judge.waiting else 0

    def rotate_log(self) -> str | None:
        """Look after the master's log; a failure there must not stop the replication.

        Returns:
            What Master.rotate() says, None after a failure.
        """
        try:
            done = self.master.rotate()
            self.slave.forwarding.rotate(ROTATE_BYTES)
        except DatabaseError as error:
            self._log.warning("the log could not be rotated: %s", error)
            return None
        if done is not None:
            self._log.debug("rotation of the log: %s", done)
        return done

    def tidy_log(self, read: Position) -> bool:
        """Give back what the log has grown by, when there is nothing to be moved.

        A retired segment is truncated once the slave has confirmed a later moment. When no change
        comes that would make it confirm one, an empty batch does, once.

        Args:
            read: a moment up to which the log was read and nothing was found.

        Returns:
            Whether this replication can do no more for now.
        """
        done = self.rotate_log()
        if done == "switched":
            return False  # the moment must be read anew, after the switch
        if done == "waiting" or self._passed:
            if not self._empty_batch(read):
                return False
            self.rotate_log()
        return True

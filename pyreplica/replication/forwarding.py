"""Chains and trees of slaves: what a master forwards, and that no change comes twice, or back.

A replication with ``forward: true`` also carries what others have applied to its master, except
what came from its own slave. Each slave has a record (``replica_source``) of whose changes each
replication brings: those of the master itself, and, where it forwards, of all that the master's
records name. So what is known goes the way that changes go, and ahead of them: a daemon reads the
master's records again after it has read changes and before it applies them. A change that would
come back therefore finds the record that tells so, however the ring was put together.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError, Refused
from pyreplica.master import Master
from pyreplica.model import CapturedTable, Identity, Received
from pyreplica.slave import Slave


class Forwarding:
    """The forwarding of one replication, through the sessions with both sides.

    Attributes:
        passes_over: whether the master's log may hold changes that are not for this slave.
    """

    def __init__(self, config: ReplicationConfig, master: Master, slave: Slave) -> None:
        self._config = config
        self._master = master
        self._slave = slave
        self._known: list[Received] | None = None
        self.passes_over = False

    def begin(self) -> None:
        """Look at all of it; for the daemon, before its first batch.

        Raises:
            Refused: the slave lacks what was not forwarded, or a change would come twice.
        """
        if not self._config.forward:
            self._master.forwarding.want(False)
        else:
            self.check_master()
            if not self._master.forwarding.complete():
                raise Refused(
                    "the slave was copied without `forward: true`, and lacks what other "
                    "replications have applied to the master since",
                    where=self._config.name,
                    hint=f"Copy it anew: `pyreplica copy {self._config.name} --truncate`; or take "
                    "`forward: true` out of the configuration.",
                )
        self.passes_over = self._master.forwarding.on_all_tables()
        self._known = None
        self.look()
        self._slave.forwarding.look()
        self._slave.forwarding.ring()  # of a batch that was committed just now, or before a crash

    def check_master(self) -> None:
        """Raise Refused unless the master forwards as far as this replication wants it to."""
        if self._config.forward and not self._master.forwarding.on_all_tables():
            raise Refused(
                "what other replications apply to the master is not captured there, which "
                "`forward: true` needs",
                where=self._master.connection.where,
                hint=f"Run `pyreplica install {self._config.name}`.",
            )

    def want(self) -> None:
        """Have the master record what the slave is to get, when it is about to be copied."""
        self._master.forwarding.want(self._config.forward)
        self.check_master()  # from here on that cannot be turned off

    def look(self, tables: Iterable[CapturedTable] = ()) -> bool:
        """Look whose changes the master forwards, and record on the slave that they come here.

        Args:
            tables: that are to be copied, besides those that the slave has.

        Returns:
            Whether that has changed: then what was read of the log has to be read anew.

        Raises:
            Refused: a change would come back to where it was made, or come here twice.
        """
        received = self._master.forwarding.received() if self._config.forward else []
        if received == self._known:
            return False
        here = self._slave.identity()
        itself = self._master.identity()
        sources = {itself}
        for one in received:
            if one.master != here:  # else it is not sent
                self._refuse_ring(one, here)
                sources |= {one.master, *one.sources}
        forwarding = self._slave.forwarding
        with self._slave.connection.transaction():
            forwarding.lock()
            self._refuse_twice(itself, sources, tables)
            if forwarding.sources() != sources:
                forwarding.record(sources)
        self._known = received
        return True

    def _refuse_ring(self, one: Received, here: Identity) -> None:
        if here in one.sources:
            raise self._refusal(
                f"what is written in {here} would come back to it: {one.replication} brings it to "
                "the master, which forwards it"
            )

    def _refuse_twice(
        self, itself: Identity, sources: set[Identity], tables: Iterable[CapturedTable]
    ) -> None:
        for other in self._slave.forwarding.others(tables):
            # two that come straight from one master are not a matter of forwarding
            if other.source in sources and not other.source == itself == other.master:
                raise self._refusal(
                    f"what is written in {other.source} to table {other.table} would come here "
                    f"twice: with this replication and with {other.replication}"
                )

    def _refusal(self, what: str) -> PyReplicaError:
        return Refused(
            what,
            where=self._config.name,
            hint="Take `forward: true` away from one of the replications on that way; "
            "docs/cascading.md shows which shapes there can be.",
        )

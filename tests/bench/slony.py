"""Slony-I: C triggers, and a slon for each side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyreplica.demo.cluster import Cluster
from tests.bench.daemons import LIMIT, Daemon, program, run
from tests.bench.system import System, debian_version, value
from tests.support import eventually

# -s: a SYNC event every 100 ms. -g: how many of them the slave may apply in one transaction; from
# 20 to 1000 there was no difference. -t: how long the slave waits at most before it looks for
# events again; with the default of 10 s it would do so in the middle of a measurement.
_OPTIONS = ("-s", "100", "-g", "80", "-t", "100")

_ACTIVE = "SELECT coalesce(bool_and(sub_active), false) FROM _bench.sl_subscribe"


class Slony(System):
    """Two nodes and one set; the slave does not forward, so that it keeps no log of its own."""

    name = "slony"
    title = "Slony-I"
    packages = ("slony1-2-bin", "postgresql-15-slony1-2")

    def __init__(self, master: Cluster, slave: Cluster, folder: Path) -> None:
        super().__init__(master, slave, folder)
        self._slons: list[Daemon] = []

    def set_up(self, tables: Sequence[str]) -> None:
        """Make the nodes and the set, start the slons, and wait until the slave has subscribed."""
        self._slonik(
            "init cluster (id = 1, comment = 'master');",
            "create set (id = 1, origin = 1, comment = 'bench');",
            *(
                f"set add table (set id = 1, origin = 1, id = {number}, "
                f"fully qualified name = 'public.{table}');"
                for number, table in enumerate(tables, 1)
            ),
            "store node (id = 2, comment = 'slave', event node = 1);",
            f"store path (server = 1, client = 2, conninfo = '{self.master_dsn}');",
            f"store path (server = 2, client = 1, conninfo = '{self.slave_dsn}');",
        )
        slon = program("slon", self.master)
        for side, dsn in (("master", self.master_dsn), ("slave", self.slave_dsn)):
            log = self.folder / f"slon-{side}.log"
            self._slons.append(Daemon([slon, *_OPTIONS, "bench", dsn], log))
        self._slonik("subscribe set (id = 1, provider = 1, receiver = 2, forward = no);")
        eventually(lambda: bool(value(self.slave_dsn, _ACTIVE)), "it has subscribed", LIMIT)

    def pause(self) -> None:
        """Stop the slave's slon; the master's goes on making SYNC events."""
        self._slons[1].stop((self.master, self.slave), "slon.%")

    def resume(self) -> None:
        """Let it go on."""
        self._slons[1].go_on()

    def tear_down(self) -> None:
        """End the slons."""
        for slon in self._slons:
            slon.end()

    @property
    def version(self) -> str:
        """The version, and how the slons are started."""
        return f"{debian_version('slony1-2-bin')}, slon {' '.join(_OPTIONS)}, forward = no"

    def processes(self) -> list[int]:
        """The slons; each is two processes."""
        return [pid for slon in self._slons for pid in slon.pids]

    def _slonik(self, *commands: str) -> None:
        script = (
            "cluster name = bench;",
            f"node 1 admin conninfo = '{self.master_dsn}';",
            f"node 2 admin conninfo = '{self.slave_dsn}';",
            *commands,
        )
        run([program("slonik", self.master)], "\n".join(script))

"""The triggers: PyReplica's, that of 2008, a plain one in PL/pgSQL, PgQ's and Slony-I's in C."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import yaml

import pyreplica
from pyreplica.demo.cluster import Cluster
from tests.bench.daemons import program, run
from tests.bench.system import debian_version, execute, value
from tests.support import pyreplica as command

TABLE = "CREATE TABLE bench (id int PRIMARY KEY, t text, n float8, f timestamptz, b bool)"
_LIMIT = 600.0


class Kind(ABC):
    """A trigger on the table ``bench``, in a database of its own.

    Args:
        cluster: a server that runs.
        folder: for files.

    Attributes:
        name: what its database is called.
        title: what it is called in tables.
        packages: Debian's packages that it is in.
        logged: counts the rows that it has logged; empty when it logs none.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    logged: ClassVar[str] = ""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        cluster.create_database(self.name)
        execute(self.dsn, TABLE)
        self.set_up()

    @classmethod
    def missing(cls) -> list[str]:
        """The packages that are not installed."""
        return [package for package in cls.packages if not _installed(package)]

    @property
    def dsn(self) -> str:
        """Connects to its database."""
        return self.cluster.dsn(self.name)

    @abstractmethod
    def set_up(self) -> None:
        """Have the table captured."""

    @property
    def version(self) -> str:
        """The versions of its packages."""
        return ", ".join(f"{package} {debian_version(package)}" for package in self.packages)

    def count(self) -> tuple[int, int]:
        """The rows of the table, and those that were logged."""
        rows = value(self.dsn, "SELECT count(*) FROM bench")
        return rows, value(self.dsn, self.logged) if self.logged else 0

    def empty(self) -> None:
        """Take the table's rows away, and log nothing of that; what was logged stays."""
        execute(self.dsn, "SET session_replication_role = replica", "TRUNCATE bench")


class NoTrigger(Kind):
    """What the others are measured by."""

    name = "none"
    title = "no trigger"

    def set_up(self) -> None:
        """Nothing."""


class PyReplica(Kind):
    """As it is installed, for a slave whose daemon does not run."""

    name = "pyreplica"
    title = "PyReplica"
    logged = "SELECT count(*) FROM pyreplica.replica_log"

    def set_up(self) -> None:
        """Install, and copy to another database, so that the log is kept for it."""
        slave = f"{self.name}_slave"
        self.cluster.create_database(slave)
        execute(self.cluster.dsn(slave), TABLE)
        settings = {
            "master": self.dsn,
            "slave": self.cluster.dsn(slave),
            "tables": ["public.bench"],
            # the master's server does not prepare, as it does not elsewhere
            "commit": "one-phase",
        }
        config = self.folder / f"{self.name}.yaml"
        config.write_text(yaml.safe_dump({"replications": {"bench": settings}}))
        for arguments in (("install", "bench"), ("copy", "bench")):
            command(config, *arguments, timeout=_LIMIT)

    @property
    def version(self) -> str:
        """The version."""
        return f"{pyreplica.__version__}, capture: plpython3u"


class PlPgSQL(PyReplica):
    """The same with the other language."""

    name = "pyreplica_plpgsql"
    title = "PyReplica, PL/pgSQL"

    def set_up(self) -> None:
        """Install, then change the language."""
        super().set_up()
        execute(self.dsn, "SELECT pyreplica.set_capture('plpgsql')")

    @property
    def version(self) -> str:
        """The version."""
        return f"{pyreplica.__version__}, after set_capture('plpgsql')"


class Original(Kind):
    """As in 2008: SQL text of each row, made in Python, and a NOTIFY."""

    name = "original"
    title = "as in 2008"
    logged = "SELECT count(*) FROM replica_log"

    def set_up(self) -> None:
        """Only what an INSERT needs."""
        execute(
            self.dsn,
            "CREATE EXTENSION plpython3u",
            "CREATE TABLE replica_log (id serial PRIMARY KEY, sql text)",
            """
CREATE FUNCTION replica_capture() RETURNS trigger LANGUAGE plpython3u AS $$
new = TD["new"]
sql = "INSERT INTO %s (%s) VALUES (%s)" % (
    plpy.quote_ident(TD["table_name"]),
    ", ".join(plpy.quote_ident(column) for column in new),
    ", ".join(plpy.quote_nullable(None if v is None else str(v)) for v in new.values()),
)
plpy.execute("INSERT INTO replica_log (sql) VALUES (%s)" % plpy.quote_literal(sql))
plpy.execute("NOTIFY replica")
$$""",
            "CREATE TRIGGER replica_capture AFTER INSERT ON bench "
            "FOR EACH ROW EXECUTE FUNCTION replica_capture()",
        )

    @property
    def version(self) -> str:
        """What it does."""
        return "a row trigger in plpython3u, which logs SQL text and does NOTIFY"


class Plain(Kind):
    """The least that a trigger in PL/pgSQL can do."""

    name = "plain"
    title = "plain PL/pgSQL"
    logged = "SELECT count(*) FROM plain_log"

    def set_up(self) -> None:
        """A log, and the row as jsonb."""
        execute(
            self.dsn,
            "CREATE TABLE plain_log (id bigserial PRIMARY KEY, "
            "txid xid8 DEFAULT pg_current_xact_id(), row jsonb)",
            """
CREATE FUNCTION plain_capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO plain_log (row) VALUES (to_jsonb(NEW));
    RETURN NULL;
END
$$""",
            "CREATE TRIGGER plain_capture AFTER INSERT ON bench "
            "FOR EACH ROW EXECUTE FUNCTION plain_capture()",
        )

    @property
    def version(self) -> str:
        """What it does."""
        return "a row trigger, which logs to_jsonb(NEW)"


class PgQ(Kind):
    """The trigger of Londiste, without the rest of it."""

    name = "pgq"
    title = "PgQ, C"
    packages: ClassVar[tuple[str, ...]] = ("postgresql-15-pgq3",)
    logged = "SELECT count(*) FROM pgq.event_template"

    def set_up(self) -> None:
        """A queue, which nobody reads."""
        execute(
            self.dsn,
            "CREATE EXTENSION pgq",
            "SELECT pgq.create_queue('bench')",
            "CREATE TRIGGER pgq_capture AFTER INSERT OR UPDATE OR DELETE ON bench "
            "FOR EACH ROW EXECUTE FUNCTION pgq.logutriga('bench')",
        )


class Slony(Kind):
    """The trigger of Slony-I, on a node that is alone."""

    name = "slony"
    title = "Slony-I, C"
    packages = ("slony1-2-bin", "postgresql-15-slony1-2")
    logged = (
        "SELECT (SELECT count(*) FROM _bench.sl_log_1) + (SELECT count(*) FROM _bench.sl_log_2)"
    )

    def set_up(self) -> None:
        """A node and a set; the triggers are active then."""
        script = (
            "cluster name = bench;",
            f"node 1 admin conninfo = '{self.dsn}';",
            "init cluster (id = 1, comment = 'master');",
            "create set (id = 1, origin = 1, comment = 'bench');",
            "set add table (set id = 1, origin = 1, id = 1, "
            "fully qualified name = 'public.bench');",
        )
        run([program("slonik", self.cluster)], "\n".join(script))


def _installed(package: str) -> bool:
    query = ("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}", package)
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.startswith("ii")


KINDS: tuple[type[Kind], ...] = (NoTrigger, PyReplica, PlPgSQL, Original, Plain, PgQ, Slony)

"""Mails end to end: one daemon with real replications, and trouble of each kind that it mails.

Its start, its stop, errors and recoveries are in test_alerts.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage
from pathlib import Path

import pytest

from pyreplica.daemon.alerts.texts import this_host
from pyreplica.demo.cluster import Cluster
from tests.conftest import Databases
from tests.integration.cli_support import write_config
from tests.integration.service_support import moves, settings, shared_databases
from tests.mailserver import MailServer, mail_server
from tests.support import connect, daemon, eventually, pyreplica, sql, value

TROUBLES = {
    "lags": {"lag_alert": "5s"},
    "differs": {},
    "doubts": {"in_doubt_alert": "1s"},
    "fills": {"max_log_size": "1MB"},
    "overflows": {"max_log_size": "1MB"},
}
"""A replication for each trouble, with a table of that name, and the limit that it is to pass."""
ROWS = 500
"""So many rows are about a tenth of a megabyte of log."""


@dataclass(frozen=True)
class Scene:
    """A daemon that mails, and whom it mails to."""

    databases: Databases
    server: MailServer
    path: Path


@pytest.fixture(scope="module")
def scene(
    master_cluster: Cluster, slave_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """The one of all tests here; each has a replication of its own."""
    name, folder = "test_alert_mails", tmp_path_factory.mktemp("alert_mails")
    with (
        shared_databases(name, master_cluster, slave_cluster, tuple(TROUBLES)) as databases,
        mail_server() as server,
    ):
        path = write_config(
            folder / "mails.yaml",
            {name: settings(databases, name, **limit) for name, limit in TROUBLES.items()},
            defaults={"keepalive": "1s", "lag_alert": "none"},
            alerts={
                "email": {
                    "host": "127.0.0.1",
                    "port": server.port,
                    "security": "none",
                    "from": "pyreplica@shop.test",
                    "to": ["dba@shop.test"],
                }
            },
        )
        with daemon(path) as running:
            for name in TROUBLES:
                running.until_said(f"{name}: connected, at batch")
            yield Scene(databases, server, path)


@dataclass(frozen=True)
class Said:
    """What a mail says.

    Attributes:
        what: what has happened.
        to_do: what to do about it.
        lasted: how long it had been so when the mail was made; None where that is not said.
        text: all of it.
    """

    what: str
    to_do: str
    lasted: timedelta | None
    text: str


def moment(text: str) -> datetime:
    """A moment as mails have it."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=timezone.utc)


def read(mail: EmailMessage, name: str, event: str) -> Said:
    """Read a mail; whatever it is about, these things are in it."""
    text = "\n".join(mail.get_content().splitlines())
    head = text.split("\n\n", 1)[0]
    facts = dict(re.findall(r"^([A-Z][\w ]+): +(.*)$", head, re.MULTILINE))
    assert facts["Replication"] == name
    assert facts["Event"] == event
    assert facts["Host"] == this_host()
    subject = str(mail["Subject"]).strip()  # it may begin on a line of its own
    assert subject.startswith(f"[pyreplica] {name}: {event}: {facts['What']}"[:100])  # or be cut
    assert subject.endswith(f" ({this_host()})")
    assert mail["To"] == "dba@shop.test"
    at = moment(facts["At"])
    lasted = None
    if "Since" in facts:
        since, _, ago = facts["Since"].partition(" (")
        lasted = at - moment(since)
        assert ago.endswith(" before)")
    lines = text.partition("\n\nThe last lines of the log:\n\n")[2].partition("\n\n-- \n")[0]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC (INFO|WARNING|ERROR) ", lines)
    return Said(facts["What"], facts["What to do"], lasted, text)


def test_a_lag_over_the_limit_is_mailed_and_so_is_its_end(scene: Scene) -> None:
    with connect(scene.databases.slave) as somebody:
        somebody.execute("BEGIN; LOCK TABLE public.lags")
        sql(scene.databases.master, "INSERT INTO public.lags VALUES (0)")
        mail = scene.server.until_subject("lags: lag: ")
        somebody.execute("COMMIT")
    lag = read(mail, "lags", "lag")
    assert re.fullmatch(r"the slave may be 0:00:\d\d behind the master", lag.what)
    assert lag.lasted is not None
    assert lag.lasted >= timedelta(seconds=5)
    assert lag.to_do.startswith("See `pyreplica status lags`; ")
    ended = scene.server.until_subject("lags: lag over: ")
    over = read(ended, "lags", "lag over")
    assert over.what.endswith(" behind the master at most")
    assert over.to_do == "Nothing has to be done."
    assert ended["References"] == mail["Message-ID"]
    moves(scene.databases, "lags")


def test_a_conflict_is_mailed_with_its_table_and_where_to_look(scene: Scene) -> None:
    moves(scene.databases, "differs")
    sql(scene.databases.slave, "DELETE FROM public.differs")
    sql(scene.databases.master, "DELETE FROM public.differs")
    conflict = read(scene.server.until_subject("differs: conflict: "), "differs", "conflict")
    assert conflict.what.startswith("conflict delete_missing on public.differs: 1 row")
    assert '{"id": "1"}' in conflict.what
    assert conflict.to_do == "See `pyreplica conflicts list differs --all`."
    listed = pyreplica(scene.path, "conflicts", "list", "differs", "--all").stdout
    assert "delete_missing" in listed


def test_a_batch_in_doubt_is_mailed_when_it_is_too_old_and_when_it_is_decided(
    scene: Scene,
) -> None:
    with connect(scene.databases.master) as somebody:
        # the batch is prepared then, and cannot be confirmed
        somebody.execute(
            "BEGIN; SELECT FROM pyreplica.replica_slave WHERE replication = 'doubts' FOR UPDATE"
        )
        sql(scene.databases.master, "INSERT INTO public.doubts VALUES (0)")
        mail = scene.server.until_subject("doubts: in doubt: ")
        somebody.execute("COMMIT")
    doubt = read(mail, "doubts", "in doubt")
    assert re.match(r"slave: batch \d+ is in doubt for 0:00:\d\d: ", doubt.what)
    assert " pyreplica:doubts:" in doubt.what
    assert doubt.lasted is not None
    assert doubt.lasted >= timedelta(seconds=1)
    assert 'docs/protocol.md, "A batch in doubt"' in doubt.to_do
    ended = scene.server.until_subject("doubts: in doubt over: ")
    over = read(ended, "doubts", "in doubt over")
    assert over.what == "slave: no batch is in doubt any more"
    assert over.to_do == "Nothing has to be done."
    assert ended["References"] == mail["Message-ID"]
    moves(scene.databases, "doubts")


def used(scene: Scene, name: str) -> int:
    """How much of its log's limit a replication uses, in percent."""
    query = "SELECT log_percent FROM pyreplica.replication_status WHERE replication = '{}'"
    return int(value(scene.databases.master, query.format(name)))


def fill(scene: Scene, name: str) -> None:
    """Write rows."""
    first = f"SELECT coalesce(max(id), 0) + 1 FROM public.{name}"
    sql(
        scene.databases.master,
        f"INSERT INTO public.{name} SELECT f + i FROM ({first}) AS t (f), "
        f"generate_series(1, {ROWS}) i",
    )


def test_a_log_near_its_limit_and_a_pause_are_mailed_and_so_are_their_ends(scene: Scene) -> None:
    pyreplica(scene.path, "pause", "fills", "--reason", "new disks")
    pause_mail = scene.server.until_subject("fills: paused: ")
    paused = read(pause_mail, "fills", "paused")
    assert re.fullmatch(r"paused by .+: new disks", paused.what)
    assert paused.to_do == ("`pyreplica resume fills` ends it; until then the master's log grows.")
    for percent, pattern in ((52, r" [5-7]\d% of "), (82, r" [89]\d% of ")):
        while used(scene, "fills") < percent:
            fill(scene, "fills")
        mail = scene.server.until_like(f"fills: log: .*{pattern}max_log_size")
        log = read(mail, "fills", "log")
        assert "of max_log_size (1.0 MB); past 100 % the slave is dropped" in log.what
        assert log.lasted is not None
        assert log.to_do == ("See what holds it up, or raise the limit: `pyreplica status fills`.")
    pyreplica(scene.path, "resume", "fills")
    ended = scene.server.until_subject("fills: resumed: ")
    resumed = read(ended, "fills", "resumed")
    assert resumed.what == "goes on after the pause"
    assert resumed.to_do == "Nothing has to be done."
    assert ended["References"] == pause_mail["Message-ID"]
    over = read(scene.server.until_subject("fills: log over: "), "fills", "log over")
    assert "is below 50 % of its limits again" in over.what
    assert over.to_do == "Nothing has to be done."
    moves(scene.databases, "fills")


def test_a_slave_that_is_dropped_is_mailed_and_that_its_replication_has_ended(
    scene: Scene,
) -> None:
    pyreplica(scene.path, "pause", "overflows")
    state = "SELECT state FROM pyreplica.replica_slave WHERE replication = 'overflows'"

    def dropped() -> bool:
        fill(scene, "overflows")
        return bool(value(scene.databases.master, state) == "dropped")

    eventually(dropped, "it is not dropped")
    mail = scene.server.until_subject("overflows: slave dropped: ")
    found = read(mail, "overflows", "slave dropped")
    assert found.what.startswith("master: the slave was dropped on ")
    assert "past max_log_size (1024 kB)" in found.what
    assert "Copy it anew: `pyreplica copy overflows --truncate`." in found.to_do
    ended = read(scene.server.until_subject("overflows: stopped: "), "overflows", "stopped")
    assert "the replication has ended: " in ended.what
    assert "`pyreplica copy overflows --truncate`" in ended.to_do
    moves(scene.databases, "differs")

"""check-lag: what a scheduler of checks reads, one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import re
import socket
from pathlib import Path

import pytest

from pyreplica.cli import main
from pyreplica.cli.check_lag import Level, judged
from pyreplica.replication.report import Report
from tests.conftest import Databases
from tests.integration.cli_support import SECRET, TABLES, execute, once, pair, wait, write_config
from tests.support import config_file, connect, daemon, pyreplica, set_up, sql

FIGURES = re.compile(r"((^| )\w+=(U|-?[0-9.]+)(s|B)?;([0-9.]*;){2}[0-9.]*)+")


def checked(path: Path, *options: str, code: int) -> str:
    """The one line of the check."""
    arguments = main.parser().parse_args(["--config", str(path), "check-lag", *options])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert arguments.execute(arguments) == code, out.getvalue()
    (line,) = out.getvalue().splitlines()
    said, _, figures = line.partition(" | ")
    assert said.startswith(f"PYREPLICA {Level(code).name} - "), line
    if figures:
        assert FIGURES.fullmatch(figures), figures
    return line


# Each state and lag, with warning at 10 and critical at 60 seconds.
JUDGED = [
    ("in step", 0, Level.OK),
    ("catching up", 9.9, Level.OK),
    ("adding", 0, Level.OK),
    ("catching up", 10, Level.WARNING),
    ("catching up", 60, Level.CRITICAL),
    ("incomplete", 0, Level.WARNING),
    ("incomplete", 61, Level.CRITICAL),
    ("failing", 0, Level.WARNING),
    ("failing", 61, Level.CRITICAL),
    ("copying", None, Level.WARNING),
    ("pausing", 0, Level.WARNING),
    ("paused", 0, Level.WARNING),
    ("paused", 1000, Level.WARNING),
    ("stopped", 0, Level.CRITICAL),
    ("died", 0, Level.CRITICAL),
    ("needs a new copy", None, Level.CRITICAL),
    ("not copied", None, Level.CRITICAL),
    ("refused", None, Level.CRITICAL),
    ("unreachable", None, Level.UNKNOWN),
]


@pytest.mark.parametrize(("state", "lag", "level"), JUDGED)
def test_how_bad_a_state_is(state: str, lag: float | None, level: Level) -> None:
    assert judged(Report("shop", state, lag_seconds=lag), 10, 60) is level


def test_every_state_of_status_is_judged() -> None:
    states = set(re.findall(r'"([a-z ]+)"', (Report.__doc__ or "").split("lag_seconds")[0]))
    assert states == {state for state, _, _ in JUDGED}


def test_without_the_slave_the_master_alone_knows_the_lag() -> None:
    away = Report("shop", "unreachable", log_age_seconds=30)
    assert judged(away, 10, 60) is Level.WARNING
    assert judged(away, 40, 60) is Level.UNKNOWN


def test_a_check_of_a_life(databases: Databases, tmp_path: Path) -> None:
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    set_up(path)
    assert "shop stopped" in checked(path, code=2)
    done = pyreplica(path, "check-lag", code=2)
    assert done.stdout.startswith("PYREPLICA CRITICAL - shop stopped, lag 0 ms | shop_lag=")
    assert done.stderr == ""
    with daemon(path) as running:
        once(path, "in step")
        line = checked(path, "--warning", "10s", "--critical", "1m", "shop", code=0)
        assert re.search(
            r" \| shop_lag=0\.000s;10;60;0 shop_changes=0;;;0 shop_log=\d+B;;;0$", line
        )
        with connect(databases.slave) as blocker:
            blocker.execute("BEGIN; LOCK TABLE public.item")
            sql(databases.master, "UPDATE public.item SET price = 0 WHERE id = 1")
            once(path, "catching up")
            assert "shop catching up, lag " in checked(path, "--warning", "1ms", code=1)
            checked(path, "--warning", "1ms", "--critical", "0.002", code=2)
            blocker.execute("ROLLBACK")
        pyreplica(path, "pause", "--reason", "one|two")
        assert ": one/two" in checked(path, "--warning", "0s", "--critical", "0s", code=1)
        pyreplica(path, "resume")
        wait(path)
        running.kill()
    assert "shop died" in checked(path, code=2)
    databases.slave_cluster.stop()
    assert "cannot connect" in checked(path, code=3)
    databases.slave_cluster.start()
    # the worst of several decides, and comes first
    replications = {
        "away": pair(databases, slave="host=/nonexistent dbname=x"),
        "shop": pair(databases),
    }
    both = write_config(tmp_path / "both.yaml", replications)
    assert checked(both, code=2).startswith("PYREPLICA CRITICAL - shop died")


def test_a_server_that_never_answers_is_unknown_in_time(
    databases: Databases, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        slave = f"host=127.0.0.1 port={port} dbname=x user=u password={SECRET}"
        replications = {"shop": pair(databases, slave=slave)}
        path = write_config(tmp_path / "shop.yaml", replications)
        path.chmod(0o600)
        line = checked(path, "--timeout", "300ms", code=3)
    assert "shop unreachable, no answer within 0.3 s" in line
    assert " | shop_lag=U;10;60;0" in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--warning", "2m", "--critical", "1m"], "--warning (120 s) is more than --critical"),
        (["--warning", "soon"], "--warning: 'soon' is no duration"),
        (["nobody"], "there is no replication named nobody"),
    ],
)
def test_a_mistake_is_unknown_and_never_looks_like_an_answer(
    options: list[str], says: str, databases: Databases, tmp_path: Path
) -> None:
    assert says in checked(config_file(tmp_path, databases), *options, code=3)
    assert "cannot be read" in checked(tmp_path / "none.yaml", code=3)

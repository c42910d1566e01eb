"""Alerts with real mail servers, real commands, and a real daemon whose slave goes away."""

from __future__ import annotations

import json
import logging
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyreplica.backoff import Backoff
from pyreplica.config import Config, parse
from pyreplica.config.alerts import EmailConfig, Security
from pyreplica.daemon.alerts import PATIENCE, Alerts, command, texts
from pyreplica.daemon.alerts.channel import Channel
from pyreplica.daemon.alerts.holding import Holder, Notice, problem_of
from pyreplica.daemon.alerts.mail import LIMIT_FACTOR, Sent
from pyreplica.daemon.alerts.outbox import Outbox
from pyreplica.daemon.alerts.ways import Mailing
from pyreplica.errors import PyReplicaError, Unreachable
from pyreplica.model import Event, EventKind
from tests.conftest import Databases
from tests.integration.cli_support import SECRET, TABLES, execute, pair, rows, wait, write_config
from tests.mailserver import (
    Certificates,
    MailServer,
    certificates,
    dripping_server,
    free_port,
    mail_server,
    silent_server,
)
from tests.support import daemon, eventually, pyreplica, set_up

LIMIT = 30.0
TO = ("dba@shop.test", "ops@shop.test")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def _plain() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def server(_plain: MailServer) -> MailServer:
    """A mail server without TLS that has got nothing and refuses nothing."""
    _plain.mails.clear()
    _plain.refused = {}
    _plain.refusal = None
    return _plain


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("pyreplica").propagate = True
    caplog.set_level(logging.INFO, "pyreplica")
    return caplog


def to_server(port: int, **settings: Any) -> EmailConfig:
    """Mails to a server on this machine."""
    made = EmailConfig("127.0.0.1", "pyreplica@shop.test", TO, port, Security.NONE, timeout=LIMIT)
    return replace(made, **settings)


def an_error(what: str = "shop: slave: cannot connect", name: str = "shop") -> Event:
    return Event(EventKind.ERROR, name, datetime.now(timezone.utc), what, hint="Start it.")


def notice(event: Event) -> Notice:
    return Notice(event, problem_of(event))


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state.rpartition(")")[2].split()[0] == "Z"


def sent(config: EmailConfig, text: str = "shop: slave: cannot connect") -> Sent:
    """Send a mail about an error."""
    way = Mailing(config, lambda name: [])
    return way.send(way.post([notice(an_error(text))]))


# TLS, login, refusals


def test_a_mail_goes_over_starttls_with_a_login(certified: Certificates) -> None:
    with mail_server(starttls=certified.server, login=("me", SECRET)) as server:
        config = to_server(
            server.port,
            host="localhost",
            security=Security.STARTTLS,
            ca_file=certified.ca_file,
            user="me",
            password=SECRET,
        )
        done = sent(config)
        with pytest.raises(Unreachable) as caught:
            sent(replace(config, password="wrong"))
    assert done.accepted == TO
    assert (done.tls or "").startswith("TLSv1.")
    assert server.secured == [True]
    assert server.logins == ["me"]
    assert server.mails[0][1] == TO
    assert "the login as me is refused: 535" in caught.value.line
    assert "wrong" not in f"{caught.value.line}{caught.value.hint}{caught.value.details}"


def test_a_mail_goes_over_tls_from_the_first_byte(certified: Certificates) -> None:
    with mail_server(tls=certified.server, login=("me", SECRET)) as server:
        config = to_server(
            server.port,
            host="localhost",
            security=Security.TLS,
            ca_file=certified.ca_file,
            user="me",
            password=SECRET,
        )
        assert (sent(config).tls or "").startswith("TLSv1.")
        assert len(server.mails) == 1
        with pytest.raises(Unreachable, match="no answer within 1 s"):
            sent(replace(config, security=Security.STARTTLS, timeout=1))


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
@pytest.mark.parametrize("wrong", ["signer", "name", "system"])
def test_a_certificate_that_does_not_fit_is_refused_and_nothing_is_sent(
    wrong: str, security: Security, certified: Certificates
) -> None:
    tls = security is Security.TLS
    with mail_server(
        tls=certified.server if tls else None, starttls=None if tls else certified.server
    ) as server:
        config = to_server(
            server.port,
            host="127.0.0.1" if wrong == "name" else "localhost",
            security=security,
            ca_file={"signer": certified.other_ca_file, "name": certified.ca_file}.get(wrong),
        )
        with pytest.raises(Unreachable, match="its certificate is not accepted") as caught:
            sent(config)
    assert "ca_file" in caught.value.hint
    assert server.mails == []


def test_a_server_without_starttls_gets_nothing(server: MailServer) -> None:
    config = to_server(server.port, security=Security.STARTTLS)
    with pytest.raises(Unreachable, match="does not offer STARTTLS, and nothing is sent"):
        sent(config)
    assert server.mails == []


def test_tls_with_a_server_that_does_not_speak_it_says_so(server: MailServer) -> None:
    with pytest.raises(Unreachable, match="TLS fails: ") as caught:
        sent(to_server(server.port, security=Security.TLS))
    assert "port 465" in caught.value.hint


def test_a_server_that_is_down_or_unknown_is_named(said: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with pytest.raises(Unreachable) as caught:
        sent(to_server(port))
    assert caught.value.line == (
        f"mail server 127.0.0.1:{port}: cannot be reached: Connection refused"
    )
    with pytest.raises(Unreachable, match=r"mail\.invalid:25: cannot be reached: "):
        sent(to_server(25, host="mail.invalid"))


def test_a_server_that_never_answers_is_given_up_after_the_timeout() -> None:
    with silent_server() as port, pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        sent(to_server(port, timeout=0.2))


def test_a_server_that_answers_in_drops_is_given_up_too() -> None:
    with dripping_server() as port:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="the connection was lost"):
            sent(to_server(port, timeout=0.5))
        assert time.monotonic() - began < 0.5 * LIMIT_FACTOR + LIMIT


def test_a_recipient_that_is_refused_does_not_keep_the_others_from_their_mail(
    server: MailServer, said: pytest.LogCaptureFixture
) -> None:
    server.refused = {TO[0]: "550 no such user"}
    way = Mailing(to_server(server.port), lambda name: [])
    assert way.deliver(way.post([notice(an_error())])) is None
    assert server.mails[0][1] == TO[1:]
    assert f"refuses mail to {TO[0]}: 550 no such user" in said.text


def test_a_recipient_that_is_refused_for_now_gets_the_mail_later_and_the_others_once(
    server: MailServer,
) -> None:
    server.refused = {TO[0]: "450 greylisted"}
    way = Mailing(to_server(server.port), lambda name: [])
    left = way.deliver(way.post([notice(an_error())]))
    assert left is not None
    assert left.to == TO[:1]
    server.refused = {}
    assert way.deliver(left) is None
    assert [to for _, to in server.mails] == [TO[1:], TO[:1]]
    first, second = (mail["Message-ID"] for mail, _ in server.mails)
    assert first == second


def test_a_mail_that_nobody_may_get_is_given_up_and_one_that_is_refused_for_now_is_not(
    server: MailServer,
) -> None:
    way = Mailing(to_server(server.port), lambda name: [])
    post = way.post([notice(an_error())])
    server.refused = dict.fromkeys(TO, "550 no such user")
    with pytest.raises(PyReplicaError, match="no recipient is accepted") as caught:
        way.deliver(post)
    assert not caught.value.retry
    server.refused = {}
    for refusal, retry in (("554 no spam", False), ("451 not now", True)):
        server.refusal = refusal
        with pytest.raises(PyReplicaError, match=refusal) as caught:
            way.deliver(post)
        assert caught.value.retry is retry


def test_words_in_any_language_arrive_as_they_are(server: MailServer) -> None:
    sent(to_server(server.port), "shop: Überlauf: «ж» 日本\r\nBcc: thief@evil.test")
    ((mail, to),) = server.mails
    assert "error: Überlauf: «ж» 日本 Bcc: thief@evil.test" in mail["Subject"]
    assert mail["Bcc"] is None
    assert to == TO
    assert "Überlauf: «ж» 日本" in mail.get_content()


# The thread


def channel_to(port: int, **settings: Any) -> Channel[Any]:
    """Mails by a thread that tries again soon."""
    way = Mailing(to_server(port, **settings), lambda name: [])
    way.gather = 0.0
    outbox = Outbox("mail", way.deliver, Backoff(0.01, 0.05))
    return Channel(way, Holder(frozenset(EventKind), 3600), outbox)


def test_a_mail_is_delivered_when_its_server_is_back(said: pytest.LogCaptureFixture) -> None:
    port = free_port()
    channel = channel_to(port)
    channel.start()
    channel.put(an_error())
    eventually(lambda: "cannot be reached: Connection refused; tried again later" in said.text)
    with mail_server(port) as server:
        server.until(1)
        eventually(lambda: "a mail was delivered again" in said.text)
        channel.end()
        channel.join(LIMIT)
    assert len(server.mails) == 1


def config_of(alerts: dict[str, Any] | None) -> Config:
    pair = {"master": "dbname=a", "slave": "dbname=b"}
    root: dict[str, Any] = {"replications": {"shop": pair}}
    return parse(yaml.safe_dump(root | ({"alerts": alerts} if alerts else {})), "a.yaml", {})


def email_to(port: int, **more: Any) -> dict[str, Any]:
    """The section ``email``."""
    return {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "from": "pyreplica@shop.test",
        "to": list(TO),
        **more,
    }


def test_the_stop_mail_goes_out_before_the_end(server: MailServer) -> None:
    alerts = Alerts(config_of({"email": email_to(server.port)}))
    alerts.start()
    alerts.event(Event(EventKind.STOPPED, "shop", datetime.now(timezone.utc), "shop: stopped"))
    alerts.stop()
    assert "shop: stopped" in server.subjects[0]


def test_a_hanging_mail_server_holds_the_end_up_for_seconds_only(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyreplica.daemon.alerts.PATIENCE", 0.5)
    with silent_server() as port:
        alerts = Alerts(config_of({"email": email_to(port, timeout="10min")}))
        alerts.start()
        began = time.monotonic()
        for n in range(2_000):
            alerts.event(an_error(name=f"shop{n}"))
        assert time.monotonic() - began < PATIENCE
        alerts.stop()
        assert time.monotonic() - began < 3 * PATIENCE
    # what had not become a mail by then is counted
    assert "the daemon ends" in said.text


def test_alerts_come_and_go_and_change_with_the_configuration(
    server: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mailing, "gather", 0.0)
    alerts = Alerts(config_of(None))
    alerts.start()
    alerts.event(an_error("shop: nobody is told"))
    alerts.reload(config_of({"email": email_to(server.port, to=[TO[0]])}))
    alerts.event(an_error("shop: the first"))
    assert "the first" in server.until(1)[0]["Subject"]
    written = tmp_path / "events"
    run = ["sh", "-c", f"cat >>{shlex.quote(str(written))}"]
    both = {"email": email_to(server.port, to=[TO[1]]), "command": run}
    alerts.reload(config_of(both))
    alerts.event(an_error("shop: another"))
    assert server.until(2)[1]["To"] == TO[1]
    alerts.reload(config_of({"command": run}))
    eventually(lambda: "alerts mail" not in [thread.name for thread in threading.enumerate()])
    alerts.event(an_error("shop: a third"))
    alerts.reload(config_of({"command": run, "events": ["lag"]}))
    alerts.event(an_error("shop: not asked for"))
    alerts.stop()
    told = [json.loads(line)["what"] for line in written.read_text().splitlines()]
    assert told in (["shop: another", "shop: a third"], ["shop: another"])
    assert len(server.mails) == 2


# Commands


def test_a_command_is_run_without_a_shell_and_reads_the_event(tmp_path: Path) -> None:
    program = "import json, sys; print(json.load(sys.stdin)['what'], sys.argv[1:])"
    printed = command.run(
        (sys.executable, "-c", program, "$HOME; echo", "*"), '{"what": "it is so"}', LIMIT
    )
    assert printed == "it is so ['$HOME; echo', '*']"


def test_a_command_may_leave_what_it_is_given_unread() -> None:
    assert command.run(("true",), "x" * 1_000_000, LIMIT) == ""


def test_a_command_that_fails_is_named_with_the_end_of_what_it_said() -> None:
    with pytest.raises(PyReplicaError, match="has failed with exit code 3: no network") as caught:
        command.run(("sh", "-c", "echo no network >&2; exit 3"), "{}", LIMIT)
    assert caught.value.retry
    with pytest.raises(PyReplicaError, match="has failed with signal 9"):
        command.run(("sh", "-c", "kill -9 $$"), "{}", LIMIT)
    with pytest.raises(PyReplicaError, match="cannot be run: No such file"):
        command.run(("/no/such/program",), "{}", LIMIT)


def test_a_command_that_hangs_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    written = tmp_path / "pid"
    script = f"sleep 300 & echo $! >{shlex.quote(str(written))}; wait"
    with pytest.raises(PyReplicaError, match=r"has not ended within 0\.5 s"):
        command.run(("sh", "-c", script), "{}", 0.5)
    pid = int(written.read_text())
    eventually(lambda: gone(pid), "the process that it has started lives on")


def test_a_process_that_a_command_leaves_behind_holds_nobody_up() -> None:
    began = time.monotonic()
    printed = command.run(("sh", "-c", "sleep 5 & echo done"), "{}", LIMIT)
    assert printed == "done"
    assert time.monotonic() - began < 5


# pyreplica alert test


def test_alert_test_says_what_it_has_sent(certified: Certificates, tmp_path: Path) -> None:
    with mail_server(starttls=certified.server, login=("me", SECRET)) as server:
        email = email_to(
            server.port,
            host="localhost",
            security="starttls",
            ca_file=str(certified.ca_file),
            user="me",
            password=SECRET,
        )
        pair = {"master": "dbname=a", "slave": "dbname=b"}
        run = ["sh", "-c", "cat; echo; echo paged"]
        path = write_config(
            tmp_path / "shop.yaml", {"shop": pair}, alerts={"email": email, "command": run}
        )
        shown = pyreplica(path, "alert", "test").stdout
        assert "email: sent to dba@shop.test, ops@shop.test\n" in shown
        assert f"email: by localhost:{server.port} (TLSv1." in shown
        assert ", certificate verified, logged in as me)" in shown
        assert "command: sh has ended with exit code 0\n" in shown
        assert '"test": true' in shown
        assert "command: it has printed: paged\n" in shown
        pyreplica(path, "alert", "test", "--event", "in_doubt")
        assert ["error: this is a test" in s for s in server.subjects] == [True, False]
        assert "in doubt: this is a test" in server.subjects[1]

        email["password"] = f"{SECRET}x"
        write_config(path, {"shop": pair}, alerts={"email": email, "command": ["false"]})
        done = pyreplica(path, "alert", "test", code=1)
        assert "email: failed: mail server localhost:" in done.stderr
        assert "the login as me is refused" in done.stderr
        assert "command: failed: command false: has failed with exit code 1" in done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_alert_test_says_who_is_refused_and_what_is_missing(
    server: MailServer, tmp_path: Path
) -> None:
    pair = {"master": "dbname=a", "slave": "dbname=b"}
    path = write_config(tmp_path / "shop.yaml", {"shop": pair})
    done = pyreplica(path, "alert", "test", code=2)
    assert "shop.yaml: has no alerts" in done.stderr
    server.refused = {TO[0]: "550 no such user"}
    alerts = {"email": email_to(server.port), "events": ["lag"]}
    write_config(path, {"shop": pair}, alerts=alerts)
    done = pyreplica(path, "alert", "test", code=1)
    assert f"sent to {TO[1]}, but not accepted for {TO[0]}: 550 no such user" in done.stderr
    assert "note: error is not among `events:`" in done.stdout


# The daemon


def test_a_daemon_whose_slave_goes_away_mails_that_and_when_it_is_back_and_runs_the_command(
    databases: Databases, server: MailServer, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    written = tmp_path / "events"
    # the password is not needed by the test's servers, and must be seen nowhere
    shop = pair(databases, retry_first="10ms", retry_max="50ms")
    shop |= {side: f"{shop[side]} password={SECRET}" for side in ("master", "slave")}
    alerts = {
        "email": email_to(server.port, subject_prefix="[before]"),
        "command": ["sh", "-c", f"cat >>{shlex.quote(str(written))}"],
    }
    path = write_config(tmp_path / "shop.yaml", {"shop": shop}, alerts=alerts)
    set_up(path)
    with daemon(path) as running:
        started = server.until_subject("[before] shop: started")
        running.until_said("connected, at batch")
        alerts["email"] = email_to(server.port, subject_prefix="[after]")
        write_config(path, {"shop": shop}, alerts=alerts)
        running.process.send_signal(signal.SIGHUP)
        running.until_said("the configuration was taken")
        databases.slave_cluster.stop()
        error = server.until_subject("[after] shop: error")
        databases.slave_cluster.start()
        recovered = server.until_subject("shop: recovered: ")
        execute(databases.master, "DELETE FROM item WHERE id = 1")
        wait(path)
        assert running.stop() == 0
        stopped = server.until_subject("shop: stopped: ")
    for mail in (started, error, recovered, stopped):
        assert mail["To"] == ", ".join(TO)
        assert SECRET not in mail.as_string()
        assert "Replication: shop" in mail.get_content().splitlines()
    assert "What to do:  " in error.get_content()
    assert "Since:       " in recovered.get_content()
    assert "The last lines of the log:" in error.get_content()
    assert " ERROR shop: " in error.get_content()
    assert recovered["References"] == error["Message-ID"]
    assert SECRET not in running.log
    told = [json.loads(line) for line in written.read_text().splitlines()]
    kinds = [one["event"] for one in told]
    assert kinds[0] == "started"
    assert "error" in kinds
    assert "recovered" in kinds
    assert kinds[-1] == "stopped"
    assert SECRET not in written.read_text()


def test_replication_goes_on_while_the_mail_server_and_the_command_hang(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    begun = tmp_path / "begun"
    with silent_server() as port:
        path = write_config(
            tmp_path / "shop.yaml",
            {"shop": pair(databases)},
            alerts={
                "email": email_to(port, timeout="10min"),
                "command": ["sh", "-c", f"echo $$ >{shlex.quote(str(begun))}; exec sleep 300"],
                "command_timeout": "1h",
            },
        )
        set_up(path)
        with daemon(path) as running:
            eventually(lambda: begun.exists() and begun.read_text(), lambda: running.log)
            execute(databases.master, "DELETE FROM item WHERE id = 1")
            wait(path)
            assert rows(databases.slave, "SELECT count(*) FROM item") == [(99,)]
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 3 * PATIENCE
        assert "alerts: a mail is given up: [pyreplica] shop: started" in running.log
        eventually(lambda: gone(int(begun.read_text())), "the command outlives the daemon")
        assert "Traceback" not in running.log


# The programs of docs/alerts.md


class Webhook:
    """Takes what is posted, for the time of a block."""

    def __enter__(self) -> Webhook:
        posted = self.posted = []  # type: list[dict[str, Any]]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join(LIMIT)
        self._server.server_close()


def test_the_chat_and_the_pager_of_the_page_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    recovered = Event(EventKind.RECOVERED, "shop", datetime.now(timezone.utc), "shop: in step")
    lag = Event(EventKind.LAG, "shop", datetime.now(timezone.utc), "shop: behind")
    with Webhook() as hook:
        monkeypatch.setenv("CHAT_WEBHOOK", hook.url)
        monkeypatch.setenv("PAGER_URL", hook.url)
        for program in programs:
            for event in (an_error(), recovered, lag):
                given = texts.payload(notice(event), lambda name: ["a line"], "db2")
                command.run((sys.executable, "-c", program), given, LIMIT)
    *chats, raised, settled = hook.posted
    assert [chat["text"] for chat in chats] == [
        "shop: error: shop: slave: cannot connect (db2)\nStart it.",
        "shop: recovered: shop: in step (db2)",
        "shop: lag: shop: behind (db2)\nSee what holds the daemon or the slave up: "
        "`pyreplica status shop`.",
    ]
    assert (raised["action"], settled["action"]) == ("trigger", "resolve")
    assert raised["key"] == settled["key"] == "db2/shop/error"

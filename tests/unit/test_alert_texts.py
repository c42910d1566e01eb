"""What alerts say, and what they never say."""

from __future__ import annotations

import email
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage
from email.policy import default as default_policy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyreplica.config.alerts import EmailConfig, event_name
from pyreplica.daemon.alerts import texts
from pyreplica.daemon.alerts.holding import Notice, problem_of
from pyreplica.daemon.alerts.mail import message
from pyreplica.daemon.alerts.recent import LINES, RecentLines
from pyreplica.daemon.alerts.ways import Mailing, Post
from pyreplica.model import Event, EventKind

AT = datetime(2026, 3, 1, 12, 34, 56, tzinfo=timezone.utc)
CONFIG = EmailConfig("mail.test", "pyreplica@shop.test", ("dba@shop.test", "ops@shop.test"))
ERROR = Event(
    EventKind.ERROR,
    "shop",
    AT,
    "shop: slave: cannot connect: Connection refused",
    hint="Start the server.",
    since=AT - timedelta(minutes=5),
    details="the server said\nmore than one line",
)


def notice(event: Event = ERROR) -> Notice:
    return Notice(event, problem_of(event))


def no_lines(name: str) -> list[str]:
    return []


def mail_of(post: Post, config: EmailConfig = CONFIG) -> EmailMessage:
    """A mail as it comes out of the wire."""
    sent = message(post.letter, config, post.message_id, post.references).as_bytes()
    read = email.message_from_bytes(sent, policy=default_policy)
    assert isinstance(read, EmailMessage)
    return read


def test_a_mail_says_replication_what_since_when_what_to_do_host_and_the_log() -> None:
    body = texts.body([notice()], lambda name: [f"a line of {name}"], "db2")
    for words in (
        "Replication: shop\n",
        "Event:       error\n",
        "What:        slave: cannot connect: Connection refused\n",
        "At:          2026-03-01 12:34:56 UTC\n",
        "Since:       2026-03-01 12:29:56 UTC (0:05:00 before)\n",
        "Host:        db2\n",
        "What to do:  Start the server.",
        "Details:\n\nthe server said\nmore than one line\n",
        "The last lines of the log:\n\na line of shop\n",
    ):
        assert words in body
    subject = texts.subject([notice()], "[pyreplica]", "db2")
    assert subject == "[pyreplica] shop: error: slave: cannot connect: Connection refused (db2)"


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_of_event_has_words_and_advice(kind: EventKind) -> None:
    event = Event(kind, "shop", AT, "shop: it is so")
    assert texts.label(event) in texts.subject([notice(event)], "", "db2")
    advice = texts.advice(event)
    assert advice
    assert "NAME" not in advice
    assert "{" not in advice
    assert texts.severity(event) in ("info", "warning", "error")
    assert texts.advice(replace(event, over=True)) == "Nothing has to be done."


def test_a_summary_says_how_often_since_when_and_whether_it_lasts() -> None:
    summed = Notice(ERROR, "shop/error", 12, AT - timedelta(hours=1), ("one", "two"), lasting=False)
    assert "shop: error (12 times): " in texts.subject([summed], "", "db2")
    body = texts.body([summed], no_lines, "db2")
    assert "Repeated:    12 times since 2026-03-01 11:34:56 UTC\n" in body
    assert "Now:         it is over\n" in body
    assert "Meanwhile:\n\n- one\n- two" in body


def test_several_replications_share_a_mail_and_other_kinds_do_not() -> None:
    others = [replace(ERROR, replication=name, what=f"{name}: no") for name in ("a", "b")]
    started = Event(EventKind.STARTED, "c", AT, "c: the daemon has started")
    posts = Mailing(CONFIG, no_lines).compose([notice(e) for e in [*others, started]], 3)
    subjects = [name for _, name in posts]
    assert len(subjects) == 2
    assert subjects[0].startswith("[pyreplica] a, b: error: no (")
    assert subjects[1].startswith("[pyreplica] c: started: the daemon has started (")
    assert "Before this, 3 alerts were not delivered" in posts[0][0].letter.body
    assert "not delivered" not in posts[1][0].letter.body


def test_the_subject_of_many_says_whose_or_how_many() -> None:
    twice = texts.subject([notice(), notice()], "", "db2")
    assert twice.startswith("shop: error (and 1 more): slave: cannot connect")
    many = [notice(replace(ERROR, replication=f"a_long_name_{n}", what="no")) for n in range(20)]
    assert texts.subject(many, "", "db2") == "20 replications: error: no (db2)"
    body = texts.body(many, lambda name: ["a line"], "db2")
    assert body.count("What to do:") == texts.MOST_IN_FULL
    assert body.count("\n- no") == 20 - texts.MOST_IN_FULL
    assert body.count("The last lines of the log of a_long_name_") == texts.MOST_LOGS


def test_mails_about_one_problem_are_a_thread_until_it_is_over() -> None:
    mailing = Mailing(CONFIG, no_lines)
    recovered = Event(EventKind.RECOVERED, "shop", AT, "shop: in step again")
    first, second, third, fourth = (
        mailing.post([notice(event)]) for event in (ERROR, ERROR, recovered, ERROR)
    )
    assert "References" not in mail_of(first)
    assert mail_of(second)["In-Reply-To"] == first.message_id
    assert mail_of(third)["References"] == first.message_id
    assert "References" not in mail_of(fourth)
    assert len({post.message_id for post in (first, second, third, fourth)}) == 4


def test_the_headers_are_those_of_a_machine() -> None:
    post = Mailing(CONFIG, no_lines).post([notice()])
    mail = mail_of(post)
    assert mail["From"] == "PyReplica <pyreplica@shop.test>"
    assert mail["To"] == "dba@shop.test, ops@shop.test"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@shop.test>")
    assert mail["Date"].datetime == post.letter.at.replace(microsecond=0)


ODD = st.text(max_size=300)


@settings(deadline=None)
@given(ODD, ODD, ODD, ODD)
def test_no_text_gets_out_of_its_place(what: str, hint: str, details: str, prefix: str) -> None:
    event = replace(ERROR, what=f"shop: {what}", hint=hint, details=details)
    config = replace(CONFIG, subject_prefix=prefix)
    post = Mailing(config, lambda name: [what.replace("\n", " ")]).post([notice(event)])
    raw = message(post.letter, config, post.message_id).as_bytes()
    assert raw.isascii()
    headers = raw.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    names = [line.split(b":")[0] for line in headers if not line.startswith(b" ")]
    wanted = "From To Subject Date Message-ID Auto-Submitted Content-Type "
    wanted += "Content-Transfer-Encoding MIME-Version"
    assert sorted(names) == sorted(name.encode() for name in wanted.split())
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    mail = mail_of(post, config)
    assert len(str(mail["Subject"])) <= texts.LONGEST_SUBJECT
    assert str(mail["Subject"]).isprintable()
    json.loads(texts.payload(notice(event), lambda name: [what], "db2"))


def test_line_breaks_in_a_message_do_not_make_headers() -> None:
    event = replace(ERROR, what="shop: no\r\nBcc: thief@evil.test\n\nhello", replication="shop")
    mail = mail_of(Mailing(CONFIG, no_lines).post([notice(event)]))
    assert mail["Bcc"] is None
    assert "no Bcc: thief@evil.test hello" in mail["Subject"]


def test_the_json_has_every_key_with_its_value() -> None:
    given = json.loads(texts.payload(notice(), lambda name: ["a line"], "db2", test=True))
    assert given == {
        "version": 1,
        "event": "error",
        "over": False,
        "severity": "error",
        "replication": "shop",
        "problem": "shop/error",
        "what": "shop: slave: cannot connect: Connection refused",
        "hint": "Start the server.",
        "details": "the server said\nmore than one line",
        "at": "2026-03-01T12:34:56+00:00",
        "since": "2026-03-01T12:29:56+00:00",
        "times": 1,
        "times_since": None,
        "lasting": True,
        "host": "db2",
        "log": ["a line"],
        "lost": 0,
        "test": True,
    }
    over = Event(EventKind.LAG, "shop", AT, "shop: in step", over=True)
    ended = json.loads(texts.payload(notice(over), no_lines, "db2"))
    assert (ended["problem"], ended["over"], ended["lasting"]) == ("shop/lag", True, False)


# The last lines of the log


@pytest.fixture
def recent() -> Iterator[RecentLines]:
    made = RecentLines()
    logger = logging.getLogger("pyreplica")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    made.attach()
    yield made
    made.detach()
    logger.setLevel(level)


def test_the_last_lines_are_those_of_the_replication_and_of_the_daemon(recent: RecentLines) -> None:
    logging.getLogger("pyreplica").info("started")
    logging.getLogger("pyreplica.archive").error("not this one")
    logging.getLogger("pyreplica.shop").debug("nor this")
    for n in range(LINES + 5):
        logging.getLogger("pyreplica.shop").warning("line %s", "x" * n)
    lines = recent.of("shop")
    assert len(lines) == LINES
    assert lines[-1].endswith(f"UTC WARNING line {'x' * (LINES + 4)}")
    assert [line[24:] for line in recent.of("")] == ["INFO started"]
    recent.forget_others({"shop"})
    assert len(recent.of("archive")) == 1


def test_what_is_said_again_and_again_does_not_drive_out_what_went_before(
    recent: RecentLines,
) -> None:
    log = logging.getLogger("pyreplica.shop")
    log.info("connected, at batch 7")
    log.error("cannot connect")
    for n in range(1000):
        log.info("next try in %d s", n)
        log.info("cannot connect")
    assert [line[24:] for line in recent.of("shop")] == [
        "INFO connected, at batch 7",
        "ERROR cannot connect",
        "INFO next try in 0 s",
        "INFO next try in 999 s (1000 times)",
        "INFO cannot connect (1001 times)",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to host=db1 password=hunter2secret dbname=shop",
        "connecting with postgresql://me:hunter2secret@db1/shop now",
        "postgresql://me@db1/shop?password=hunter2secret",
    ],
)
def test_what_looks_like_a_password_in_the_log_is_not_passed_on(
    text: str, recent: RecentLines
) -> None:
    logging.getLogger("pyreplica.shop").error("%s", text)
    (line,) = recent.of("shop")
    assert "hunter2secret" not in line
    assert "***" in line


# docs/alerts.md


def first_column(heading: str) -> list[str]:
    """The keys in the table under a heading of docs/alerts.md."""
    text = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    under = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", under, re.MULTILINE)


def test_the_page_has_every_event_with_its_severity_and_every_key_of_the_json() -> None:
    assert first_column("The events") == [event_name(kind) for kind in EventKind]
    given = json.loads(texts.payload(notice(), no_lines, "db2"))
    assert first_column("Commands") == list(given)
    text = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    for kind in EventKind:
        event = Event(kind, "shop", AT, "it is so")
        assert f"| `{event_name(kind)}` | {texts.severity(event)} |" in text

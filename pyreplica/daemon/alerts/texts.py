"""What alerts say: subjects and bodies for people, and the JSON that commands are given."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyreplica.config.alerts import event_name
from pyreplica.daemon.alerts.holding import Notice, is_end
from pyreplica.model import Event, EventKind

JSON_VERSION = 1
"""Raised when a key of the JSON goes or changes its meaning; new keys do not count."""
LONGEST_SUBJECT = 150
"""Characters of a subject."""
LONGEST_NAMES = 60
"""Characters of the replications' names in a subject."""
MOST_IN_FULL = 10
"""So many events are described in full in a mail; of more there is a line each."""
MOST_LOGS = 3
"""The logs of so many replications are in a mail."""
LONGEST_TEXT = 20_000
"""Characters of details."""

Lines = Callable[[str], Sequence[str]]
"""Gives the last lines of a replication's log."""

_LABELS = {
    EventKind.STARTED: "started",
    EventKind.STOPPED: "stopped",
    EventKind.ERROR: "error",
    EventKind.RECOVERED: "recovered",
    EventKind.CONFLICT: "conflict",
    EventKind.LAG: "lag",
    EventKind.LOG: "log",
    EventKind.IN_DOUBT: "in doubt",
    EventKind.DROPPED: "slave dropped",
    EventKind.PAUSED: "paused",
    EventKind.RESUMED: "resumed",
}
_LASTING = frozenset(
    {EventKind.ERROR, EventKind.LAG, EventKind.LOG, EventKind.IN_DOUBT, EventKind.PAUSED}
)
"""Kinds that last until they are over."""
_SEVERITIES = {
    EventKind.STARTED: "info",
    EventKind.RECOVERED: "info",
    EventKind.ERROR: "error",
    EventKind.DROPPED: "error",
    EventKind.PAUSED: "info",
    EventKind.RESUMED: "info",
}
_ADVICE = {
    EventKind.ERROR: "The daemon tries again by itself; see what the error names, and "
    "`pyreplica status{name}`.",
    EventKind.CONFLICT: "See `pyreplica conflicts list NAME --all`, and `pyreplica repair NAME`.",
    EventKind.LAG: "See what holds the daemon or the slave up: `pyreplica status{name}`.",
    EventKind.LOG: "See what holds the slave up, before it is dropped: `pyreplica status{name}`.",
    EventKind.IN_DOUBT: "Let the daemon reach both servers: `pyreplica status{name}`.",
    EventKind.DROPPED: "Copy the slave anew: `pyreplica copy{name}`.",
    EventKind.PAUSED: "`pyreplica resume{name}` ends it; until then the master's log grows.",
    EventKind.STOPPED: "If nobody has stopped it, see its log; `pyreplica run` starts it.",
}


@dataclass(frozen=True, slots=True)
class Letter:
    """A text to be delivered.

    Attributes:
        subject: one line of text.
        body: the text.
        at: when it was written, in UTC.
        problems: what it is about, for threads.
    """

    subject: str
    body: str
    at: datetime
    problems: tuple[str, ...] = ()


def severity(event: Event) -> str:
    """How bad it is: "info", "warning" or "error"."""
    return "info" if is_end(event) else _SEVERITIES.get(event.kind, "warning")


def label(event: Event) -> str:
    """What kind of news it is."""
    over = " over" if event.over else ""
    return f"{_LABELS[event.kind]}{over}"


def one_line(text: str) -> str:
    """A text in one line that is safe in a header: nothing in it but what can be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def what(event: Event) -> str:
    """What has happened, without the replication's name, which is said beside it."""
    return one_line(event.what.removeprefix(f"{event.replication}: "))


def subject(notices: Sequence[Notice], prefix: str, host: str) -> str:
    """The subject of a mail.

    Args:
        notices: what it tells of; all of one kind.
        prefix: what it begins with.
        host: this machine's name.
    """
    event, more = notices[-1].event, len(notices) - 1
    names = sorted({notice.event.replication or "daemon" for notice in notices})
    whose = ", ".join(names)
    if len(whose) > LONGEST_NAMES and len(names) > 1:
        whose = f"{len(names)} replications"
    times = f" ({notices[0].times} times)" if notices[0].since and not more else ""
    and_more = f" (and {more} more)" if more and len(names) == 1 else ""
    text = f"{whose}: {label(event)}{times}{and_more}: {what(event)}"
    text = f"{one_line(prefix)} {text}".strip()
    ending = f" ({host})"
    room = LONGEST_SUBJECT - len(ending)
    return (text if len(text) <= room else f"{text[: room - 3]}...") + ending


def body(notices: Sequence[Notice], lines: Lines, host: str, lost: int = 0) -> str:
    """The text of a mail about some notices.

    Args:
        lines: gives the log's last lines.
        host: this machine's name.
        lost: so many alerts before it were not delivered.
    """
    parts = [_about(notice, host) for notice in notices[:MOST_IN_FULL]]
    if shorter := [f"- {one_line(notice.event.what)}" for notice in notices[MOST_IN_FULL:]]:
        parts.append("\n".join(["And:", "", *shorter]))
    if lost:
        parts.append(f"Before this, {lost:,} alerts were not delivered; see the daemon's log.")
    names = list(dict.fromkeys(notice.event.replication for notice in notices))
    for name in names[:MOST_LOGS]:
        if said := lines(name):
            of = f" of {name}" if name and len(names) > 1 else ""
            parts.append("\n".join([f"The last lines of the log{of}:", "", *said]))
    ending = "This mail was sent by PyReplica; `alerts:` in its configuration says to whom."
    return clean("\n\n".join([*parts, f"-- \n{ending}\n"]))


def _about(notice: Notice, host: str) -> str:
    event = notice.event
    facts = {
        "Replication": event.replication or "all of this daemon",
        "Event": label(event),
        "What": what(event),
        "At": moment(event.at),
        "Since": _since(event),
        "Repeated": _repeated(notice),
        "Now": _now(notice),
        "Host": host,
        "What to do": advice(event),
    }
    text = "\n".join(f"{name + ':':13}{one_line(fact)}" for name, fact in facts.items() if fact)
    if len(notice.lines) > 1:
        text += "\n\nMeanwhile:\n\n" + "\n".join(f"- {one_line(line)}" for line in notice.lines)
    if event.details.strip():
        text += f"\n\nDetails:\n\n{event.details[:LONGEST_TEXT].strip()}"
    return text


def _since(event: Event) -> str:
    if event.since is None or event.since == event.at:
        return ""
    lasted = timedelta(seconds=round((event.at - event.since).total_seconds()))
    return f"{moment(event.since)} ({lasted} before)"


def _repeated(notice: Notice) -> str:
    return f"{notice.times} times since {moment(notice.since)}" if notice.since else ""


def _now(notice: Notice) -> str:
    kind = notice.event.kind
    if notice.since is None or not (kind in _LASTING or is_end(notice.event)):
        return ""
    return "it lasts" if notice.lasting else "it is over"


def advice(event: Event) -> str:
    """What to do about it."""
    if event.hint:
        return event.hint
    if is_end(event) or event.kind not in _ADVICE:
        return "Nothing has to be done."
    name = f" {event.replication}" if event.replication else ""
    return _ADVICE[event.kind].replace("{name}", name).replace("NAME", event.replication or "NAME")


def payload(notice: Notice, lines: Lines, host: str, lost: int = 0, *, test: bool = False) -> str:
    """The JSON object that a command is given, in one line; docs/alerts.md describes it."""
    event = notice.event
    made: Mapping[str, Any] = {
        "version": JSON_VERSION,
        "event": event_name(event.kind),
        "over": is_end(event),
        "severity": severity(event),
        "replication": event.replication or None,
        "problem": notice.problem,
        "what": one_line(event.what),
        "hint": advice(event),
        "details": event.details[:LONGEST_TEXT],
        "at": event.at.isoformat(),
        "since": (event.since or event.at).isoformat(),
        "times": notice.times,
        "times_since": notice.since.isoformat() if notice.since else None,
        "lasting": notice.lasting and event.kind in _LASTING and not is_end(event),
        "host": host,
        "log": list(lines(event.replication)),
        "lost": lost,
        "test": test,
    }
    return json.dumps(made, ensure_ascii=True)


def moment(at: datetime | None) -> str:
    """A moment for people."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def clean(text: str) -> str:
    """A text without characters that do something to a terminal or a mail program."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def this_host() -> str:
    """This machine's name, as it knows it."""
    return one_line(socket.gethostname()) or "unknown host"

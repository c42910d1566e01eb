"""The two ways to tell somebody: a mail, and a command. How notices become what is delivered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import make_msgid
from typing import Protocol, TypeVar

from pyreplica.config.alerts import AlertsConfig, EmailConfig
from pyreplica.daemon.alerts import command, mail, texts
from pyreplica.daemon.alerts.holding import Notice, is_end
from pyreplica.daemon.alerts.outbox import log
from pyreplica.daemon.alerts.recent import NOT_FOR_MAILS
from pyreplica.daemon.alerts.texts import Letter, Lines
from pyreplica.errors import PyReplicaError

T = TypeVar("T")

GATHER = 2.0
"""What happens within so many seconds comes in one mail, if it is of one kind: many replications
have the same servers."""
MOST_REFERENCES = 10
"""So many mails before it are named in one."""


class Way(Protocol[T]):
    """How somebody is told.

    Attributes:
        what: what is delivered, for the log.
        gather: how long notices are waited for that can be told of together, seconds.
    """

    what: str
    gather: float

    def configure(self, settings: AlertsConfig) -> None:
        """Go on by other settings."""

    def compose(self, notices: Sequence[Notice], lost: int) -> list[tuple[T, str]]:
        """What is to be delivered, each with a line for the log.

        Args:
            lost: so many alerts before these were not delivered.
        """

    def deliver(self, item: T) -> T | None:
        """Deliver it; gives what is left to be delivered, None when that is nothing.

        Raises:
            PyReplicaError: it could not be delivered.
        """

    def abandon(self) -> None:
        """Break off what is being delivered, if that would outlive the daemon; for any thread."""


@dataclass(frozen=True, slots=True)
class Post:
    """A mail on its way.

    Attributes:
        to: who is still to get it; None for everybody.
    """

    letter: Letter
    message_id: str
    references: tuple[str, ...]
    to: tuple[str, ...] | None = None


class Mailing:
    """By email."""

    what = "mail"
    gather = GATHER

    def __init__(self, config: EmailConfig, lines: Lines) -> None:
        self.config = config
        self._lines = lines
        self._host = texts.this_host()
        self._threads: dict[str, str] = {}

    def configure(self, settings: AlertsConfig) -> None:
        """Go on by other settings."""
        if settings.email is not None:
            self.config = settings.email

    def compose(self, notices: Sequence[Notice], lost: int) -> list[tuple[Post, str]]:
        """A mail for each kind of notice."""
        kinds: dict[str, list[Notice]] = {}
        for notice in notices:
            kinds.setdefault(texts.label(notice.event), []).append(notice)
        made = []
        for group in kinds.values():
            post = self.post(group, lost)
            made.append((post, post.letter.subject))
            lost = 0
        return made

    def post(self, notices: Sequence[Notice], lost: int = 0) -> Post:
        """A mail about notices of one kind."""
        problems = tuple(dict.fromkeys(notice.problem for notice in notices))
        message_id = make_msgid("pyreplica", self.config.sender.rpartition("@")[2])
        known = dict.fromkeys(self._threads[p] for p in problems if p in self._threads)
        for notice in notices:
            if is_end(notice.event):
                self._threads.pop(notice.problem, None)
            else:
                self._threads.setdefault(notice.problem, message_id)
        letter = Letter(
            texts.subject(notices, self.config.subject_prefix, self._host),
            texts.body(notices, self._lines, self._host, lost),
            datetime.now(timezone.utc),
            problems,
        )
        return Post(letter, message_id, tuple(known)[-MOST_REFERENCES:])

    def send(self, post: Post) -> mail.Sent:
        """Send it to whom it has not reached."""
        made = mail.message(post.letter, self.config, post.message_id, post.references)
        return mail.send(made, self.config, self.config.to if post.to is None else post.to)

    def deliver(self, item: Post) -> Post | None:
        """Send it; what is left is for those whom the server may take it for later."""
        sent = self.send(item)
        for recipient, why in sent.refused.items():
            later = "; tried again later" if recipient in sent.later else ""
            log.warning("alerts: %s refuses mail to %s: %s%s", sent.server, recipient, why, later)
        if sent.accepted:
            to = ", ".join(sent.accepted)
            log.info("alerts: mail sent to %s: %s", to, item.letter.subject, extra=NOT_FOR_MAILS)
        elif not sent.later:
            raise PyReplicaError("no recipient is accepted", where=f"mail server {sent.server}")
        return replace(item, to=sent.later) if sent.later else None

    def abandon(self) -> None:
        """Nothing: the connection ends with the daemon."""


class Running:
    """By a command, a call for each notice."""

    what = "command"
    gather = 0.0

    def __init__(self, config: AlertsConfig, lines: Lines) -> None:
        self.config = config
        self._lines = lines
        self._host = texts.this_host()
        self._kill: Callable[[], None] | None = None

    def configure(self, settings: AlertsConfig) -> None:
        """Go on by other settings."""
        self.config = settings

    def compose(self, notices: Sequence[Notice], lost: int) -> list[tuple[str, str]]:
        """The JSON of each."""
        made = []
        for notice in notices:
            given = texts.payload(notice, self._lines, self._host, lost)
            made.append((given, texts.one_line(notice.event.what)))
            lost = 0
        return made

    def deliver(self, item: str) -> None:
        """Run it."""
        if self.config.command is None:
            return

        def started(kill: Callable[[], None]) -> None:
            self._kill = kill

        try:
            command.run(self.config.command, item, self.config.command_timeout, started)
        finally:
            self._kill = None

    def abandon(self) -> None:
        """Kill it."""
        if (kill := self._kill) is not None:
            kill()

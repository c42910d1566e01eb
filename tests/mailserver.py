"""A real mail server for tests: keeps what it is sent, and misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import email
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default as default_policy
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

LIMIT = 30.0


@dataclass
class MailServer:
    """A mail server and what it has got.

    Attributes:
        refused: what recipients are answered, where that is not yes.
        refusal: what every mail is answered after its text; None for yes.
        mails: what it was sent, with the recipients of the envelopes.
        logins: who has logged in.
        secured: for each mail, whether it came over TLS.
    """

    port: int
    refused: dict[str, str] = field(default_factory=dict)
    refusal: str | None = None
    mails: list[tuple[EmailMessage, tuple[str, ...]]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    secured: list[bool] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refusal is not None:
            return self.refusal
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=default_policy)
        assert isinstance(mail, EmailMessage)
        with self.changed:
            self.mails.append((mail, tuple(envelope.rcpt_tos)))
            self.secured.append(session.ssl is not None)
            self.changed.notify_all()
        return "250 OK"

    def until(self, number: int) -> list[EmailMessage]:
        """Wait for so many mails; gives all there are."""
        with self.changed:
            got = self.changed.wait_for(lambda: len(self.mails) >= number, LIMIT)
            assert got, f"{number} mails are waited for, there are {self.subjects}"
            return [mail for mail, _ in self.mails]

    def until_subject(self, words: str) -> EmailMessage:
        """Wait for a mail with these words in its subject."""
        return self.until_like(re.escape(words))

    def until_like(self, pattern: str) -> EmailMessage:
        """Wait for a mail with something in its subject that this regular expression matches."""

        def found() -> Iterator[EmailMessage]:
            return (mail for mail, _ in self.mails if re.search(pattern, str(mail["Subject"])))

        with self.changed:
            got = self.changed.wait_for(lambda: any(found()), LIMIT)
            assert got, f"no subject has {pattern!r}: {self.subjects}"
            return next(found())

    @property
    def subjects(self) -> list[str]:
        """The subjects of the mails."""
        return [str(mail["Subject"]) for mail, _ in self.mails]


@contextmanager
def mail_server(
    port: int = 0,
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    login: tuple[str, str] | None = None,
) -> Iterator[MailServer]:
    """A mail server on this machine for the time of the block.

    Args:
        port: where; 0 for any.
        starttls: offer STARTTLS with this certificate.
        tls: TLS from the first byte, with this certificate.
        login: user and password; without them no mail is taken.
    """
    made = MailServer(port)

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        if login and isinstance(data, LoginPassword):
            given = (data.login.decode(), data.password.decode())
            if given == login:
                made.logins.append(given[0])
                return AuthResult(success=True)
        return AuthResult(success=False, handled=False)

    options: dict[str, Any] = {"hostname": "mail.test", "enable_SMTPUTF8": False}
    if starttls is not None:
        options |= {"tls_context": starttls, "require_starttls": True}
    if login is not None:
        options |= {"authenticator": authenticate, "auth_required": True}
        options["auth_require_tls"] = tls is None
    loop = asyncio.new_event_loop()
    sessions: list[SMTP] = []

    def session() -> SMTP:
        with warnings.catch_warnings():
            # it does not know of TLS from the first byte, and warns of a login without TLS
            warnings.simplefilter("ignore", UserWarning)
            sessions.append(SMTP(made, loop=loop, **options))
        return sessions[-1]

    server = loop.run_until_complete(loop.create_server(session, "127.0.0.1", port, ssl=tls))
    made.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="mail server")
    thread.start()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        server.close()
        loop.run_until_complete(_end(sessions))
        loop.close()


async def _end(sessions: list[SMTP]) -> None:
    """Break off what clients have left behind."""
    for session in sessions:
        if isinstance(session.transport, asyncio.WriteTransport):
            session.transport.abort()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections, by the kernel's hands, and never says a word; gives the port."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=100)) as listening:
        yield int(listening.getsockname()[1])


@contextmanager
def dripping_server() -> Iterator[int]:
    """Says its greeting a letter at a time, for ever; gives the port."""
    ended = threading.Event()

    def drip(listening: socket.socket) -> None:
        while not ended.is_set():
            try:
                session, _ = listening.accept()
            except OSError:
                return
            with session:
                session.sendall(b"220 mail.test\r\n")
                while not ended.wait(0.1):
                    try:
                        session.sendall(b"2")
                    except OSError:
                        break

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=[listening])
        thread.start()
        yield int(listening.getsockname()[1])
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(LIMIT)


def free_port() -> int:
    """A port where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


@dataclass(frozen=True)
class Certificates:
    """A certificate for a server, and who has signed it.

    Attributes:
        server: for a server that is called localhost.
        ca_file: the signer's certificate.
        other_ca_file: that of somebody else.
    """

    server: ssl.SSLContext
    ca_file: Path
    other_ca_file: Path


def certificates(folder: Path) -> Certificates:
    """Make them."""
    ours, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert("localhost").configure_cert(context)
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other.pem"))
    return Certificates(context, folder / "ca.pem", folder / "other.pem")

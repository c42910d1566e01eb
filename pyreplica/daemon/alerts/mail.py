"""Sends a mail: the connection to the mail server, TLS, the login, and what can go wrong."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime

from pyreplica.config.alerts import EmailConfig, Security
from pyreplica.daemon.alerts.texts import Letter, one_line
from pyreplica.errors import PyReplicaError, Unreachable

LIMIT_FACTOR = 4
"""A whole delivery may take so many times ``timeout``: a server that answers in drops is slow."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What has become of a mail.

    Attributes:
        server: host and port.
        tls: the version of TLS; None without.
        user: who has logged in; None for nobody.
        accepted: the recipients that the server has taken it for.
        refused: the others, with the reasons.
        later: those of them that the server may take it for later.
    """

    server: str
    tls: str | None
    user: str | None
    accepted: tuple[str, ...]
    refused: dict[str, str]
    later: tuple[str, ...]


def message(
    letter: Letter, config: EmailConfig, message_id: str, references: Sequence[str] = ()
) -> EmailMessage:
    """A letter as a mail.

    Args:
        message_id: its own.
        references: those of the mails before about the same problem.
    """
    made = EmailMessage(policy=SMTP_POLICY)
    made["From"] = f"PyReplica <{config.sender}>"
    made["To"] = ", ".join(config.to)
    made["Subject"] = one_line(letter.subject)
    made["Date"] = format_datetime(letter.at)
    made["Message-ID"] = message_id
    if references:
        made["In-Reply-To"] = references[-1]
        made["References"] = " ".join(references)
    made["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies
    made.set_content(letter.body, cte="quoted-printable")
    return made


def send(mail: EmailMessage, config: EmailConfig, to: Sequence[str]) -> Sent:
    """Send a mail.

    Args:
        to: the recipients.

    Returns:
        Who the server has taken it for.

    Raises:
        Unreachable: the server cannot be reached or used; trying again can help.
        PyReplicaError: it has refused the mail; ``retry`` says whether for ever.
    """
    host, port = config.server
    where = f"mail server {host}:{port}"
    try:
        with _session(config) as session:
            tls = session.sock.version() if isinstance(session.sock, ssl.SSLSocket) else None
            try:
                refused = session.send_message(mail, config.sender, list(to))
            except smtplib.SMTPRecipientsRefused as error:
                refused = error.recipients
    except smtplib.SMTPSenderRefused as error:
        raise _refused(f"refuses mails from {config.sender}", error, where) from error
    except smtplib.SMTPDataError as error:
        raise _refused("refuses the mail", error, where) from error
    except OSError as error:  # the root of what smtplib, ssl and socket raise
        raise _unusable(error, config, where) from error
    return Sent(
        f"{host}:{port}",
        tls,
        config.user,
        tuple(one for one in to if one not in refused),
        {one: _answer(code, text) for one, (code, text) in refused.items()},
        tuple(one for one, (code, _) in refused.items() if code < 500),
    )


@contextmanager
def _session(config: EmailConfig) -> Iterator[smtplib.SMTP]:
    """A connection that mails can be sent over, with TLS and the login as configured."""
    context = None
    if config.security is not Security.NONE:
        # verifies the certificate and the name in it
        context = ssl.create_default_context(cafile=config.ca_file)
    host, port = config.server
    session = (
        smtplib.SMTP_SSL(host, port, timeout=config.timeout, context=context)
        if config.security is Security.TLS
        else smtplib.SMTP(host, port, timeout=config.timeout)
    )
    limit = threading.Timer(config.timeout * LIMIT_FACTOR, _break_off, [session])
    limit.daemon = True
    limit.start()
    try:
        session.ehlo_or_helo_if_needed()
        if config.security is Security.STARTTLS:
            # raises when the server does not offer it, or refuses
            session.starttls(context=context)
        if config.user is not None and config.password is not None:
            session.login(config.user, config.password)
        yield session
        with suppress(OSError):  # what was accepted stays accepted
            session.quit()
    finally:
        limit.cancel()
        session.close()


def _break_off(session: smtplib.SMTP) -> None:
    with suppress(OSError):
        if session.sock is not None:
            session.sock.shutdown(socket.SHUT_RDWR)


def _refused(what: str, error: smtplib.SMTPResponseException, where: str) -> PyReplicaError:
    return PyReplicaError(
        f"{what}: {_answer(error.smtp_code, error.smtp_error)}",
        where=where,
        hint="See alerts.email in the configuration, and the log of the mail server.",
        retry=error.smtp_code < 500,
    )


def _unusable(error: OSError, config: EmailConfig, where: str) -> Unreachable:
    """What is wrong with the server or the connection, and what to do about it."""
    hint = "See host, port and security in alerts.email of the configuration."
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"its certificate is not accepted: {one_line(error.verify_message)}"
        hint = "host must be the name in the certificate, and ca_file name who has signed it."
    elif isinstance(error, ssl.SSLError):
        what = f"TLS fails: {one_line(error.reason or str(error))}"
        hint = "security: tls is for servers that begin with TLS, often at port 465; others take "
        hint += "starttls, often at port 587."
    elif isinstance(error, smtplib.SMTPAuthenticationError):
        said = _answer(error.smtp_code, error.smtp_error)
        what = f"the login as {config.user} is refused: {said}"
        hint = "See user and password in alerts.email of the configuration."
    elif isinstance(error, smtplib.SMTPNotSupportedError):
        what = one_line(str(error)).rstrip(".")
        if config.security is Security.STARTTLS and "STARTTLS" in what:
            what = "it does not offer STARTTLS, and nothing is sent in the clear"
    elif isinstance(error, smtplib.SMTPResponseException):
        what = f"answers {_answer(error.smtp_code, error.smtp_error)}"
    elif isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
        what = f"no answer within {config.timeout:g} s"
    elif isinstance(error, smtplib.SMTPServerDisconnected):
        what = f"the connection was lost: {one_line(str(error))}"
    else:
        what = f"cannot be reached: {error.strerror or error}"
    return Unreachable(what, where=where, hint=hint)


def _answer(code: int, text: bytes | str) -> str:
    """What a server has answered, in one line."""
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {one_line(said)[:300]}"

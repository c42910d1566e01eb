"""How to connect, and what a session begins with: the settings that all rests on."""

from __future__ import annotations

import os
import socket
from typing import Any

import psycopg2
import psycopg2.extensions

# statement_timeout first: until then the database's own, however short, is in force
SETTINGS = """
SET statement_timeout = 0;
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = postgres;
SET TimeZone = 'UTC';
SET extra_float_digits = 1;
SET bytea_output = hex;
SET lc_monetary = 'C';
SET xmlbinary = base64;
SET xmloption = content;
SET array_nulls = on;
SET quote_all_identifiers = off;
SET search_path = pg_catalog, pg_temp;
SET row_security = off;
SET standard_conforming_strings = on;
SET client_min_messages = warning;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET default_transaction_isolation = 'read committed';
SET default_transaction_read_only = off;
SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off';
SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES
    ('idle_session_timeout', '0', true),
    ('transaction_timeout', '0', true),
    ('tcp_keepalives_idle', %(idle)s, false),
    ('tcp_keepalives_interval', %(interval)s, false),
    ('tcp_keepalives_count', %(count)s, false),
    ('client_connection_check_interval', %(check)s, false)
) AS ours (name, value, always) USING (name)
    WHERE always OR source = 'default'
    -- other systems refuse it
    AND (name <> 'client_connection_check_interval' OR version() ~ 'linux')
"""
# where a superuser has set it for the role, which need not be allowed to: PostgreSQL 13 and 14
REPLICA = """;
SELECT set_config('session_replication_role', 'replica', false)
    WHERE current_setting('session_replication_role') <> 'replica'
"""
# last: the answer says who the session is
WHO = """;
SELECT pid, backend_start::text FROM pg_stat_get_activity(pg_backend_pid())
"""
# Not the user's to choose: COPY goes from one side to the other as bytes.
ENCODING = {"client_encoding": "UTF8"}


def tcp_settings(peer_timeout: float) -> dict[str, str]:
    """When the kernel gives a peer up that vanished; values in the user's string win."""
    return {
        "keepalives": "1",
        # Linux takes no more than 32767 s
        "keepalives_idle": str(min(32767, max(1, round(peer_timeout / 2)))),
        "keepalives_interval": str(max(1, round(peer_timeout / 6))),
        "keepalives_count": "3",
        "tcp_user_timeout": str(round(peer_timeout * 1000)),
    }


def server_settings(peer_timeout: float) -> dict[str, str]:
    """When the server gives us up, so that our locks go; where nobody has said otherwise there."""
    ours = tcp_settings(peer_timeout)
    return {
        "idle": ours["keepalives_idle"],
        "interval": ours["keepalives_interval"],
        "count": ours["keepalives_count"],
        "check": ours["keepalives_idle"] + "s",
    }


def to_the_same(
    parameters: dict[str, Any], connection: psycopg2.extensions.connection
) -> dict[str, Any]:
    """How to connect again to the very server that a connection has reached, of several."""
    same = {key: value for key, value in parameters.items() if key != "hostaddr"}
    same |= {"host": connection.info.host, "port": connection.info.port}
    with socket.socket(fileno=os.dup(connection.fileno())) as same_socket:
        if same_socket.family != socket.AF_UNIX:
            same["hostaddr"] = same_socket.getpeername()[0]
    return {**same, "application_name": "pyreplica watchdog"}


def connected(parameters: dict[str, Any]) -> psycopg2.extensions.connection:
    """A connection that quotes as the session will."""
    connection: psycopg2.extensions.connection = psycopg2.connect(**parameters)
    setting = "standard_conforming_strings"
    if connection.info.parameter_status(setting) != "off":
        return connection
    # the driver quotes as the session began, so that the SET above would have values misquoted;
    # not always given as an option, because poolers refuse those
    connection.close()
    options = f"{parameters.get('options', '')} -c {setting}=on"
    connection = psycopg2.connect(**{**parameters, "options": options})
    return connection


def without_password(dsn: str, peer_timeout: float) -> tuple[str, str | None]:
    """A connection string for another program, without its password; and the password.

    Args:
        dsn: the connection string.
        peer_timeout: seconds after which that program's kernel gives a vanished server up.
    """
    given = {**tcp_settings(peer_timeout), **psycopg2.extensions.parse_dsn(dsn)}
    password = given.pop("password", None)
    return psycopg2.extensions.make_dsn(**given), password

"""The one package that talks to the driver: connections, COPY between them, hung servers."""

from psycopg2 import errorcodes, sql

from pyreplica.database.connection import Connection, Row
from pyreplica.database.peer import lives
from pyreplica.database.pump import pump
from pyreplica.database.settings import without_password
from pyreplica.database.watchdog import last_sign

__all__ = [
    "Connection",
    "Row",
    "errorcodes",
    "last_sign",
    "lives",
    "pump",
    "sql",
    "without_password",
]

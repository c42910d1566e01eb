"""What the layers hand to each other: plain frozen values, without any database in them."""

from pyreplica.model.changes import (
    BARRIERS,
    Change,
    Script,
)
from pyreplica.model.events import (
    Event,
    EventKind,
)
from pyreplica.model.filters import (
    TableFilter,
)
from pyreplica.model.mapping import (
    Map,
    Mask,
    MaskKind,
    TableMap,
)
from pyreplica.model.positions import (
    SQL_VERSION,
    Applied,
    Confirmed,
    Cursor,
    Identity,
    LogKept,
    Position,
    Received,
    Server,
    Snapshot,
)
from pyreplica.model.sequences import (
    MasterSequence,
    SequenceColumn,
    SequenceState,
    SlaveSequence,
)
from pyreplica.model.status import (
    State,
    Status,
    Step,
)
from pyreplica.model.tables import (
    CapturedTable,
    SlaveColumn,
    SlaveTable,
    TableCopy,
    TablePart,
)

__all__ = [
    "BARRIERS",
    "SQL_VERSION",
    "Applied",
    "CapturedTable",
    "Change",
    "Confirmed",
    "Cursor",
    "Event",
    "EventKind",
    "Identity",
    "LogKept",
    "Map",
    "Mask",
    "MaskKind",
    "MasterSequence",
    "Position",
    "Received",
    "Script",
    "SequenceColumn",
    "SequenceState",
    "Server",
    "SlaveColumn",
    "SlaveSequence",
    "SlaveTable",
    "Snapshot",
    "State",
    "Status",
    "Step",
    "TableCopy",
    "TableFilter",
    "TableMap",
    "TablePart",
]

"""``python -m pyreplica`` is the command ``pyreplica``."""

import sys

from pyreplica.cli.main import main

sys.exit(main())

"""`python -m klagg` is the command `klagg`."""

import sys

from klagg.cli.main import main

sys.exit(main())

"""`python -m klagg.cli.up.child MODULE [ARGUMENT…]`: a process that ends when whoever started it is gone.

The parent holds the other end of this process's standard input and never writes. However the parent dies, the kernel
closes its end; the end of input then ends this process as SIGTERM does. That needs no process ids, which can be used
again by strangers, and no preexec function, which is unsafe in a parent with threads.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

LAST_S = 30.0
"""A process that does not end within this time after its parent's death is ended hard."""


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_S)
    os._exit(75)


def main() -> None:
    """Runs the module as a program."""
    module, sys.argv = sys.argv[1], sys.argv[1:]
    threading.Thread(target=_watch, name="parent", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

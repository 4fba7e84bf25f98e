"""What an auditor does while the switch `audit.full` is off: nothing. So one setting serves whoever starts it.

It stands in no group and reads nothing; its heartbeat says why. supervisord then need not be told of the switch.
"""

from __future__ import annotations

from typing import Final

from klagg.process.service import AsyncContext, Context

OFF: Final = "off (audit.full is false)"
"""The state that the heartbeat tells."""
LOOK_S: Final = 1.0

_SAID: Final = "audit.full is false: this process does nothing until it is asked to stop"


def rest(context: Context) -> None:
    """Wait until asked to stop."""
    context.log.warning(_SAID)
    context.pulse.state = OFF
    while context.wait(LOOK_S):
        pass


async def rest_async(context: AsyncContext) -> None:
    """The same in an asyncio process, whose heartbeat runs beside it."""
    context.log.warning(_SAID)
    while await context.sleep(LOOK_S):
        context.pulse.state = OFF

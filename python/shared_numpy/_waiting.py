"""Waiting in a queue without a thread, for asyncio.

What is guaranteed:

- One socket for each event loop, whatever the number of queues. Who waits asks a queue to
  ring it, looks again, and then awaits; who is rung and did not take what was there wakes
  the next one.
- A ring that does not arrive (another network namespace, a full table) costs a slice of
  `SLICE_S`, no more.
"""

import asyncio
import os
import weakref
from queue import Empty, Full

from . import _core

# How long at most until who waits looks again, in seconds.
SLICE_S = 0.05

# The bell of each loop, which is the loop's own: nobody else rings for it.
_bells = weakref.WeakKeyDictionary()


class _Bell:
    """A loop's bell, and those who wait for it."""

    def __init__(self, loop):
        self.bell = _core.Bell()
        self.pid = os.getpid()
        self._loop = loop
        self._waiters = set()
        loop.add_reader(self.bell.fileno(), self._rung)

    def _rung(self):
        self.bell.hush()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout):
        """Until the bell rings, or for `timeout` seconds."""
        waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout, lambda: waiter.done() or waiter.set_result(None))
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            timer.cancel()


def _bell():
    loop = asyncio.get_event_loop()
    bell = _bells.get(loop)
    if bell is None or bell.pid != os.getpid():
        bell = _bells[loop] = _Bell(loop)
    return bell


class AsyncWaits:
    """`aput` and `aget` for a queue."""

    __slots__ = ()

    async def aput(self, obj, timeout=None):
        """As `put`, in an event loop: other tasks run while there is no room.

        Raises
        ------
        Full
            There was no room in `timeout` seconds.
        """
        await self._attempts(lambda: self.put(obj, False), Full, _core.queue_ring_for_room, timeout)

    async def aget(self, timeout=None):
        """As `get`, in an event loop: other tasks run while there is nothing.

        Raises
        ------
        Empty
            Nothing came in `timeout` seconds.
        """
        return await self._attempts(lambda: self.get(False), Empty, _core.queue_ring_for_items, timeout)

    async def _attempts(self, attempt, refusal, ring_for, timeout):
        try:
            return attempt()
        except refusal:
            if timeout is not None and timeout <= 0:
                raise
        bell = _bell()
        end = None if timeout is None else bell._loop.time() + timeout
        try:
            while True:
                must_wait = True
                try:
                    must_wait = ring_for(self, bell.bell)
                except RuntimeError:
                    pass  # too many bells: a look each slice
                try:
                    return attempt()
                except refusal:
                    left = SLICE_S if end is None else min(SLICE_S, end - bell._loop.time())
                    if left <= 0:
                        raise
                if must_wait:
                    await bell.wait(left)
        finally:
            # A ring that was for us may have been meant for all who wait.
            try:
                _core.queue_pass_on_ring(self)
            except ValueError:
                pass  # closed meanwhile: others were told by that

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

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import MutableMapping  # noqa: F401

# How long at most until who waits looks again, in seconds.
SLICE_S = 0.05

# The bell of each loop, which is the loop's own: nobody else rings for it.
_bells = weakref.WeakKeyDictionary()  # type: MutableMapping[asyncio.AbstractEventLoop, _Bell]


class _Bell:
    """A loop's bell, and those who wait for it. The loop keeps it, not the other way round."""

    def __init__(self, loop):
        self.bell = _core.Bell()
        self.pid = os.getpid()
        self._waiters = set()
        loop.add_reader(self.bell.fileno(), self._rung)

    def _rung(self):
        self.bell.hush()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, loop, timeout):
        """Until the bell rings, or for `timeout` seconds."""
        waiter = loop.create_future()
        timer = loop.call_later(timeout, lambda: waiter.done() or waiter.set_result(None))
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            timer.cancel()


def _bell_of(loop):
    bell = _bells.get(loop)
    if bell is None or bell.pid != os.getpid():
        bell = _bells[loop] = _Bell(loop)
    return bell


async def attempts(queue, attempt, refusal, ring_for, timeout):
    """What `attempt()` returns as soon as it does not raise `refusal`, which is raised when
    that takes more than `timeout` seconds."""
    try:
        return attempt()
    except refusal:
        if timeout is not None and timeout <= 0:
            raise
    loop = asyncio.get_event_loop()
    bell = _bell_of(loop)
    end = None if timeout is None else loop.time() + timeout
    try:
        while True:
            must_wait = False
            try:
                must_wait = ring_for(queue, bell.bell)
            except RuntimeError:
                await bell.wait(loop, SLICE_S / 2)  # too many bells: a try now and then
            # Not in vain: an attempt may pickle a large object.
            if not must_wait:
                try:
                    return attempt()
                except refusal:
                    pass  # somebody was quicker
            left = SLICE_S if end is None else min(SLICE_S, end - loop.time())
            if left <= 0:
                raise refusal
            if must_wait:
                await bell.wait(loop, left)
            else:
                await asyncio.sleep(0)
    finally:
        # A ring that was for us may have been meant for all who wait.
        try:
            _core.queue_pass_on_ring(queue)
        except ValueError:
            pass  # closed meanwhile: others were told by that

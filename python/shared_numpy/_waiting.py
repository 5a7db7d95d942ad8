"""Waiting in a queue without a thread, for asyncio.

What is guaranteed:

- One socket for each event loop, whatever the number of queues. Who waits asks a queue to
  ring it, looks again, and then awaits; who is rung and did not take what was there wakes
  the next one, also when nobody of its loop waits for that queue any more.
- A ring that does not arrive (another network namespace, a full table) costs a slice of
  `SLICE_S`, no more.
- A wait that nobody is left to end raises `PeerDied`, as a blocking one does.
"""

import asyncio
import math
import os
import weakref

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, MutableMapping  # noqa: F401

# How long at most until who waits looks again, in seconds.
SLICE_S = 0.05
# How often who waits looks after the others, in seconds.
LOOK_S = 0.2

# The bell of each loop, which is the loop's own: nobody else rings for it.
_bells = weakref.WeakKeyDictionary()  # type: MutableMapping[asyncio.AbstractEventLoop, _Bell]


class _Bell:
    """A loop's bell, and those who wait for it. The loop keeps it, not the other way round."""

    def __init__(self, loop):
        self.bell = _core.Bell()
        self.pid = os.getpid()
        self._waiters = {}  # type: Dict[asyncio.Future[None], Any]
        # Queues that were asked to ring, by identity: they may do so when nobody waits for them
        # any more.
        self._asked = {}  # type: Dict[int, weakref.ref[Any]]
        loop.add_reader(self.bell.fileno(), self._rung)

    def _rung(self):
        self.bell.hush()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        waited = set(map(id, self._waiters.values()))
        for key, reference in list(self._asked.items()):
            queue = reference()
            if queue is None:
                del self._asked[key]
            elif key not in waited:
                _pass_on(queue)

    def ask(self, queue, ring_for):
        """Asks `queue` to ring; whether there is nothing yet, so that it will."""
        self._asked[id(queue)] = weakref.ref(queue)
        return ring_for(queue, self.bell)

    async def wait(self, queue, loop, timeout):
        """Until the bell rings, for `queue` perhaps, or for `timeout` seconds."""
        waiter = loop.create_future()
        timer = loop.call_later(timeout, lambda: waiter.done() or waiter.set_result(None))
        self._waiters[waiter] = queue
        try:
            await waiter
        finally:
            del self._waiters[waiter]
            timer.cancel()


def _bell_of(loop):
    bell = _bells.get(loop)
    if bell is None or bell.pid != os.getpid():
        bell = _bells[loop] = _Bell(loop)
    return bell


async def attempts(queue, attempt, refusal, ring_for, timeout):
    """What `attempt()` returns as soon as it does not raise `refusal`, which is raised when
    that takes more than `timeout` seconds."""
    if timeout is not None and math.isnan(timeout):
        raise ValueError("a timeout is a number of seconds, not NaN")
    try:
        return attempt()
    except refusal:
        if timeout is not None and timeout <= 0:
            raise
    loop = asyncio.get_event_loop()
    bell = _bell_of(loop)
    end = None if timeout is None else loop.time() + float(timeout)
    look, was_alone = loop.time() + LOOK_S, False
    try:
        while True:
            must_wait = False
            try:
                must_wait = bell.ask(queue, ring_for)
            except RuntimeError:
                await bell.wait(queue, loop, SLICE_S / 2)  # too many bells: a try now and then
            # Not in vain: an attempt may pickle a large object.
            if not must_wait:
                try:
                    return attempt()
                except refusal:
                    pass  # somebody was quicker
            left = SLICE_S if end is None else min(SLICE_S, end - loop.time())
            if left <= 0:
                raise refusal
            if loop.time() >= look:
                # Twice: somebody may have received a handle and not opened the queue yet. Whatever
                # the dead did they did before: an attempt comes after the second look.
                is_alone, look = _core.queue_is_alone(queue), loop.time() + LOOK_S
                if is_alone and was_alone:
                    return _last_attempt(attempt, refusal)
                was_alone = is_alone
            if must_wait:
                await bell.wait(queue, loop, left)
            else:
                await asyncio.sleep(0)
    finally:
        # A ring that was for us may have been meant for all who wait.
        _pass_on(queue)


def _pass_on(queue):
    try:
        _core.queue_pass_on_ring(queue)
    except ValueError:
        pass  # closed meanwhile: others were told by that


def _last_attempt(attempt, refusal):
    try:
        return attempt()
    except refusal:
        raise _core.PeerDied("nobody who could end this wait is left: the last other process that had "
                             "the queue died") from None

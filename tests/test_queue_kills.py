"""SIGKILL of those who are in a queue, a lock or a condition, at any moment: the others go on.

Each program is run with its tracker, and with the tracker killed before each kill. What it
takes the others to go on is told by ``pytest -s``; only who hangs fails.
"""

import pytest

pytest.importorskip("numpy")

from programs import needs_tracker, run

METHODS = ["fork", "spawn"]
TRACKERS = ["kept", pytest.param("killed", marks=needs_tracker)]

# What the programs share.
COMMON = """
    import multiprocessing, os, random, signal, sys, time
    import numpy as np
    import shared_numpy as snp
    from programs import is_alive, memory_files, soon, trackers_of

    METHOD, TRACKER = sys.argv[1:3]
    context = multiprocessing.get_context(METHOD)
    LONG = 30
    WITHOUT = os.environ.get("SHARED_NUMPY_DISABLE", "")

    def start(target, *args):
        child = context.Process(target=target, args=args, daemon=True)  # a test that fails leaves nobody behind
        child.start()
        return child

    def kill(child):
        if TRACKER == "killed":
            for tracker in trackers_of(memory_files(os.getpid())):
                os.kill(tracker, signal.SIGKILL)
                assert soon(lambda: not is_alive(tracker))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        return time.monotonic()

    def ended(child):
        child.join(LONG)
        assert child.exitcode == 0, child.exitcode

    worst = {}

    def went_on(who, since):
        worst[who] = max(worst.get(who, 0), time.monotonic() - since)

    def tell():
        for who, seconds in sorted(worst.items()):
            print("{}: {:.0f} ms at worst".format(who, seconds * 1e3))
"""

ITEMS = COMMON + """
    SIZES = [0, 1, 100, 1000, 5000, 20000, 300000]  # inline, by a block, a page more

    def item(who, number):
        size = SIZES[number % len(SIZES)]
        values = np.arange(number, number + size) * (who + 1)
        if number % 3 == 0:
            values = snp.array(values)  # by handle
        elif number % 3 == 1:
            values = [values, {"again": snp.array(values[:50])}]  # inside of others
        return who, number, values

    def check(got):
        who, number, values = got
        if number % 3 == 1:
            values, again = values[0], values[1]["again"]
            assert type(again) is snp.SharedNDArray and (again == values[:50]).all()
        elif number % 3 == 0:
            assert type(values) is snp.SharedNDArray
        size = SIZES[number % len(SIZES)]
        right = np.arange(number, number + size) * (who + 1)
        assert values.shape == right.shape and (values == right).all(), (who, number)
        return who, number

    def nothing_is_left(before):
        def is_back():
            snp.trim()
            stats = snp.stats()
            return (stats["in_use_bytes"], stats["in_flight"]) == before
        assert soon(is_back), (snp.stats(), before)

    def figures():
        snp.trim()
        stats = snp.stats()
        return stats["in_use_bytes"], stats["in_flight"]
"""


def play(tmp_path, script, method, tracker):
    out = run(tmp_path, script, method, tracker)
    print("{}, tracker {}: {}".format(method, tracker, out.strip().replace("\n", "; ")))


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("method", METHODS)
def test_producers_in_put(tmp_path, method, tracker):
    play(tmp_path, ITEMS + """
    def produce(queue, who, puts, begun):
        begun.set()
        for number in range(1000000):
            queue.put(item(who, number))
            puts.store(number + 1)
            while queue.qsize() > 100:
                time.sleep(0.001)  # or the rest of the test is getting

    def main(maxsize):
        queue, events = snp.Queue(maxsize), [snp.Event() for _ in range(3)]
        puts = [snp.AtomicInt() for _ in events]
        children = [start(produce, queue, who, puts[who], events[who]) for who in range(3)]
        numbers, lost = [[] for _ in events], []

        def get_one():
            try:
                who, number = check(queue.get(timeout=LONG))
            except (snp.StaleHandle, snp.TrackerUnavailable) as error:
                lost.append(repr(error))  # a dead producer's, and its tracker died as well
            else:
                numbers[who].append(number)

        assert all(event.wait(LONG) for event in events)
        dead = None
        for turn in range(3):
            end = time.monotonic() + 0.05 + random.random() * 0.15
            while time.monotonic() < end:
                get_one()
            dead = kill(children[turn])
            # Those who live go on putting; who gets goes on getting.
            for living in range(turn + 1, 3):
                seen = puts[living].load()
                while puts[living].load() == seen:
                    get_one()
                went_on("who puts", dead)
        while True:
            try:
                get_one()
            except snp.PeerDied:
                went_on("PeerDied", dead)
                break
        assert lost == [] or TRACKER == "killed" or "tracker" in WITHOUT, lost
        total = 0
        for who, got in enumerate(numbers):
            done = puts[who].load()
            # Whole, in order, once; what was put is there, and what was being put is or is not.
            assert got == sorted(set(got)) and all(number <= done for number in got), (got, done)
            total += done - len(got)
        # Each of the dead may have put one item more than it has told.
        assert len(lost) - 3 <= total <= len(lost), (total, lost)

    if __name__ == "__main__":
        before = figures()
        for maxsize in (0, 5) if METHOD == "fork" else (5,):
            main(maxsize)
        nothing_is_left(before)
        tell()
    """, method, tracker)


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("method", METHODS)
def test_consumers_in_get(tmp_path, method, tracker):
    play(tmp_path, ITEMS + """
    MANY = 1000000

    def consume(queue, gets, taken, begun):
        while True:
            _, number = check(queue.get())
            taken[number] += 1
            gets.add()
            begun.set()

    def main():
        queue, events = snp.Queue(10), [snp.Event() for _ in range(3)]
        gets, taken = [snp.AtomicInt() for _ in events], snp.zeros(MANY, dtype="u1")
        children = [start(consume, queue, gets[who], taken, events[who]) for who in range(3)]
        number, turn = 0, 0
        end = None
        while turn < 3:
            queue.put(item(7, number), timeout=LONG)
            number += 1
            if end is None and all(event.is_set() for event in events):
                end = time.monotonic() + 0.05 + random.random() * 0.15
            if end is not None and time.monotonic() > end:
                dead = kill(children[turn])
                for living in range(turn + 1, 3):
                    seen = gets[living].load()
                    while gets[living].load() == seen:
                        queue.put(item(7, number), timeout=LONG)
                        number += 1
                    went_on("who gets", dead)
                end = time.monotonic() + 0.05 + random.random() * 0.15
                turn += 1
        # Nobody is left: what is there is there, and there is no use in waiting for room.
        while True:
            try:
                queue.put(item(7, number), timeout=LONG)
            except snp.PeerDied:
                went_on("PeerDied", dead)
                break
            number += 1
        assert queue.full()
        while not queue.empty():
            taken[check(queue.get(False))[1]] += 1
        taken = taken[:number].tolist()
        # Once; and what a consumer had got when it died is gone with it: one each.
        assert max(taken) == 1 and taken.count(0) <= 3, taken

    if __name__ == "__main__":
        before = figures()
        main()
        nothing_is_left(before)
        tell()
    """, method, tracker)


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("method", METHODS)
def test_owners_of_locks_and_those_who_wait(tmp_path, method, tracker):
    play(tmp_path, COMMON + """
    def count(lock, pair, begun):
        while True:
            with lock:
                begun.set()
                if lock.abandoned:
                    pair[1] = pair[0]  # what its last owner was at
                assert pair[0] == pair[1]
                pair[0] += 1
                time.sleep(random.random() / 2000)
                pair[1] += 1

    def wait_and_notify(condition, turns, begun):
        while True:
            with condition:
                begun.set()
                if condition.wait(0.5):
                    turns.add()
                condition.notify()

    def locks(make):
        lock, pair, events = make(), snp.zeros(2, dtype="i8"), [snp.Event() for _ in range(3)]
        children = [start(count, lock, pair, event) for event in events]
        assert all(event.wait(LONG) for event in events)
        for turn, child in enumerate(children):
            time.sleep(random.random() / 20)
            dead = kill(child)
            seen = pair[0]
            while turn < 2 and pair[0] == seen:
                time.sleep(0.0005)
                assert time.monotonic() < dead + LONG
            if turn < 2:
                went_on("who wants a lock", dead)
            assert lock.acquire(timeout=LONG)
            assert lock.abandoned or pair[0] == pair[1]
            pair[1] = pair[0]
            lock.release()

    def conditions():
        condition, turns, events = snp.Condition(), snp.AtomicInt(), [snp.Event() for _ in range(3)]
        children = [start(wait_and_notify, condition, turns, event) for event in events]
        assert all(event.wait(LONG) for event in events)
        for turn, child in enumerate(children):
            time.sleep(random.random() / 20)
            dead = kill(child)
            seen = turns.load()
            while turn < 2 and turns.load() == seen:
                assert condition.acquire(timeout=LONG)
                condition.notify()
                condition.release()
                time.sleep(0.001)
            went_on("who waits for a condition", dead)
        with condition:
            condition.notify_all()

    if __name__ == "__main__":
        for make in (snp.Lock, snp.RLock):
            locks(make)
        conditions()
        tell()
    """, method, tracker)


@pytest.mark.parametrize("method", METHODS)
def test_who_is_left_alone_is_told_and_nobody_else(tmp_path, method):
    play(tmp_path, COMMON + """
    import subprocess
    from queue import Empty

    def put_and_wait(queue, begun):
        queue.put("here")
        begun.set()
        time.sleep(LONG)

    def never_use(queue, begun):
        begun.set()
        time.sleep(LONG)

    def put_and_return(queue):
        queue.put("here")

    def put_and_exit(queue):
        queue.put("here")
        os._exit(0)

    def raises(exception, queue, timeout=1):
        try:
            got = queue.get(timeout=timeout)
        except exception:
            return
        raise AssertionError(got)

    if __name__ == "__main__":
        for target in (put_and_wait, never_use):
            queue, begun = snp.Queue(), snp.Event()
            child = start(target, queue, begun)
            assert begun.wait(LONG)
            if target is put_and_wait:
                assert queue.get(timeout=LONG) == "here"
            kill(child)
            raises(snp.PeerDied, queue, LONG)
        queue = snp.Queue()
        ended(start(put_and_return, queue))
        assert queue.get(timeout=LONG) == "here"
        raises(Empty, queue)
        start(put_and_exit, queue).join()
        assert queue.get(timeout=LONG) == "here"
        raises(snp.PeerDied, queue, LONG)
        # Who closes takes the death of the others along; and what has nothing to do with the
        # queue died for nobody: other programs, children that were not given it.
        ended(start(put_and_return, queue))
        assert queue.get(timeout=LONG) == "here"
        subprocess.check_call(["true"], preexec_fn=os.getpid)
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        if os.fork() == 0:
            os._exit(1)
        os.wait()
        raises(Empty, queue)
    """, method, "kept")

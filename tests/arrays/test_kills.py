"""Programs that are killed in whole or in part: what is left, and what goes on.

All is seen from outside, in /proc: processes by a mark in their environment, memory by
the files that anybody has mapped or open.
"""

import os
import signal

import pytest

pytest.importorskip("numpy")

from programs import DISABLED, Program, argv, is_alive, names_left, needs_tracker, nothing_is_left, run, soon, trackers_of

WITHOUT_TRACKER = "tracker" in DISABLED

# A family of processes of all kinds that hold, send and receive.
FAMILY = """
    import multiprocessing, os, sys, time
    import shared_numpy as snp
    from shared_numpy import shared_memory

    def work(queue, back):
        mine = [snp.full(size, 1, dtype="u1") for size in (100, 1 << 16, 1 << 22)]
        held = []
        back.put(mine[1])
        while True:
            a = queue.get()
            if a is None:
                return
            held = (held + [a])[-10:]
            back.put([mine[0], a[:1]])

    if __name__ == "__main__":
        mine = [snp.full(size, 1, dtype="u1") for size in (100, 1 << 16, 1 << 22)]
        if os.fork() == 0:
            print("ready", flush=True)
            time.sleep(1000)
            os._exit(0)
        spawning = multiprocessing.get_context("spawn")
        queue, back = spawning.Queue(), spawning.Queue()
        workers = []
        for method in ("fork", "spawn", "forkserver"):
            context = multiprocessing.get_context(method)
            workers.append(context.Process(target=work, args=(queue, back), daemon=True))
            workers[-1].start()
        for _ in workers:
            back.get()  # each has its tracker by now
        for number in range(30):
            queue.put(snp.full(1000 * number, number % 100, dtype="u1"))
            back.get()
        # On their way for ever.
        lost = snp.Queue()
        lost.put([snp.full(1 << 20, 1), mine[1]])
        named = snp.ndarray(100, name="kills{}".format(os.getpid()))
        segment = shared_memory.SharedMemory(create=True, size=100)
        print("ready", named.shm.name, segment.name, flush=True)
        while True:
            queue.put(snp.full(1 << 16, 3, dtype="u1"))
            back.get()
"""


def started(program):
    """The names that it made, once all of `FAMILY` runs."""
    lines = sorted([program.line(), program.line()], key=len)
    return lines[1].split()[1:]


@pytest.fixture
def names():
    """Names of named memory, to be removed at the end: where the trackers are killed nobody else does."""
    made = []
    yield made
    for name in names_left(made):
        os.unlink("/dev/shm/" + name)


@needs_tracker
def test_a_whole_program_killed_at_once(tmp_path, names):
    """Trackers too: nobody is left to clean up, and there is nothing to clean up, but names."""
    with Program(tmp_path, FAMILY) as program:
        names += started(program)
        files = program.files()
        # One for each family: a process that was not forked, and made arrays before it received any, has its own.
        assert files and 1 <= len(trackers_of(files)) <= 3
        assert len(program.processes()) >= 6
        # Not the standard library's: nobody else removes the names of its semaphores.
        program.kill(spare=[pid for pid in program.processes() if "_tracker import main" in " ".join(argv(pid))])
        nothing_is_left(program, files, [])


def test_all_but_the_trackers_killed(tmp_path, names):
    """The trackers end by themselves when they have seen to everything."""
    with Program(tmp_path, FAMILY) as program:
        names += started(program)
        files = program.files()
        trackers = [pid for pid in program.processes()
                    if os.path.basename(os.readlink("/proc/{}/exe".format(pid))).startswith("shared-numpy")]
        assert WITHOUT_TRACKER or set(trackers_of(files)) < set(trackers)
        theirs = [pid for pid in program.processes() if "_tracker import main" in " ".join(argv(pid))]
        program.kill(spare=trackers + theirs)
        nothing_is_left(program, files, [] if WITHOUT_TRACKER else names)


@needs_tracker
@pytest.mark.parametrize("end", ["", "raise SystemExit", "import atexit; atexit.register(snp.zeros, 5)"])
def test_a_program_that_ends_leaves_no_process(tmp_path, end):
    with Program(tmp_path, """
        import os, sys
        import multiprocessing
        import shared_numpy as snp

        def work(queue):
            queue.put(snp.ones(1000))

        if __name__ == "__main__":
            queue = snp.Queue()
            worker = multiprocessing.get_context("spawn").Process(target=work, args=(queue,))
            worker.start()
            a = queue.get()
            b = snp.ones(1 << 20)
            queue.put(b)  # nobody gets it
            worker.join()
            sys.stdin.readline()
            print("ready", flush=True)
            sys.stdin.readline()
            END
    """.replace("END", end)) as program:
        program.tell()
        program.line()
        files = program.files()
        assert files
        assert trackers_of(files)
        program.tell()
        program.end()
        nothing_is_left(program, files, [])


@needs_tracker
def test_a_killed_tracker_is_replaced(tmp_path):
    with Program(tmp_path, """
        import multiprocessing, sys
        import shared_numpy as snp

        def work(queue, back):
            while True:
                a = queue.get()
                if a is None:
                    return
                a += 1
                back.put([a, snp.full(a.shape, 7.0)])

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            queue, back = context.Queue(), context.Queue()
            worker = context.Process(target=work, args=(queue, back))
            worker.start()
            on_its_way = snp.full(100, 5.0)
            for line in iter(sys.stdin.readline, "\\n"):
                for number in range(20):
                    size = 100 if number < 5 else 10000 << int(line)  # new segments as well
                    a = snp.full(size, float(number))
                    queue.put(a)
                    same, made = back.get(timeout=60)
                    assert (a == number + 1).all() and (same == a).all() and (made == 7).all()
                print("done", flush=True)
            queue.put(None)
            worker.join()
            assert worker.exitcode == 0
    """) as program:
        program.tell("1")
        assert program.line() == "done"
        seen = set()
        for turn in range(4):
            assert soon(lambda: len(trackers_of(program.files())) == 1)
            files = program.files()
            tracker, = trackers_of(files)
            assert tracker not in seen
            seen.add(tracker)
            if turn == 3:
                break
            os.kill(tracker, signal.SIGKILL)
            if turn % 2:
                assert soon(lambda tracker=tracker: not is_alive(tracker))

            def is_replaced(turn=turn, tracker=tracker):
                program.tell(str(turn + 2))
                assert program.line() == "done"
                return trackers_of(program.files()) not in ([], [tracker])

            assert soon(is_replaced)
        program.tell()
        program.end()
        nothing_is_left(program, files, [])


@needs_tracker
def test_what_is_on_its_way_outlives_its_sender_and_the_tracker(tmp_path):
    """A running transfer is not disturbed: the receiver reaches the owner by itself."""
    run(tmp_path, """
        import multiprocessing, os, signal
        import numpy as np
        import shared_numpy as snp
        from programs import is_alive, memory_files, soon, trackers_of

        def work(receive, back):
            back.send("ready")
            receive.poll(60)
            back.send(receive.recv().sum())

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            receive, send = context.Pipe(False)
            answer, back = context.Pipe(False)
            worker = context.Process(target=work, args=(receive, back))
            worker.start()
            assert answer.recv() == "ready"
            a = snp.array(np.arange(1000))
            data = bytes(multiprocessing.reduction.ForkingPickler.dumps(a))
            tracker, = trackers_of(memory_files(os.getpid()))
            os.kill(tracker, signal.SIGKILL)
            assert soon(lambda: not is_alive(tracker))
            send.send_bytes(data)
            assert answer.recv() == 499500
            worker.join()
            assert worker.exitcode == 0
    """)

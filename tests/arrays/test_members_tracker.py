"""The members tracker is stopped, or killed as it starts, while programs need it."""

import os

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp
from programs import needs_tracker, run


@needs_tracker
def test_a_child_that_is_forked_while_a_thread_waits_has_none_of_its_parents_connection(tmp_path):
    run(tmp_path, """
        import os, pickle, signal, threading, time
        import programs
        import shared_numpy as snp
        from multiprocessing.reduction import ForkingPickler

        def sockets():
            found = set()
            for number in os.listdir("/proc/self/fd"):
                try:
                    found.add(os.readlink("/proc/self/fd/" + number))
                except OSError:
                    pass
            return {each for each in found if each.startswith("socket:")}

        def child_has():
            pid = os.fork()
            if pid == 0:
                os._exit(len(sockets() & ours))
            return os.waitpid(pid, 0)[1] >> 8

        before = sockets()
        mine = snp.zeros(3)
        ForkingPickler.dumps(mine)
        ours = sockets() - before
        assert len(ours) == 1 and child_has() == 0
        r, w = os.pipe()
        go, lets = os.pipe()
        giver = os.fork()
        if giver == 0:
            os.close(lets)
            theirs = snp.full(3, 7)
            os.write(w, bytes(ForkingPickler.dumps(theirs)))
            os.read(go, 1)
            os._exit(0)
        data = os.read(r, 4096)
        tracker, = programs.trackers_of(programs.memory_files(os.getpid()))
        os.kill(tracker, signal.SIGSTOP)
        got = []
        thread = threading.Thread(target=lambda: got.append(pickle.loads(data).tolist()))
        thread.start()
        # The thread asks at once, and waits for seconds.
        kept = []
        for _ in range(10):
            kept.append(child_has())
            time.sleep(0.05)
        os.kill(tracker, signal.SIGCONT)
        thread.join()
        assert kept == [0] * 10 and got == [[7, 7, 7]], (kept, got)
        os.close(lets)
        assert os.waitpid(giver, 0)[1] == 0
    """, PYTHONWARNINGS="ignore")  # of a fork with threads


@needs_tracker
def test_a_tracker_that_is_killed_as_it_starts_and_collected_by_others_is_started_again(tmp_path):
    tracker = os.path.join(os.path.dirname(snp.__file__), "shared-numpy-tracker")
    program = tmp_path / "tracker"
    program.write_text("#!/bin/sh\nif mkdir {}/once 2>/dev/null; then kill -9 $$; fi\nexec {} \"$@\"\n".format(
        tmp_path, tracker))
    program.chmod(0o755)
    run(tmp_path, """
        import os, signal, sys
        import programs
        from shared_numpy import _family, _tracker
        import shared_numpy as snp
        from multiprocessing.reduction import ForkingPickler

        # The kernel collects, and nobody else is told how a child ended.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        _tracker.executable = lambda: sys.argv[1]
        _family._configure()
        a = snp.full(3, 7)
        ForkingPickler.dumps(a)
        assert os.path.isdir(os.path.join(os.path.dirname(sys.argv[1]), "once"))
        assert len(programs.trackers_of(programs.memory_files(os.getpid()))) == 1
    """, str(program))

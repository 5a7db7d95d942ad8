#!/usr/bin/env python3
"""shared_numpy beside the standard library of the running interpreter: segments, lists, import, tracker, arrays, queues.

Prints medians of interleaved rounds and their ratio, and beside them what is promised. Where the interpreter has no
``multiprocessing.shared_memory`` (3.6, 3.7) only our figures are shown. See README.md in this folder for how it measures.
"""
import argparse
import collections
import functools
import os
import platform
import subprocess
import sys
import time

import _measure

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.abspath(__file__)
EXAMPLES = os.path.join(os.path.dirname(HERE), "examples")

OURS = "shared_numpy"
STANDARD = "multiprocessing"
# The standard library of 3.13 and newer, asked not to track what it attaches to: less work, and unsafe before close.
UNTRACKED = "multiprocessing, track=False"

SEGMENT_BYTES = 4096
PATTERN = bytes(range(256)) * (SEGMENT_BYTES // 256)
MICRO = ("us", 1e6)
MILLI = ("ms", 1e3)
FAILURES = []


def module_of(implementation):
    """The ``shared_memory`` module of an implementation; `ImportError` where this interpreter has none."""
    if implementation == OURS:
        from shared_numpy import shared_memory
        return shared_memory
    from multiprocessing import shared_memory
    if shared_memory.SharedMemory.__module__.startswith("shared_numpy"):
        raise ImportError("shared_numpy is installed in place of the standard module here")
    return shared_memory


def standards():
    """The standard implementations that this interpreter has to compare with."""
    try:
        module_of(STANDARD)
    except ImportError:
        return []
    return [STANDARD, UNTRACKED] if sys.version_info >= (3, 13) else [STANDARD]


# --- jobs that a server runs: seconds for so many iterations, the data checked outside the clock ---

def attach_jobs(implementation):
    """Attach to a 4 KiB segment and close it."""
    module = module_of(implementation)
    extra = {"track": False} if implementation == UNTRACKED else {}

    def attach_close(iterations):
        owner = module.SharedMemory(create=True, size=SEGMENT_BYTES)
        try:
            owner.buf[:SEGMENT_BYTES] = PATTERN
            name, attach = owner.name, module.SharedMemory
            began = time.perf_counter()
            for _ in range(iterations):
                attach(name, **extra).close()
            seconds = time.perf_counter() - began
            reader = attach(name, **extra)
            if bytes(reader.buf[:SEGMENT_BYTES]) != PATTERN:
                raise RuntimeError("the attached segment holds something else")
            reader.close()
        finally:
            owner.close()
            owner.unlink()
        return seconds

    return {"attach_close": attach_close}


def create_jobs(implementation):
    """Create, close and unlink a 4 KiB segment."""
    module = module_of(implementation)
    extra = {"track": False} if implementation == UNTRACKED else {}

    def create_close_unlink(iterations):
        create = module.SharedMemory
        began = time.perf_counter()
        for _ in range(iterations):
            segment = create(create=True, size=SEGMENT_BYTES, **extra)
            segment.close()
            segment.unlink()
        seconds = time.perf_counter() - began
        segment = create(create=True, size=SEGMENT_BYTES, **extra)
        segment.buf[:SEGMENT_BYTES] = PATTERN
        right = bytes(segment.buf[:SEGMENT_BYTES]) == PATTERN
        segment.close()
        segment.unlink()
        try:
            create(segment.name, **extra)
        except FileNotFoundError:
            pass
        else:
            right = False
        if not right:
            raise RuntimeError("the created segment is not as written, or still there")
        return seconds

    return {"create_close_unlink": create_close_unlink}


def array_jobs(implementation):
    """Make an array in shared memory, write all of it, and give it back."""
    import numpy

    def check(total, elements):
        if total != float(elements):
            raise RuntimeError("the array sums up to {}, not {}".format(total, elements))

    if implementation == OURS:
        import shared_numpy

        def job(elements):
            array = shared_numpy.empty((elements,), numpy.float32)
            array[...] = 1
            return array
    else:
        module = module_of(implementation)

        def job(elements):
            segment = module.SharedMemory(create=True, size=4 * elements)
            array = numpy.ndarray((elements,), numpy.float32, segment.buf)
            array[...] = 1
            return array, segment

    def run(iterations, elements):
        seconds = 0.0
        for turn in range(iterations):
            began = time.perf_counter()
            made = job(elements)
            seconds += time.perf_counter() - began
            if turn == 0:
                check(float((made if implementation == OURS else made[0]).sum(dtype=numpy.float64)), elements)
            began = time.perf_counter()
            if implementation != OURS:
                segment = made[1]
                made = None
                segment.close()
                segment.unlink()
            made = None
            seconds += time.perf_counter() - began
        return seconds

    return {
        "array_small": lambda iterations: run(iterations, 1024),
        "array_large": lambda iterations: run(iterations, 9000000),
    }


def jobs_of(implementation):
    """All the jobs of a server."""
    jobs = {}
    for make in (attach_jobs, create_jobs, array_jobs):
        jobs.update(make(implementation))
    return jobs


# --- the report ---

def show(what, times, unit, wanted_ratio=None, wanted_most=None):
    """Lines of the report: ours, then each standard one with its ratio to ours, then what is asked for."""
    suffix, scale = unit
    ours = times[OURS]
    print("{:<50} {:>10.3f} {}".format(what, ours * scale, suffix))
    for name in [name for name in times if name != OURS]:
        wanted = " (at least {:g}x)".format(wanted_ratio) if wanted_ratio and name == STANDARD else ""
        print("  {:<48} {:>10.3f} {}  {:6.1f}x{}".format(name, times[name] * scale, suffix, times[name] / ours, wanted))
        if wanted and times[name] / ours < wanted_ratio:
            FAILURES.append("{}: {:.2f}x, not {:g}x".format(what, times[name] / ours, wanted_ratio))
    if wanted_most is not None:
        print("  {:<48} {:>10.3f} {}".format("(at most)", wanted_most * scale, suffix))
        if ours > wanted_most:
            FAILURES.append("{}: {:.3f} {}, more than {:g}".format(what, ours * scale, suffix, wanted_most * scale))
    sys.stdout.flush()


def compare_jobs(job, what, unit, iterations, rounds, wanted_ratio=None, others=None):
    """Interleave a job between the servers of all implementations and show it."""
    names = [OURS] + (standards() if others is None else others)
    servers = [_measure.Server(SCRIPT, name) for name in names]
    try:
        sides = collections.OrderedDict(
            (server.implementation, lambda server=server: server.ask(job, iterations)) for server in servers)
        show(what, _measure.interleave(sides, rounds), unit, wanted_ratio)
    finally:
        for server in servers:
            server.close()


def segments(quick):
    """Segments of 4 KiB."""
    # The length of the burst matters for creating (see README.md): longer ones are less in our favour.
    rounds, iterations = (2, 20) if quick else (60, 100)
    compare_jobs("attach_close", "attach + close, 4 KiB", MICRO, iterations, rounds, 2)
    compare_jobs("create_close_unlink", "create + close + unlink, 4 KiB", MICRO, iterations, rounds, 1.3)


def lists(quick):
    """`ShareableList`: the figures of its own benchmark."""
    if not standards():
        print("skipped: that benchmark compares, and there is nothing to compare with")
        return
    script = os.path.join(HERE, "shareable_list.py")
    status = subprocess.call([sys.executable, script] + (["--quick"] if quick else []))
    if status != 0:
        raise RuntimeError("{} ended with status {}".format(script, status))


def imports(quick):
    """What the import costs a whole run of an interpreter, above one that imports nothing."""
    statements = collections.OrderedDict([("bare", "pass"), (OURS, "from shared_numpy import shared_memory")])
    if standards():
        statements[STANDARD] = "from multiprocessing import shared_memory"
    if _measure.run_python(statements[OURS] + "; import sys; print('numpy' in sys.modules)").strip() != "False":
        raise RuntimeError("the import of shared_memory imports numpy")
    times = _measure.interleave(
        collections.OrderedDict((name, lambda code=code: _measure.wall_of_python(code)) for name, code in statements.items()),
        2 if quick else 60)
    bare = times.pop("bare")
    print("{:<50} {:>10.3f} ms".format("(a bare interpreter)", bare * 1e3))
    show("import of shared_memory, above that", {name: value - bare for name, value in times.items()}, MILLI, wanted_most=0.005)


TRACKER_CODE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import _measure, compare
module = compare.module_of(sys.argv[2])
began = time.perf_counter()
first = module.SharedMemory(create=True, size=4096)
seconds = time.perf_counter() - began
try:
    time.sleep(0.5)  # the standard one goes on starting in the background
    trackers = _measure.children_of(os.getpid())
    if len(trackers) != 1:
        sys.exit("expected one tracker, found {}".format(len(trackers)))
    pid = trackers[0]
    print(seconds, _measure.cpu_seconds(pid),
          _measure.status_kib(pid, "VmRSS") / 1024, _measure.status_kib(pid, "RssAnon") / 1024)
finally:
    first.close()
    first.unlink()
"""


def tracker(quick):
    """The tracker: how long its start holds up the first segment, how much CPU time and memory it takes."""
    names = [OURS] + standards()[:1]
    samples = {name: [] for name in names}
    for _ in range(2 if quick else 7):
        for name in names:
            samples[name].append([float(text) for text in _measure.run_python(TRACKER_CODE, HERE, name).split()])
    middle = len(samples[OURS]) // 2
    columns = [{name: sorted(run[i] for run in samples[name])[middle] for name in names} for i in range(4)]
    show("first segment, with the tracker's start", columns[0], MILLI)
    show("tracker: CPU time until it waits", columns[1], MILLI)
    show("tracker: resident memory", columns[2], ("MB", 1), wanted_most=2)
    show("tracker: of it private", columns[3], ("MB", 1))


def arrays(quick):
    """An array of shared memory made, written and given back, beside the same by hand with the standard library."""
    rounds = 2 if quick else 15
    others = standards()[:1]
    compare_jobs("array_small", "array of 4 KiB, made, written, dropped", MICRO, 10 if quick else 200, rounds, others=others)
    compare_jobs("array_large", "array of 36 MB, made, written, dropped", MILLI, 2 if quick else 4, rounds, others=others)


def frames(quick):
    """Frames from process to process, through both queues; the work and the checks are those of the example."""
    sys.path.insert(0, EXAMPLES)
    import timing_comparison as example
    rounds, count = (1, 3) if quick else (5, 20)
    shapes = [(16, 16), (512, 512)] + ([] if quick else [(3000, 3000)])
    for shape in shapes:
        for job in example.JOBS:
            label = "{} {}".format(job, shape)
            sides = collections.OrderedDict(
                (name, functools.partial(example.measure, transport, job, shape, count, label))
                for name, transport in ((OURS, example.OURS), (STANDARD, example.STANDARD)))
            times = _measure.interleave(sides, rounds)
            show("queue, float32 {}, {}".format("x".join(map(str, shape)), job), times, MILLI)


PARTS = collections.OrderedDict(
    (part.__name__, part) for part in (segments, lists, imports, tracker, arrays, frames))


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help="which of {} (default: all)".format(", ".join(PARTS)))
    parser.add_argument("--quick", action="store_true", help="a smoke run: each once or twice, figures without meaning")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a figure misses what is promised")
    parser.add_argument("--serve", choices=(OURS, STANDARD, UNTRACKED), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _measure.serve(jobs_of(options.serve))
        return 0
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error("no such part: {} (there are {})".format(", ".join(unknown), ", ".join(PARTS)))
    print("{} {} on {}, {} CPUs{}; ratio: theirs / ours".format(
        platform.python_implementation(), platform.python_version(), platform.release(), os.cpu_count(),
        ", quick: the figures mean nothing" if options.quick else ""))
    if not standards():
        print("this interpreter has no multiprocessing.shared_memory to compare with")
    for name in options.parts or PARTS:
        print("\n# {}: {}".format(name, PARTS[name].__doc__.strip()), flush=True)
        PARTS[name](options.quick)
    print()
    for failure in FAILURES:
        print("MISSED {}".format(failure))
    if not FAILURES:
        print("of what was measured here, nothing misses what is promised")
    return 1 if FAILURES and options.check and not options.quick else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError) as error:
        sys.exit("{}: {}".format(type(error).__name__, error))
    except KeyboardInterrupt:
        sys.exit(130)

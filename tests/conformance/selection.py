"""Which of CPython's tests are run, and every exception to that, with its reason.

Guarantees: a test of a selected class is run unless a row of `EXCEPTIONS` says otherwise; a test that skips itself
counts as *not passed* unless a row accepts the skip; a class of the test file that is about a suite's subject and is
neither selected nor in a row makes the run fail (`overlooked`), so that a newer CPython cannot add tests that nobody
sees; so does a run with fewer tests than the suite's `fewest`.

Standard library only, 3.6 syntax: it is imported by the runner and by the interpreter under test.
"""
import ast
import re

START_METHODS = ("fork", "spawn", "forkserver")


class Suite:
    """Tests of one subject, run in processes of their own.

    `classes` are those of test/_test_multiprocessing.py that are run, by the name that they have in that file (of the
    variants that CPython makes of one class, that of processes). `about` says whether a class, given by name and
    source, has to be selected or excepted. `fewest` is the number of tests in the oldest file; no later one has fewer.
    `extra` are tests of other modules of the test package: (first version, module, class, {start method: names}).
    `parallel` runs of the suite go side by side. `backport`: 3.6 and 3.7 run the file of 3.8. `substitute`: ours are
    put in the place of `multiprocessing`'s by substitute/sitecustomize.py, as an installed package leaves those alone.
    `numpy`: they need NumPy; other runs are without it.
    """

    def __init__(self, name, title, classes, about, fewest, parallel, extra=(),
                 backport=False, substitute=False, numpy=False):
        self.name, self.title = name, title
        self.classes = re.compile(classes + r"\Z")
        self.about = about
        self.fewest = fewest
        self.parallel = parallel
        self.extra = extra
        self.backport, self.substitute, self.numpy = backport, substitute, numpy


_MEMORY_WORDS = re.compile(r"\b(shared_memory|ShareableList|SharedMemoryManager|_?resource_tracker)\b")
# Not their sources: most tests of processes use a queue or an event for something.
_LOCK_NAMES = re.compile(r"Queue|Lock|Semaphore|Condition|Event|Barrier")

SUITES = {suite.name: suite for suite in (
    Suite("shared_memory", "shared memory and the tracker",
          r"_?Test(SharedMemory|ShareableList|SharedMemoryManager|ResourceTracker|NamedResource)",
          about=lambda name, source: _MEMORY_WORDS.search(source) is not None,
          # 8 of _TestSharedMemory and 5 of TestResourceTracker.
          fewest=13,
          parallel=2,
          extra=(
              # Says whether ShareableList[int] is what the typing machinery takes for a generic class.
              ((3, 9), "test.test_genericalias", "BaseTest", dict.fromkeys(START_METHODS, ("test_subscriptable",))),
              # Says whether the tracker's exit code reports that nothing was leaked.
              ((3, 13), "test.test_concurrent_futures.test_init", "FailingInitializerResourcesTest",
               {"fork": (), "spawn": ("test_spawn",), "forkserver": ("test_forkserver",)})),
          backport=True),
    Suite("queues_and_locks", "queues and locks",
          r"_?Test(Queue|SimpleQueue|Lock|Semaphore|Condition|Event|Barrier)",
          about=lambda name, source: _LOCK_NAMES.search(name) is not None,
          # 7 of _TestQueue (without the feeder's), 1 of TestSimpleQueue, 3 of _TestLock, 3 of _TestSemaphore,
          # 6 of _TestCondition, 1 of _TestEvent, 11 of _TestBarrier.
          fewest=32,
          # They sleep half of the time.
          parallel=4,
          substitute=True, numpy=True),
)}


class Row:
    """One row: what is excepted, for whom, and why.

    `kind` is "skip" (the test runs; its own skip is accepted), "test" (a test of a selected class is not run) or
    "class" (a class of the file is not selected). `versions` is a pair (first, last) of (major, minor), both included,
    of the interpreter that runs the test. `pattern` must match the whole of "Class.test", or "Class" (kind class).
    """

    def __init__(self, kind, versions, start_methods, pattern, reason):
        self.kind = kind
        self.versions = versions
        self.start_methods = start_methods
        self.pattern = re.compile(pattern + r"\Z")
        self.reason = reason

    def covers(self, kind, version, start_method, name):
        """Whether this row speaks about `name` under this version and start method."""
        return (kind == self.kind and self.versions[0] <= tuple(version[:2]) <= self.versions[1]
                and start_method in self.start_methods and self.pattern.match(name) is not None)


EVER = (99, 99)
ALWAYS = ((3, 6), EVER)

EXCEPTIONS = (
    Row("skip", ((3, 11), EVER), ("fork", "forkserver"),
        r"TestNamedResource\.test_global_named_resource_spawn",
        "CPython runs it under spawn only: the script that it starts chooses spawn itself"),
    Row("test", ALWAYS, START_METHODS,
        r"TestQueue\.test_queue_feeder_(donot_stop_onexc|on_queue_feeder_error)",
        "about the feeder thread, which our queue has not: put pickles in the caller, and raises there"),
    Row("class", ALWAYS, START_METHODS, r"TestForkAwareThreadLock",
        "about multiprocessing.util.ForkAwareThreadLock, a lock of threads"),
    Row("class", ((3, 6), (3, 7)), START_METHODS, r"TestSemaphoreTracker",
        "about the names of multiprocessing's own semaphores; ours have none"),
    Row("class", ((3, 10), EVER), START_METHODS, r"SemLockTests",
        "about the type _multiprocessing.SemLock itself"),
)


def reason_for(kind, version, start_method, name):
    """The reason of the first row that covers `name`, or None."""
    for row in EXCEPTIONS:
        if row.covers(kind, version, start_method, name):
            return row.reason
    return None


def class_sources(source):
    """{class name: its source text} of a module's source, top level only."""
    # ast of 3.6 and 3.7 has no end_lineno: a class ends where the next top-level statement begins.
    body = ast.parse(source).body
    lines = source.splitlines()
    ends = [_first_line(node) - 1 for node in body[1:]] + [len(lines)]
    return {node.name: "\n".join(lines[node.lineno - 1:end])
            for node, end in zip(body, ends) if isinstance(node, ast.ClassDef)}


def _first_line(node):
    return min([node.lineno] + [d.lineno for d in getattr(node, "decorator_list", [])])


def overlooked(suite, source, version, start_method):
    """Names of classes in the test file that are about the suite's subject but neither selected nor excepted."""
    return [name for name, text in sorted(class_sources(source).items())
            if "test_" in text and suite.about(name, text) and not suite.classes.match(name)
            and reason_for("class", version, start_method, name) is None]

"""Which of CPython's tests are run, and every exception to that, with its reason.

Guarantees: a test is run unless a row of `EXCEPTIONS` says otherwise; a test that skips itself counts as *not passed*
unless a row accepts the skip; a class of the test file that mentions one of our modules and is neither selected nor in
a row makes the run fail (`overlooked`), so that a newer CPython cannot add tests that nobody sees.

Standard library only, 3.6 syntax: it is imported by the runner and by the interpreter under test.
"""
import ast
import re

START_METHODS = ("fork", "spawn", "forkserver")

# Classes of test/_test_multiprocessing.py, by the name that they have in that file.
SELECTED_CLASSES = re.compile(r"^_?Test(SharedMemory|ShareableList|SharedMemoryManager|ResourceTracker|NamedResource)$")

# A class of that file whose source mentions one of these has to be selected or listed below.
OUR_SUBJECTS = re.compile(r"\b(shared_memory|ShareableList|SharedMemoryManager|_?resource_tracker)\b")

# The 3.8 file: 8 tests of _TestSharedMemory and 5 of TestResourceTracker. No later version has fewer.
FEWEST_TESTS = 13

# Tests of other modules of the installed test package: (first version, module, class, {start method: names}).
EXTRA_TESTS = (
    # Says whether ShareableList[int] is what the typing machinery takes for a generic class.
    ((3, 9), "test.test_genericalias", "BaseTest", dict.fromkeys(START_METHODS, ("test_subscriptable",))),
    # Says whether the tracker's exit code reports that nothing was leaked.
    ((3, 13), "test.test_concurrent_futures.test_init", "FailingInitializerResourcesTest",
     {"fork": (), "spawn": ("test_spawn",), "forkserver": ("test_forkserver",)}),
)


class Row:
    """One row: what is excepted, for whom, and why.

    `kind` is "skip" (the test runs; its own skip is accepted) or "class" (a class of the file is not selected).
    `versions` is a pair (first, last) of (major, minor), both included, of the interpreter that runs the test.
    `pattern` must match the whole of "Class.test" (kind skip) or "Class" (kind class).
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

EXCEPTIONS = (
    Row("skip", ((3, 11), EVER), ("fork", "forkserver"),
               r"TestNamedResource\.test_global_named_resource_spawn",
               "CPython runs it under spawn only: the script that it starts chooses spawn itself"),
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


def overlooked(source, version, start_method):
    """Names of classes in the test file that are about our modules but neither selected nor excepted."""
    return [name for name, text in sorted(class_sources(source).items())
            if "test_" in text and OUR_SUBJECTS.search(text) and not SELECTED_CLASSES.match(name)
            and reason_for("class", version, start_method, name) is None]

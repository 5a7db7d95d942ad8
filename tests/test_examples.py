"""What is shown to users works: the examples in a small form, the Python blocks of the README, the benchmarks as a smoke run.

A Python block of the README is run as a program unless the line before it is ``<!-- not runnable: why -->``.
"""
import glob
import importlib.util
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TIMING = os.path.join(ROOT, "examples", "timing_comparison.py")
CAMERA = os.path.join(ROOT, "examples", "camera.py")
PHOTOS = os.path.join(ROOT, "examples", "photos.py")
COMPARE = os.path.join(ROOT, "benchmarks", "compare.py")
START_METHODS = multiprocessing.get_all_start_methods()
TIMEOUT_S = 90
# Trackers clean up after the program has ended, within this time.
CLEANUP_S = 20

needs_numpy = pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="NumPy is not installed")
needs_photographs = pytest.mark.skipif(
    importlib.util.find_spec("PIL") is None or importlib.util.find_spec("skimage") is None,
    reason="Pillow or scikit-image's photographs are not installed (examples/requirements*.txt)")


def segments():
    """The names in /dev/shm, semaphores left out (they belong to multiprocessing)."""
    folder = "/dev/shm"
    return {name for name in os.listdir(folder) if not name.startswith("sem.")} if os.path.isdir(folder) else set()


def in_use(names):
    """Those of these segments that a living process has mapped."""
    found = set()
    for maps in glob.glob("/proc/[0-9]*/maps"):
        try:
            with open(maps, errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue  # ended meanwhile, or of another user
        found.update(name for name in names if "/" + name in text)
    return found


@pytest.fixture
def nothing_left():
    """After the test all names that appeared in /dev/shm meanwhile are gone, or go soon.

    What some process still uses then belongs to another program: those of the test have ended.
    """
    before = segments()
    yield
    appeared = segments() - before
    deadline = time.monotonic() + CLEANUP_S
    while appeared and time.monotonic() < deadline:
        time.sleep(0.05)
        appeared &= segments()
    assert not appeared - in_use(appeared)


def heed_interrupts():
    """In the child before exec: a shell that starts us in the background has SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(script, *arguments, **options):
    """A program in a session of its own, so that all its processes can be signalled at once.

    It starts its own tracker, whatever other tests have left in this process's environment.
    """
    environment = dict(options.pop("env", os.environ))
    environment.pop("SHARED_NUMPY_TRACKER", None)
    return subprocess.Popen(
        [sys.executable, script] + list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True, start_new_session=True,
        preexec_fn=heed_interrupts, env=environment, **options)


def finish(process):
    """(exit code, output, errors); a program that hangs is killed with all its processes."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail("the program hangs; it said:\n{}\n{}".format(out, err))
    return process.returncode, out, err


def run(script, *arguments, **options):
    """`start` and `finish`."""
    return finish(start(script, *arguments, **options))


@needs_numpy
@pytest.mark.parametrize("method", START_METHODS)
def test_timing_comparison(method, nothing_left):
    code, out, err = run(TIMING, "--frames", "3", "--shape", "64x48", "--repeat", "2", "--start-method", method)
    assert (code, err) == (0, "")
    assert "start method {}".format(method) in out
    assert "all frames arrived in order and with the right content" in out


@needs_numpy
def test_timing_comparison_is_interrupted_cleanly(nothing_left):
    process = start(TIMING, "--frames", "5", "--shape", "300x300", "--repeat", "100000")
    try:
        assert process.stdout.readline()
        time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "interrupted\n")


@needs_numpy
def test_children_end_with_a_killed_main_process():
    """Killed in one endless run: between runs it makes semaphores, and multiprocessing leaves the name of one that it is at."""
    endless = (
        "import sys; sys.path.insert(0, {!r}); import _support, timing_comparison as t; right = t.check\n"
        "def check(job, number, *rest):\n"
        "    right(job, number, *rest); number == 5 and print('under way', flush=True)\n"
        "t.check = check; _support.run(lambda: t.measure(t.OURS, t.WRITTEN, (300, 300), 10 ** 9, ''))\n")
    process = start("-c", endless.format(os.path.dirname(TIMING)))
    try:
        assert process.stdout.readline() == "under way\n"
        time.sleep(0.2)
    finally:
        os.kill(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL  # which waits for all who have our pipes: the children


@needs_numpy
def test_timing_comparison_notices_wrong_data(nothing_left):
    """The check itself is checked: with a producer that writes one wrong element the program fails."""
    spoiled = (
        "import sys; sys.path.insert(0, {!r}); import _support, timing_comparison as t; right = t.write\n"
        "def write(frame, number):\n"
        "    right(frame, number); frame[1, 1] += number == 1\n"
        "t.write = write; sys.argv[1:] = {!r}; _support.run(t.main)\n")
    arguments = ["--frames", "3", "--shape", "8x8", "--repeat", "1", "--start-method", "fork"]
    code, out, err = run("-c", spoiled.format(os.path.dirname(TIMING), arguments))
    assert code == 1
    assert err.startswith("WrongData: frame 1 sums up to")
    assert "all frames arrived" not in out


@needs_numpy
@pytest.mark.parametrize("method", START_METHODS)
def test_camera(method, nothing_left):
    code, out, err = run(CAMERA, "--frames", "30", "--shape", "64x48", "--rate", "200", "--start-method", method)
    assert (code, err) == (0, "")
    assert "every frame that was seen was whole, and the last one was seen by all" in out


@needs_numpy
def test_camera_notices_wrong_data(nothing_left):
    spoiled = (
        "import sys; sys.path.insert(0, {!r}); import _support, camera as c; right = c.write\n"
        "def write(frame, number):\n"
        "    right(frame, number); frame[1, 1] += number == 30\n"
        "c.write = write; sys.argv[1:] = {!r}; _support.run(c.main)\n")
    arguments = ["--frames", "30", "--shape", "8x8", "--start-method", "fork"]
    code, out, err = run("-c", spoiled.format(os.path.dirname(CAMERA), arguments))
    assert code == 1
    assert "frame 30 is torn" in err
    assert "was whole" not in out


@needs_numpy
@needs_photographs
@pytest.mark.parametrize("method", START_METHODS)
def test_photos(method, nothing_left):
    code, out, err = run(PHOTOS, "--items", "6", "--side", "96", "--start-method", method)
    assert (code, err) == (0, "")
    assert "all 6 results of both pipelines are those of one process, bit by bit" in out


@needs_numpy
@needs_photographs
@pytest.mark.parametrize("how, message", [
    ("error", "ValueError: this stage was told to fail"), ("kill", "process 'filter' was killed by signal 9")])
def test_photos_notices_a_broken_stage(how, message, nothing_left):
    code, _, err = run(PHOTOS, "--items", "40", "--side", "96", "--break", how)
    assert code == 1
    assert message in err


def blocks_of_readme():
    """(number of the line, code) of each Python block that is to be run."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as stream:
        text = stream.read()
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        before = text[:match.start()].rstrip("\n").rpartition("\n")[2]
        if not before.startswith("<!-- not runnable"):
            found.append((text.count("\n", 0, match.start()) + 2, match.group(1)))
    return found


@needs_numpy
@pytest.mark.parametrize("line, code", blocks_of_readme(), ids=lambda value: str(value) if isinstance(value, int) else "")
def test_block_of_readme(line, code, tmp_path, nothing_left):
    script = tmp_path / "block.py"
    script.write_text("\n" * (line - 1) + code, encoding="utf-8")  # a traceback then names the README's own lines
    status, _, err = run(str(script), cwd=str(tmp_path))
    assert (status, err) == (0, "")


@needs_numpy
@pytest.mark.parametrize("part", ["segments", "lists", "imports", "tracker", "arrays", "frames"])
def test_benchmark_runs(part, nothing_left):
    code, out, err = run(COMPARE, "--quick", part)
    assert (code, err) == (0, "")
    assert "# {}:".format(part) in out


@needs_numpy
@pytest.mark.parametrize("script, part", [
    ("arrays.py", "creation"), ("arrays.py", "frames"),
    ("queues.py", "small"), ("queues.py", "medium"), ("queues.py", "handles"), ("queues.py", "work"),
    ("queues.py", "dicts"), ("queues.py", "pingpong"), ("queues.py", "idle"), ("queues.py", "many"),
    ("locks.py", "alone"), ("locks.py", "contended"), ("latest.py", "newest")])
def test_benchmark_script_runs(script, part, nothing_left):
    code, out, err = run(os.path.join(ROOT, "benchmarks", script), "--quick", part)
    assert (code, err) == (0, "")
    assert "# {}:".format(part) in out
    assert re.search(r"^  .* \d+\.\d+", out, re.MULTILINE)


WORKER_FAILS = """
import sys; sys.path.insert(0, {!r}); import _workers, queues
right = queues.numbered
def numbered(items):
    make = right(items, queues.TURNS)
    def spoiled(number):
        frame = make(number); frame[5] += number == 64
        return frame
    return spoiled
queues.numbered = numbered
queues.through(queues.standard, lambda: numbered(16), lambda: queues.check_numbered(16), 8, 100)
"""


@needs_numpy
def test_benchmark_notices_wrong_data():
    """The check itself is checked, and that a worker that fails ends the others."""
    code, _, err = run("-c", WORKER_FAILS.format(os.path.join(ROOT, "benchmarks")))
    assert code == 1
    assert "RuntimeError: item 64 is wrong: what lies between its ends" in err
    assert "RuntimeError: a worker failed" in err

"""What both examples share: a heading, a progress bar, a table, children that are always ended.

Plain standard library, so that an example runs wherever NumPy and shared_numpy do.
"""
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time

import numpy

BAR_WIDTH = 30
# A child that was asked to end gets this long, in seconds, before it is killed.
GRACE_S = 5.0
# How often a child looks whether its parent still lives, in seconds.
ORPHAN_CHECK_S = 1.0

# How often the main process looks around while it waits, in seconds.
POLL_S = 0.1

_interrupted = False


def heading(title):
    """Print the title, and which interpreter and NumPy it runs on; the version of shared_numpy where it is installed."""
    print("{}\n{} {}, NumPy {}, start method {}, {} CPUs\n".format(
        title, platform.python_implementation(), platform.python_version(), numpy.__version__,
        multiprocessing.get_start_method(), os.cpu_count()), flush=True)


def add_start_method(parser):
    """The option that both examples have."""
    parser.add_argument(
        "--start-method", choices=multiprocessing.get_all_start_methods(), default=None,
        help="how processes are started (default: what this Python does by itself)")


def apply_start_method(options):
    """Make the chosen method the default of this program; the queues and processes made later follow it."""
    if options.start_method is not None:
        multiprocessing.set_start_method(options.start_method)


def megabytes(count):
    """Bytes as text in MB (10**6 bytes)."""
    return "{:.1f} MB".format(count / 1e6)


class Progress:
    """One line ``label [#####.....] 12/40`` that is redrawn in place; nothing at all where stderr is no terminal."""

    def __init__(self, label, total):
        self.label = label
        self.total = total
        self.shown = sys.stderr is not None and sys.stderr.isatty()
        self.began = time.perf_counter()

    def update(self, done, note=""):
        """Redraw with ``done`` of ``total``; `KeyboardInterrupt` if there was a Ctrl-C."""
        check_interrupt()
        if not self.shown:
            return
        filled = BAR_WIDTH * done // max(self.total, 1)
        sys.stderr.write("\r\033[K{} [{}{}] {}/{} {:.1f} s {}".format(
            self.label, "#" * filled, "." * (BAR_WIDTH - filled), done, self.total,
            time.perf_counter() - self.began, note))
        sys.stderr.flush()

    def close(self):
        """Wipe the line, so that the result takes its place."""
        if self.shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def __enter__(self):
        self.update(0)
        return self

    def __exit__(self, *_exc_info):
        self.close()


def table(rows):
    """Print rows of texts, the first being the heads: first column flush left, the others flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    sys.stdout.flush()


def note_interrupt(_signum, _frame):
    """Handler of Ctrl-C in the main process: remembers the first, obeys the second at once.

    An exception that comes from anywhere would now and then be lost (in a destructor), or leave a process behind that is
    born but not yet known; so the program looks by itself, at places where it can be left.
    """
    global _interrupted
    if _interrupted:
        raise KeyboardInterrupt
    _interrupted = True


def check_interrupt():
    """`KeyboardInterrupt` if there was a Ctrl-C."""
    if _interrupted:
        raise KeyboardInterrupt


def start(processes):
    """Start these (daemonic) processes; interrupts are blocked in them from their birth, until they ignore them."""
    check_interrupt()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def join(processes):
    """Wait for the end of all of these; `RuntimeError` when one ended with an error."""
    for process in processes:
        while process.exitcode is None:
            process.join(POLL_S)
            check_interrupt()
    check_alive(processes)


def check_alive(processes):
    """`RuntimeError` about the first process that ended with an error, if one did; `KeyboardInterrupt` if there was a Ctrl-C."""
    check_interrupt()
    for process in processes:
        if process.exitcode is not None and process.exitcode != 0:
            how = "was killed by signal {}".format(-process.exitcode) if process.exitcode < 0 else (
                "ended with status {}".format(process.exitcode))
            raise RuntimeError("process {!r} {}".format(process.name, how))


def begin_child():
    """First call of each child. Ctrl-C reaches all processes of a terminal: the main process answers it, and ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not os.getppid(): that may be a fork server, or nobody's any more.
    main = multiprocessing.current_process()._parent_pid
    threading.Thread(target=_end_when_orphaned, args=(main,), daemon=True).start()


def _end_when_orphaned(main):
    """If the main process was killed nobody reads any more, and each queue would keep its writers waiting for ever."""
    while _runs(main):
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def _runs(pid):
    """Whether there is such a process, and it is not one that has ended and waits for being collected."""
    try:
        with open("/proc/{}/stat".format(pid)) as stream:
            return stream.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def end(processes):
    """End these processes, whatever they are doing, and wait for them; those that were never started are left out."""
    processes = [process for process in processes if process.pid is not None]
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.perf_counter() + GRACE_S
    for process in processes:
        process.join(max(0.0, deadline - time.perf_counter()))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)  # Process.kill() is 3.7 and newer
            process.join()


def run(main):
    """Call ``main()`` as a program: its result is the exit code; Ctrl-C is 130, `OSError` and `RuntimeError` are 1."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, note_interrupt)
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    except (OSError, RuntimeError) as error:
        print("{}: {}".format(type(error).__name__, error), file=sys.stderr)
        code = 1
    sys.exit(code)

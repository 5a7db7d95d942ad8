"""Real photographs through a pipeline of processes: decode -> filter -> statistics.

Each stage is a process; a queue of bounded length lies between two of them. The same photographs go through

1. this process alone, which gives the results that the others must reproduce exactly, bit by bit;
2. the pipeline, with plain arrays and ``multiprocessing.Queue``: each array is pickled, written to a pipe, read, unpickled;
3. the pipeline, with ``shared_numpy``: arrays are made in shared memory and only handles travel.

The stages tell how far they are in a `shared_memory.ShareableList`, which `multiprocessing` has only since 3.8 and
shared_numpy has on 3.6 and 3.7 too. A stage that fails or dies ends the program with its error and exit code 1.
"""
import argparse
import collections
import multiprocessing
import os
import queue
import signal
import sys
import time
import traceback

import numpy

import shared_numpy as snp
from shared_numpy import shared_memory

import _photo_work
import _support

STAGES = ("decode", "filter", "statistics")
PER_STAGE = 2  # entries of each stage in the list of totals: photographs done, seconds of work
# Photographs that may wait between two stages before the earlier one has to wait.
WAITING = 3

Task = collections.namedtuple("Task", "number path variant side")
Outcome = collections.namedtuple("Outcome", "results wall busy")


class Transport(collections.namedtuple("Transport", "name shared")):
    """How arrays travel: which queue, and what makes an array; small enough to be sent to a spawned process."""

    __slots__ = ()

    def queue(self):
        """A bounded queue for the default start method."""
        return snp.Queue(WAITING) if self.shared else multiprocessing.Queue(WAITING)

    @property
    def make(self):
        """The function that makes an array with undefined content."""
        return snp.empty if self.shared else numpy.empty


PICKLED = Transport("pipeline, multiprocessing", False)
SHARED = Transport("pipeline, shared_numpy", True)
ALONE = "one process"


# --- the stages: each takes what the one before it made ---

def decode(task, make):
    """First stage: a file becomes an array."""
    return task, {"planes": _photo_work.decode(task.path, task.variant, task.side, make)}


def filter_edges(item, make):
    """Second stage: the array goes on, and a second one with its edges beside it."""
    task, arrays = item
    return task, {"planes": arrays["planes"], "edges": _photo_work.filter_edges(arrays["planes"], make)}


def statistics(item, _make):
    """Last stage: numbers instead of arrays, which nobody needs any more."""
    task, arrays = item
    summary = _photo_work.summarize(arrays["planes"], arrays["edges"])
    for array in arrays.values():
        if isinstance(array, snp.SharedNDArray):
            array.unlink()
    return task, summary


WORK = (decode, filter_edges, statistics)


# --- in the processes of the pipeline ---

def run_stage(stage, transport, totals_name, source, target, reports, break_how):
    """A process of the pipeline: take from ``source``, work, put into ``target``, until a None comes and is passed on.

    The first stage has a list of tasks as its source. ``reports`` is the queue to the main process, for an error.
    """
    _support.begin_child()
    try:
        # Each entry is written by one stage only and read by the main process: no lock is needed.
        totals = shared_memory.ShareableList(name=totals_name)
        incoming = iter(source) if isinstance(source, list) else iter(source.get, None)
        done, busy = 0, 0.0
        for item in incoming:
            if break_how is not None and done == 2:
                break_down(break_how)
            began = time.perf_counter()
            made = WORK[stage](item, transport.make)
            busy += time.perf_counter() - began
            done += 1
            totals[PER_STAGE * stage], totals[PER_STAGE * stage + 1] = done, busy
            target.put(made)
            item = made = None  # while waiting for the next one, hold no memory
        if target is not reports:
            target.put(None)
        totals.shm.close()
    except Exception:
        reports.put(traceback.format_exc())
        sys.exit(1)


def break_down(how):
    """What ``--break`` asks for, to see that it is noticed."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("this stage was told to fail")


# --- in the main process ---

def run_alone(tasks):
    """All the work in this process."""
    busy = [0.0] * len(STAGES)
    results = {}
    began = time.perf_counter()
    with _support.Progress(ALONE, len(tasks)) as progress:
        for task in tasks:
            item = task
            for stage, work in enumerate(WORK):
                started = time.perf_counter()
                item = work(item, numpy.empty)
                busy[stage] += time.perf_counter() - started
            results[task.number] = item[1]
            progress.update(len(results))
    return Outcome(results, time.perf_counter() - began, busy)


def receive(reports, processes):
    """The next result, or None when there is none yet; `RuntimeError` when a stage failed or died."""
    try:
        report = reports.get(timeout=_support.POLL_S)
    except queue.Empty:
        try:
            _support.check_alive(processes)
            return None
        except RuntimeError:
            try:  # what it had to say about its end may have come in just now
                report = reports.get(timeout=_support.POLL_S)
            except queue.Empty:
                report = None
            if report is None:
                raise
    if isinstance(report, str):
        raise RuntimeError("a stage of the pipeline failed\n{}".format(report.rstrip()))
    return report


def run_pipeline(transport, tasks, break_how=None):
    """All the work in a process for each stage."""
    links = [transport.queue() for _ in STAGES]
    reports = links[-1]
    totals = shared_memory.ShareableList([0, 0.0] * len(STAGES))
    try:
        processes = []
        for stage, name in enumerate(STAGES):
            processes.append(multiprocessing.Process(
                target=run_stage, name=name, daemon=True,
                args=(stage, transport, totals.shm.name, tasks if stage == 0 else links[stage - 1], links[stage],
                      reports, break_how if name == "filter" else None)))
        results = {}
        began = time.perf_counter()
        try:
            _support.start(processes)
            with _support.Progress(transport.name, len(tasks)) as progress:
                while len(results) < len(tasks):
                    report = receive(reports, processes)
                    if report is not None:
                        task, summary = report
                        results[task.number] = summary
                    progress.update(len(results), "({})".format(", ".join(
                        "{} {}".format(name, totals[PER_STAGE * stage]) for stage, name in enumerate(STAGES))))
            wall = time.perf_counter() - began
            _support.join(processes)
        finally:
            _support.end(processes)
            for link in links:
                link.close()
        busy = [totals[PER_STAGE * stage + 1] for stage in range(len(STAGES))]
    finally:
        totals.shm.close()
        totals.shm.unlink()
    return Outcome(results, wall, busy)


def check(name, outcome, reference):
    """`RuntimeError` unless each photograph's results are exactly those of the one process."""
    wrong = [number for number in reference.results if outcome.results.get(number) != reference.results[number]]
    if wrong or len(outcome.results) != len(reference.results):
        raise RuntimeError("{}: the results of photographs {} differ from those of one process".format(name, wrong))


def report(tasks, outcomes):
    """The table of times, and something about the photographs."""
    rows = [["seconds"] + list(outcomes)]
    for stage, name in enumerate(STAGES):
        rows.append([name] + ["{:.2f}".format(outcome.busy[stage]) for outcome in outcomes.values()])
    rows.append(["whole run"] + ["{:.2f}".format(outcome.wall) for outcome in outcomes.values()])
    rows.append(["photographs/s"] + ["{:.1f}".format(len(tasks) / outcome.wall) for outcome in outcomes.values()])
    _support.table(rows)
    results = outcomes[ALONE].results
    by_sharpness = sorted(tasks, key=lambda task: results[task.number]["sharpness"])
    print("\nsharpest: {}, softest: {}".format(*(os.path.basename(by_sharpness[i].path) for i in (-1, 0))))
    print("all {} results of both pipelines are those of one process, bit by bit".format(len(tasks)), flush=True)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", metavar="FOLDER", help="of your own photographs (default: those of scikit-image)")
    parser.add_argument("--items", type=int, default=45, help="photographs to process, turned copies too (default: %(default)s)")
    parser.add_argument("--side", type=int, default=1200, help="pixels of the square each is scaled to (default: %(default)s)")
    parser.add_argument("--break", dest="break_how", choices=("error", "kill"), help="make the second stage fail, as a trial")
    _support.add_start_method(parser)
    options = parser.parse_args()
    if options.items < 1 or options.side < 8:
        parser.error("--items must be at least 1 and --side at least 8")
    _support.apply_start_method(options)
    photographs = _photo_work.find_photographs(options.photos)
    tasks = [Task(number, photographs[number % len(photographs)], number // len(photographs) % _photo_work.VARIANTS, options.side)
             for number in range(options.items)]
    _support.heading("{} photographs ({} files), each as 3x{}x{} float32 ({})".format(
        len(tasks), min(len(photographs), len(tasks)), options.side, options.side, _support.megabytes(12 * options.side ** 2)))

    outcomes = collections.OrderedDict([(ALONE, run_alone(tasks))])
    for transport in (PICKLED, SHARED):
        outcomes[transport.name] = run_pipeline(transport, tasks, options.break_how)
        check(transport.name, outcomes[transport.name], outcomes[ALONE])
    report(tasks, outcomes)
    return 0


if __name__ == "__main__":
    _support.run(main)

"""Judges what a run wrote down, and shows it.

Guarantees: a test is counted in `total` when it was selected, except where its own skip is accepted by
`selection.EXCEPTIONS`; in `passed` only when its end was written with outcome "ok". A row is `ok` only if all passed
and there is no problem of any kind. What was left out is shown with its reason. Standard library only, 3.6 syntax.
"""
import json
import re

import selection

# On the standard error of a run whose tests all pass: something went wrong where nobody looked.
ALARMS = re.compile(r"Traceback \(most recent call last\)|Exception ignored|KeyError|panicked at|Segmentation|AddressSanitizer")


def new_row(suite, interpreter, start_method):
    """A row that says nothing yet."""
    return {"suite": suite.name, "tag": interpreter.tag, "version": list(interpreter.version), "start_method": start_method,
            "tests_of": None, "not_run": None, "passed": 0, "total": 0, "ok": False, "seconds": None,
            "failures": [], "left_out": [], "problems": [], "tests": [], "processes_left": [], "shm_new": [], "log": None}


def fill(row, verdict, events_path, errors_path, strict):
    """Complete `row` with what the supervisor and the worker wrote.

    `strict` makes alarming lines on the standard error a problem (they are the package's then).
    """
    row["seconds"] = verdict["seconds"]
    row["shm_new"] = verdict["shm_new"]
    row["processes_left"] = verdict["processes_left"]
    events = _read(events_path)
    outcomes = {}
    running = None
    for event in events:
        if event["event"] == "selected":
            row["tests"] = event["tests"]
            row["left_out"] += event["left_out"]
        elif event["event"] == "start":
            running = event["test"]
        elif event["event"] == "end":
            outcomes[event["test"]] = event
            running = None
        elif event["event"] == "problem":
            row["problems"].append(event["text"])
    finished = any(event["event"] == "finished" for event in events)
    for test in row["tests"]:
        _judge(row, test, outcomes.get(test), test == running)
    if len(set(row["tests"])) != len(row["tests"]):
        row["problems"].append("two selected tests have one name")
    if not row["tests"]:
        row["problems"].append("no tests were selected")
    if verdict["timed_out"]:
        row["problems"].append("time limit, during {}".format(running or "no test"))
    elif not finished or verdict["status"] != 0:
        row["problems"].append("the process ended with {} {}".format(
            verdict["status"], "after the tests" if finished else "during {}".format(running or "no test")))
    for process in row["processes_left"]:
        row["problems"].append("still alive after the end: {pid} {command}".format(**process))
    alarms = [text for text in _lines(errors_path) if ALARMS.search(text)]
    if strict and alarms:
        row["problems"].append("on standard error: {}".format("; ".join(alarms[:5])))
    row["ok"] = not row["problems"] and not row["failures"] and row["passed"] == row["total"] > 0


def _judge(row, test, event, was_running):
    reason = None
    if event is not None and event["outcome"] == "skipped":
        reason = selection.reason_for("skip", row["version"], row["start_method"], test)
    if reason is not None:
        row["left_out"].append({"test": test, "reason": reason})
        return
    row["total"] += 1
    if event is None:
        row["failures"].append({"test": test, "outcome": "did not finish" if was_running else "did not run", "text": ""})
    elif event["outcome"] == "ok":
        row["passed"] += 1
    else:
        row["failures"].append({"test": test, "outcome": event["outcome"], "text": event["text"]})


def _read(path):
    """The events; a last line that was cut off by a kill is dropped."""
    events = []
    for text in _lines(path):
        try:
            events.append(json.loads(text))
        except ValueError:
            break
    return events


def _lines(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _brief(text):
    """First and last line: where and what, of a traceback."""
    lines = [part.strip()[:200] for part in text.strip().splitlines() if part.strip()]
    return " ... ".join(lines if len(lines) < 2 else [lines[0], lines[-1]])


def _grouped(pairs):
    """[(text, places)] in the order of first appearance, of [(text, place)]: one fault of ten runs is one line."""
    places = {}
    order = []
    for text, place in pairs:
        if text not in places:
            order.append(text)
        places.setdefault(text, []).append(place)
    return [(text, places[text]) for text in order]


def _place(row):
    return "{suite:16} {tag:5} {start_method:10}".format(**row)


def line(row):
    """One line for one finished run."""
    text = "{} {:>3}/{:<3}{}".format(_place(row), row["passed"], row["total"],
                                     "" if row["seconds"] is None else " {:5.1f} s".format(row["seconds"]))
    if row["not_run"]:
        return "{} not run: {}".format(_place(row), row["not_run"])
    details = ["{} {}".format(failure["test"], failure["outcome"]) for failure in row["failures"]]
    details += [_brief(problem) for problem in row["problems"]]
    return text + ("  " + details[0] if details else "") + (" (and {} more)".format(len(details) - 1) if details[1:] else "")


def _table(title, rows):
    """Interpreters down, start methods across."""
    methods = [method for method in selection.START_METHODS if any(row["start_method"] == method for row in rows)]
    out = ["", title, "{:18} {}  tests of".format("", " ".join("{:>12}".format(method) for method in methods))]
    for tag in dict.fromkeys(row["tag"] for row in rows):
        own = {row["start_method"]: row for row in rows if row["tag"] == tag}
        any_row = list(own.values())[0]
        cells = ["not run" if own[m]["not_run"] else
                 "{}/{}{}".format(own[m]["passed"], own[m]["total"], "" if own[m]["ok"] else " !") for m in methods]
        out.append("{:6} {:11} {}  {}".format(tag, ".".join(map(str, any_row["version"])),
                                              " ".join("{:>12}".format(cell) for cell in cells), any_row["tests_of"] or "-"))
    return out


def summary(results):
    """The tables, then every failure, problem and exception."""
    rows = results["runs"]
    out = []
    for suite in selection.SUITES.values():
        own = [row for row in rows if row["suite"] == suite.name]
        if own:
            out += _table("CPython's own tests of {}, run against {}:".format(
                suite.title, "the standard library itself" if results["mode"] == "baseline" else "the package"), own)
    out.append("")
    lines = []
    for row in rows:
        place = " ".join(_place(row).split())
        lines += [("FAILED  {test}: {outcome}: {brief}".format(brief=_brief(failure["text"]), **failure), place)
                  for failure in row["failures"]]
        lines += [("PROBLEM {}".format(_brief(problem)), place) for problem in row["problems"]]
        if row["not_run"]:
            lines.append(("NOT RUN {}".format(row["not_run"]), place))
    lines += [("LEFT    /dev/shm/{}".format(name), "all") for name in results["shm_left"]]
    out += ["{} ({})".format(text, ", ".join(places)) for text, places in sorted(_grouped(lines))]
    left_out = [("left out: {test}: {reason}".format(**left), "{tag} {start_method}".format(**row))
                for row in rows for left in row["left_out"]]
    out += ["{} ({})".format(text, _places(places)) for text, places in sorted(_grouped(left_out))]
    out.append("{} of {} tests passed".format(sum(row["passed"] for row in rows), sum(row["total"] for row in rows)))
    if not results["ok"]:
        out.append("NOT PASSED: the tracebacks are in {}".format(results["logs"]))
    return "\n".join(out)


def _places(places):
    """All of them where they are few, else how many."""
    return ", ".join(places) if len(places) <= 3 else "{} runs, {} to {}".format(len(places), places[0], places[-1])

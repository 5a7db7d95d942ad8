"""What the scripts beside compare.py print: figures, those with a limit, and the command line that picks parts of a script."""
import argparse
import os
import platform
import sys

FAILURES = []


def figure(what, seconds, unit="us"):
    """One line with a time."""
    print("  {:<66} {:10.3f} {}".format(what, seconds * {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1}[unit], unit))
    sys.stdout.flush()


def ratio(what, value):
    """One line about a figure without a limit."""
    print("  {:<66} {:10.2f}".format(what, value))
    sys.stdout.flush()


def promise(what, value, limit, most):
    """One line about a figure that has a limit."""
    good = value <= limit if most else value >= limit
    print("  {:<66} {:10.2f}  ({} {:g}){}".format(
        what, value, "at most" if most else "at least", limit, "" if good else "  MISSED"))
    sys.stdout.flush()
    if not good:
        FAILURES.append("{}: {:.2f}, not {} {:g}".format(what, value, "at most" if most else "at least", limit))


def times_as_fast(what, times, ours, other, at_least):
    """A ratio of two medians that has a limit."""
    promise("{}: times as fast as {}".format(what, other), times[other] / times[ours], at_least, most=False)


def main(description, parts):
    """The command line: ``parts`` maps names to functions that take whether it is a smoke run. The exit code."""
    parser = argparse.ArgumentParser(description=description.strip().split("\n")[0])
    parser.add_argument("parts", nargs="*", help="which of {} (default: all)".format(", ".join(parts)))
    parser.add_argument("--quick", action="store_true", help="a smoke run: each once or twice, figures without meaning")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a figure misses what is promised")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in parts]
    if unknown:
        parser.error("no such part: {} (there are {})".format(", ".join(unknown), ", ".join(parts)))
    print("{} {} on {}, {} CPUs{}".format(
        platform.python_implementation(), platform.python_version(), platform.release(), os.cpu_count(),
        ", quick: the figures mean nothing" if options.quick else ""))
    for part in options.parts or parts:
        print("\n# {}: {}".format(part, parts[part].__doc__.strip().split("\n")[0]), flush=True)
        parts[part](options.quick)
    print()
    for failure in FAILURES:
        print("MISSED {}".format(failure))
    return 1 if FAILURES and options.check and not options.quick else 0

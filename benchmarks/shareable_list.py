"""Item access of `ShareableList` against the running interpreter's own class.

Prints, for each kind of value, length of the list and position, the median time
per get and set of both (ns, the empty loop's time taken off) and the ratio.
The two are measured alternately, so that a slow moment of the machine meets both,
and their values are compared before and after. Needs CPython 3.8 or newer.

    PYTHONPATH=python python benchmarks/shareable_list.py [--quick]
"""

import argparse
import statistics
import sys
import time
from multiprocessing.shared_memory import ShareableList as Standard

from shared_numpy.shared_memory import ShareableList as Ours

KINDS = {
    "int": (123456789, -987654321),
    "float": (0.5, -1e300),
    "str": ("hello", "world"),
    "bytes": (b"hello", b"world"),
    "bool": (True, False),
    "None": (None, None),
    "long str": ("x" * 60, "y" * 60),
}
LENGTHS = (10, 100000)


def time_empty(repeats):
    begin = time.perf_counter()
    for _ in repeats:
        pass
    return time.perf_counter() - begin


def time_get(items, position, repeats):
    begin = time.perf_counter()
    for _ in repeats:
        items[position]
    return time.perf_counter() - begin


def time_set(items, position, value, repeats):
    begin = time.perf_counter()
    for _ in repeats:
        items[position] = value
    return time.perf_counter() - begin


def measure(ours, standard, position, value, rounds, loops):
    """Median ns per operation: ours and theirs for get, ours and theirs for set."""
    # 3.8 looks through all sizes before the position: a single access may take ms.
    probe = time_get(standard, position, range(1))
    many, few = range(loops * 10), range(max(3, min(loops, int(0.02 / probe))))
    samples = {"get": ([], []), "set": ([], [])}
    for _ in range(rounds):
        empty = time_empty(many) / len(many)
        for which, (items, repeats) in enumerate(((ours, many), (standard, few))):
            took = time_get(items, position, repeats) / len(repeats) - empty
            samples["get"][which].append(took * 1e9)
            took = time_set(items, position, value, repeats) / len(repeats) - empty
            samples["set"][which].append(took * 1e9)
    return {name: [statistics.median(it) for it in both] for name, both in samples.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    args = parser.parse_args()
    rounds, loops = (5, 500) if args.quick else (15, 2000)
    print("Python {}.{}.{}: ns per operation, medians of {} rounds".format(
        *(sys.version_info[:3] + (rounds,))))
    print("{:>9} {:>7} {:>6} {:>6} {:>9} {:>9} {:>7}".format(
        "kind", "length", "where", "what", "ours", "standard", "ratio"))
    worst = {}
    for kind, (first, second) in KINDS.items():
        for length in LENGTHS:
            lists = []
            try:
                for cls in (Ours, Standard):
                    lists.append(cls([first] * length))
                for where, position in (("first", 0), ("middle", length // 2),
                                        ("last", length - 1)):
                    assert lists[0][position] == lists[1][position] == first
                    medians = measure(lists[0], lists[1], position, second, rounds, loops)
                    assert lists[0][position] == lists[1][position] == second
                    for what, (ours, standard) in medians.items():
                        ratio = standard / ours
                        worst[what] = min(worst.get(what, ratio), ratio)
                        print("{:>9} {:>7} {:>6} {:>6} {:>9.1f} {:>9.1f} {:>6.1f}x".format(
                            kind, length, where, what, ours, standard, ratio))
            finally:
                for items in lists:
                    items.shm.close()
                    items.shm.unlink()
    print("worst ratio: " + ", ".join(
        "{} {:.1f}x".format(what, ratio) for what, ratio in worst.items()))


if __name__ == "__main__":
    main()

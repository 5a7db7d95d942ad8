#!/usr/bin/env python3
"""Whether every file that has to run on CPython 3.6 is 3.6 Python: run by ``make lint`` with the oldest CPython found.

What this file guarantees: each file given compiles on the interpreter that runs this; where that one is newer than
3.6, the parser is asked for 3.6's grammar, which is close but not the same (and that is said). Nothing is imported or written.
"""
import ast
import sys

OLDEST = (3, 6)


def complaint(path):
    """What is wrong with the file, or ""."""
    with open(path, "rb") as stream:
        source = stream.read()
    try:
        compile(source, path, "exec", dont_inherit=True)
        if sys.version_info >= (3, 8):
            ast.parse(source, path, feature_version=OLDEST)
    except SyntaxError as error:
        return "{}:{}: {}".format(path, error.lineno, error.msg)
    return ""


def main():
    """Exit status 1 when there was a complaint."""
    problems = [text for text in map(complaint, sys.argv[1:]) if text]
    for text in problems:
        print(text, file=sys.stderr)
    print("{} files, compiled by {}.{}{}".format(
        len(sys.argv) - 1, sys.version_info[0], sys.version_info[1],
        "" if sys.version_info[:2] == OLDEST else " with the grammar of {}.{}".format(*OLDEST)))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

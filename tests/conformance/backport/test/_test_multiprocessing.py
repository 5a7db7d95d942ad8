"""The module test._test_multiprocessing of an installed CPython 3.8, run in this older interpreter.

Guarantees: the file is read where 3.8 installed it (the environment names it), never copied; what it expects of
`test.support` and `multiprocessing` and the older interpreter lacks is supplied here and nowhere else, and only where
it is missing. Nothing here touches shared memory or the tracker: those have to come from the installed package.
"""
import importlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import sys
import threading
import unittest

from test import support


def _join_thread(thread, timeout=30.0):
    """Join, and fail when the thread (or process) still lives after `timeout` seconds."""
    thread.join(timeout)
    if thread.is_alive():
        raise AssertionError("failed to join in {:.1f} s".format(timeout))


def _print_warning(message):
    """Where regrtest looks for remarks; 3.8 sends them to the real stderr as well."""
    print("Warning -- " + message, file=sys.__stderr__, flush=True)


def _skip_if_broken_multiprocessing_synchronize():
    """Skip where named semaphores do not work."""
    importlib.import_module("_multiprocessing")
    try:
        importlib.import_module("multiprocessing.synchronize").Lock(ctx=multiprocessing.get_context("fork"))
    except (ImportError, OSError) as error:
        raise unittest.SkipTest("broken multiprocessing SemLock: {}".format(error))


def _stop_forkserver():
    """End the fork server and wait for it; 3.6 has no method for that."""
    server = multiprocessing.forkserver._forkserver
    if hasattr(server, "_stop"):
        server._stop()
    elif server._forkserver_pid is not None:
        os.close(server._forkserver_alive_fd)
        os.waitpid(server._forkserver_pid, 0)
        os.unlink(server._forkserver_address)
        server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None


def _cleanup_tests():
    """What 3.8 does after a module's tests: no process, tracker or temporary directory of them stays."""
    multiprocessing.process._cleanup()
    _stop_forkserver()
    from multiprocessing import resource_tracker
    resource_tracker._resource_tracker._stop()
    multiprocessing.util._run_finalizers()
    support.gc_collect()
    support.reap_children()


def _supply(owner, **missing):
    for name, value in missing.items():
        if not hasattr(owner, name):
            setattr(owner, name, value)


_supply(support, join_thread=_join_thread, print_warning=_print_warning,
        skip_if_broken_multiprocessing_synchronize=_skip_if_broken_multiprocessing_synchronize)
# Only asked for by tests that are not selected, but named in class bodies and decorators.
_supply(multiprocessing, parent_process=lambda: None)
_supply(threading, _HAVE_THREAD_NATIVE_ID=False)
_supply(multiprocessing.util, abstract_sockets_supported=False)
# 3.7 has one that knows nothing of a resource tracker.
multiprocessing.util._cleanup_tests = _cleanup_tests

__file__ = os.environ["CONFORMANCE_TEST_FILE"]
with open(__file__, encoding="utf-8") as _source:
    exec(compile(_source.read(), __file__, "exec"))

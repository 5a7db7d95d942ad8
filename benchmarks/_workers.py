"""The processes of one round: forked, started at one moment, their results collected, none left behind.

Why a round has processes of its own: what one implementation leaves in a process (threads, pools, caches) must not be met by the
other. Clocks of different processes are compared: they use ``time.monotonic``, which is one clock for the machine.
"""
import multiprocessing
import multiprocessing.connection

# A round that takes longer hangs. Seconds.
LIMIT_S = 300
CONTEXT = multiprocessing.get_context("fork")


def _work(function, gate, sender):
    sender.send(function(gate))
    sender.close()


def run(*functions):
    """Call each function in a process of its own; what they returned, in order. `RuntimeError` when one failed or hangs.

    The argument of each is a barrier of all of them, at which they wait when they have warmed up.
    """
    gate = CONTEXT.Barrier(len(functions))
    processes, receivers = [], []
    try:
        for function in functions:
            receiver, sender = CONTEXT.Pipe(duplex=False)
            receivers.append(receiver)
            processes.append(CONTEXT.Process(target=_work, args=(function, gate, sender)))
            processes[-1].start()
            sender.close()  # so that its end is seen here
        results = _collect(receivers)
        for process in processes:
            process.join(LIMIT_S)
            if process.exitcode != 0:
                raise RuntimeError("a worker ended with status {}".format(process.exitcode))
        return results
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()
        for receiver in receivers:
            receiver.close()


def _collect(receivers):
    results = {}
    while len(results) < len(receivers):
        pending = [receiver for receiver in receivers if receiver not in results]
        ready = multiprocessing.connection.wait(pending, LIMIT_S)
        if not ready:
            raise RuntimeError("a round of a benchmark did not end in {} s".format(LIMIT_S))
        for receiver in ready:
            try:
                results[receiver] = receiver.recv()
            except EOFError:
                raise RuntimeError("a worker failed; it has said why above")
    return [results[receiver] for receiver in receivers]

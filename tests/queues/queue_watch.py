"""What the tests of queues share: patience, and what stays in use."""

import gc
import pickle

import shared_numpy as snp

# For what has to happen, however busy the machine is.
PATIENCE_S = 60
UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)


def kept():
    """What this process has in use, and what is on its way."""
    gc.collect()
    stats = snp.stats()
    return stats["in_use_bytes"], stats["in_flight"]

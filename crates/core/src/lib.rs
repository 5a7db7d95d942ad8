//! Shared memory between processes, without Python.

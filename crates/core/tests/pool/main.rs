//! Pools seen from outside, within one process: several participants, each with a
//! mapping of its own, as other processes would have.

mod deaths;
mod descriptors;
mod forks;
mod growth;
mod holding;
mod lending;
mod memory;
mod world;

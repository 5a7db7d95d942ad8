//! Every system call of the crate, and the contract for other platforms.
//!
//! A platform offers these names; the file of each subject tells what the call
//! promises. Linux is what is there today.
//!
//! | module | offers |
//! | --- | --- |
//! | [`shm`] | `create`, `open`, `unlink`, `identity`, `set_len`, `reserve`, `free_bytes`: named shared memory |
//! | [`anon`] | `create`, `seal`, `commit`, `punch`: shared memory without a name |
//! | [`clock`] | `monotonic_s`: time that all processes agree on |
//! | [`feature`] | `is_disabled`: what `SHARED_NUMPY_DISABLE` turns off |
//! | [`doorbell`] | `Doorbell`, `ring`: datagram sockets that wake who waits without a thread |
//! | [`futex`] | `wait`, `wake` on shared words, `now_ns`, `processors` |
//! | [`identity`] | `Identity::own`: which process this is, told apart from every other |
//! | [`fd`] | `CachedFd`: a descriptor that is checked before each use |
//! | [`fork`] | `ForkGuarded`: a lock that survives `fork`; `epoch`: which side of it we are on |
//! | [`map`] | `Map`: a mapping that unmaps itself |
//! | [`mappings`] | `mapping`, `somebody_maps`, `MappedFile`: who maps a file |
//! | [`process`] | `ProcessId`, `spawn`, `reap` and what a background helper does to itself |
//! | [`memory`] | `machine`, `groups`: how much memory is left |
//! | [`resident`] | `release_code`: give back memory that only starting up needed |
//! | [`socket`] | message sockets that never block and carry descriptors |
//! | [`thread`] | `own`: a number for the calling thread |
//!
//! `unsafe` is allowed below this folder; each block says why it is sound.

pub mod anon;
pub mod clock;
pub mod doorbell;
pub mod fd;
pub mod feature;
pub mod fork;
pub mod futex;
pub mod identity;
pub mod map;
pub mod mappings;
pub mod memory;
pub mod process;
pub mod resident;
pub mod shm;
pub mod socket;
pub mod thread;

//! Every system call of the crate, and the contract for other platforms.
//!
//! A platform offers these names; the file of each subject tells what the call
//! promises. Linux is what is there today.
//!
//! | module | offers |
//! | --- | --- |
//! | [`shm`] | `create`, `open`, `unlink`, `identity`, `set_len`, `reserve`, `free_bytes`: named shared memory |
//! | [`map`] | `Map`: a mapping that unmaps itself |
//!
//! `unsafe` is allowed below this folder; each block says why it is sound.

pub mod map;
pub mod shm;

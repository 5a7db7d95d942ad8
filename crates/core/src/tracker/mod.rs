//! The tracker: a small helper process that unlinks what a program leaves behind.
//!
//! # What it guarantees
//!
//! - A name that a process registered and did not unregister is unlinked when the
//!   last process of its *group* is gone, however it went, SIGKILL included, and a
//!   warning in the standard library's words goes to the group's standard error.
//! - A program that was correct hears nothing.
//! - Only the file that was registered is unlinked: where its device and inode are
//!   known, another file under the same name is left alone.
//! - A process never waits for the tracker longer than five seconds, nor so long
//!   again while it is stuck, and the tracker never waits for a process.
//! - Nothing depends on it: without a tracker, segments work, and what a crash
//!   leaves behind stays behind.
//!
//! # Who is who
//!
//! One tracker serves a tree of processes: it is a child of the process that first
//! needed one, and descendants find its *address* in the environment
//! ([`address::VARIABLE`]). A *group* is one program: a process that came on its own,
//! its forked children (they share its socket) and its `multiprocessing` children
//! (they come by themselves and name the group). A program that was started as an
//! ordinary subprocess is a group of its own in the same tracker, so that what it
//! leaves behind goes at its end and not at its parent's.
//!
//! # The protocol in one look ([`protocol`] has the bytes)
//!
//! ```text
//! process                                             tracker
//!   socketpair, spawn ------------------------------> fd 0
//!   HELLO (bind this address, cookie, group) -------> binds, makes the group
//!       <---------------------------- READY (pid, address) + marker descriptor
//!   REGISTER (type, name, dev, ino) + stderr -------> one way, as all that follow
//!   UNREGISTER (...)    this group's entry goes
//!   GONE (...)          every group's entry goes: the name was unlinked
//!   ADOPT + descriptor  a further connection, for a child that inherited this one
//!   (closed by the last who held it) ---------------> group gone? then clean up
//!
//! another process: connect -> HELLO (cookie, group) -> READY -> the same
//! ```
//!
//! Replies are sent on a connection's first message only: later ones could be read
//! by a forked child that shares the socket.
//!
//! # Two things that EOF does not tell
//!
//! A daemon may close every descriptor it has and live on. So each process maps a
//! tiny [`marker`] file, which a fork keeps, an `exec` drops and no `closerange`
//! reaches; before it cleans up a group, the tracker looks for its marker in
//! `/proc/*/maps`. And a `multiprocessing` worker that was forked from a program
//! without a tracker may return a segment's name and end: its group also lasts as
//! long as its *guardian*, the process that forked it.
//!
//! A tour: [`protocol`] (bytes), [`address`] (the environment variable), [`client`]
//! (what a process does), [`server`] (what the helper does), [`marker`].

pub mod address;
pub mod client;
pub mod marker;
pub mod protocol;
pub mod server;

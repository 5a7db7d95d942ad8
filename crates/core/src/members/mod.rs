//! The members tracker: a small helper process of one family, which has what every
//! participant can need and no participant must have: the family's and the segments'
//! descriptors.
//!
//! # What it guarantees
//!
//! - A segment that was registered can be attached as long as something of it is held,
//!   also when its owner is dead; then the tracker frees in the owner's place, and
//!   gives the memory back.
//! - Of the memory of an owner that sleeps, what others dropped goes back too.
//! - A participant whose process has died, by SIGKILL, by `exec` or otherwise, holds nothing
//!   soon afterwards: in milliseconds where the kernel has pidfds, in seconds else.
//! - It declares nobody dead without proof ([`crate::liveness`]).
//! - Nothing depends on its life. Killed, it loses descriptors, and nothing that is shared:
//!   the next one is told again by the owners that live, and members recover and free
//!   without any.
//! - No process waits for it longer than five seconds, and it waits for none.
//! - It is gone when its family is, and it is nobody's child.
//!
//! # Who is who
//!
//! A *family* is a program: its participants have slots in the family segment
//! ([`crate::pool::family`]). The first handle that leaves a process launches the tracker,
//! or a long wait ([`crate::lock::wait`]);
//! who receives a handle of a family that it is not in connects, proves that it knows the
//! *cookie*, and gets the family's descriptor. The address is made of the family's identity,
//! which every handle has: the abstract socket `@shared_numpy.family.<32 hex digits>`, or
//! where there are none a file of that name ([`crate::sys::socket::bind`]). The
//! cookie is the secret, and travels apart.
//!
//! Liveness is told by slots and not by connections. So a forked child need not say
//! anything to anybody (its parent's connection is not its own, and a fork handler is no
//! place for messages): the tracker finds it in the family's table. It looks at that at
//! every event. A participant of another pid namespace, which cannot be seen by its number,
//! can send a descriptor of itself along.
//!
//! # The protocol in one look ([`protocol`] has the bytes)
//!
//! ```text
//! first process                                       tracker
//!   socketpair, spawn, collect the intermediate ----> fd 0, forked away from its parent
//!   HELLO (found this family) + family descriptor --> binds the address, takes a slot
//!       <------------------------------ READY (pid)
//!   JOINED (participant) + descriptor of itself ----> one way
//!   REGISTER (owner, number) + segment -------------> one way
//!   FETCH (request, owner, number) -----------------> has read what all others have sent
//!       <------------- FETCHED (request, status) + segment
//!   DROPPED (owner) --------------------------------> one way, when much was dropped
//!
//! another process: connect -> HELLO (cookie) -> READY + family descriptor -> the same
//! ```
//!
//! A tour: [`protocol`] (bytes), [`client`] (what a process does), [`server`] (what the
//! helper does). `docs/members.md` tells what a kill leaves.

pub mod client;
mod knock;
mod launch;
pub use self::launch::MODE;
pub mod protocol;
mod relatives;
pub mod server;

/// The name of the socket of a family's tracker.
pub fn socket_name(family: [u64; 2]) -> Vec<u8> {
    format!("shared_numpy.family.{:016x}{:016x}", family[1], family[0]).into_bytes()
}

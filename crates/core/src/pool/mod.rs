//! Pools: memory that is held by the processes that can see it.
//!
//! Guarantee: a block's memory is used again only when no living process and no
//! token in flight holds it; and it is, however they ended. The bytes are told in
//! `docs/pool_format.md`, the protocol and what each kill leaves in
//! `docs/crash_safety.md`.
//!
//! Bottom up: [`protocol`] (bare words; the proof), [`family`] (who is in),
//! [`segment`] (checked access to shared parts), [`rows`] and [`tokens`] (who holds
//! what), [`holder`] (what this process holds), `unheld`, `turn` and [`closer`] (who frees), [`lend`] and
//! [`idle`] (who frees while the owner sleeps), [`classes`],
//! `backing`, `owned`, `surplus`, `chain` and [`owner`] (allocating), [`limit`] (how much).

#[cfg(not(loom))]
mod backing;
#[cfg(not(loom))]
mod chain;
#[cfg(not(loom))]
pub mod classes;
#[cfg(not(loom))]
pub mod closer;
#[cfg(not(loom))]
pub mod family;
#[cfg(not(loom))]
mod header;
#[cfg(not(loom))]
pub mod holder;
#[cfg(not(loom))]
pub mod idle;
#[cfg(not(loom))]
pub mod lend;
pub mod limit;
#[cfg(not(loom))]
mod owned;
#[cfg(not(loom))]
pub mod owner;
pub mod protocol;
#[cfg(not(loom))]
pub mod rows;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
mod settled;
#[cfg(not(loom))]
mod surplus;
#[cfg(not(loom))]
pub mod tokens;
#[cfg(not(loom))]
mod turn;
#[cfg(not(loom))]
mod unheld;

//! `shared-numpy-tracker`: unlinks the shared memory that a program leaves behind; or, as
//! `shared-numpy-tracker members`, keeps the nameless memory of a family.
//!
//! Started by `shared_numpy` itself, with one end of a socket as descriptor 0; see
//! `shared_numpy_core::tracker` and `shared_numpy_core::members`.

use std::process::ExitCode;

use shared_numpy_core::{members, tracker};

fn main() -> ExitCode {
    let mode = std::env::args_os().nth(1);
    ExitCode::from(match mode {
        Some(mode) if mode == members::MODE => members::server::run(),
        _ => tracker::server::run(),
    })
}

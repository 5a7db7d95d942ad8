//! `shared-numpy-tracker`: unlinks the shared memory that a program leaves behind.
//!
//! Started by `shared_numpy` itself, with one end of a socket as descriptor 0; see
//! `shared_numpy_core::tracker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(shared_numpy_core::tracker::server::run())
}

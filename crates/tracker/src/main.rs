//! The tracker executable.
fn main() {}

//! Turning system features off, so that every fallback can be tested.

/// The variable that lists them, separated by commas: `memfd`, `o_tmpfile`, ...
pub const VARIABLE: &str = "SHARED_NUMPY_DISABLE";

/// Whether `feature` is to be treated as missing: a debugging aid, and how tests force
/// fallbacks.
pub fn is_disabled(feature: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|listed| listed.split(',').any(|each| each.trim() == feature))
}

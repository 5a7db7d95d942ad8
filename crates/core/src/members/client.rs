//! stub
use crate::error::Result;
use crate::layout::Participant;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
/// stub
#[derive(Debug)]
pub struct Connection;
/// stub
pub enum Launched {
    /// s
    Up(Connection),
    /// s
    Unavailable(String),
}
/// stub
pub enum Fetched {
    /// s
    Fd(OwnedFd),
    /// s
    Unknown,
    /// s
    Gone,
}
impl Connection {
    /// stub
    pub fn launch(
        _e: &Path,
        _f: BorrowedFd<'_>,
        _id: [u64; 2],
        _c: [u8; 16],
        _k: &mut dyn FnMut() -> bool,
    ) -> Result<Launched> {
        Ok(Launched::Unavailable("stub".into()))
    }
    /// stub
    pub fn connect(
        _id: [u64; 2],
        _c: [u8; 16],
        _k: &mut dyn FnMut() -> bool,
    ) -> Result<Option<(Connection, OwnedFd)>> {
        Ok(None)
    }
    /// stub
    pub fn register(
        &self,
        _o: Participant,
        _n: u64,
        _f: BorrowedFd<'_>,
        _k: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        Ok(false)
    }
    /// stub
    pub fn fetch(&self, _o: Participant, _n: u64, _k: &mut dyn FnMut() -> bool) -> Result<Fetched> {
        Ok(Fetched::Gone)
    }
    /// stub
    pub fn is_open(&self) -> bool {
        false
    }
}

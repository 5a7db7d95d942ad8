//! A named segment that holds one array's bytes and knows who may still ask for it.
//!
//! The bytes come first, from offset 0, so that any reader of the segment finds
//! them; a trailer of three words closes the segment:
//!
//! | word | meaning | written by |
//! | --- | --- | --- |
//! | magic | [`MAGIC`]: the segment is one of these | the creator, once |
//! | length | how many bytes the array has | the creator, once |
//! | state | see below | anybody who has it mapped |
//!
//! | state | meaning | left by |
//! | --- | --- | --- |
//! | 0 | private: nobody was told the name | `publish` |
//! | 1.. below [`CLOSED`] | so many handles with the name were given out | `publish`, `withdraw`, `unlink` |
//! | [`CLOSED`] and above | the name is gone, or will be in a moment | nothing |
//!
//! Guarantees:
//!
//! - The name is removed by `unlink`, or by [`ArraySegment::abandon`] in the
//!   process that created it while the state is private. The two words `publish`
//!   and `abandon` race for are one word: either the name stays, or `publish` says
//!   that it is gone. It does not matter how many forks lie in between.
//! - What is read from the trailer is checked; garbage in the state can at most
//!   keep a name for longer, or make senders copy.
//!
//! Killed between closing the state and removing the name, a process leaves the
//! name to the tracker; senders copy meanwhile.

use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::name::SegmentName;
use crate::segment::{self, CreateOptions, Reserve, Segment};
use crate::sys::shm::{Identity, OpenFlags};

/// "snparray" in ASCII, as a native-endian word: another byte order is refused.
pub const MAGIC: u64 = u64::from_be_bytes(*b"snparray");
/// State bit: the name is not to be given out any more.
pub const CLOSED: u64 = 1 << 63;

const WORD_BYTES: usize = 8;
const TRAILER_BYTES: usize = 3 * WORD_BYTES;

/// The memory of one array.
#[derive(Debug)]
pub struct ArraySegment {
    segment: Segment,
    len_bytes: usize,
    trailer_at: usize,
    /// The process that created it; nobody, for one that was attached.
    creator: Option<u32>,
}

impl ArraySegment {
    /// Creates a segment for an array of `len_bytes` bytes, all zero and committed.
    ///
    /// `keep_going` is asked between steps of a long reservation.
    ///
    /// # Errors
    ///
    /// Those of [`Segment::create`]; `EOVERFLOW` for a length no segment can have.
    pub fn create(
        name: SegmentName,
        len_bytes: usize,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Self> {
        let trailer_at = len_bytes.checked_next_multiple_of(WORD_BYTES);
        let size_bytes = trailer_at.and_then(|at| at.checked_add(TRAILER_BYTES));
        let (Some(trailer_at), Some(size_bytes)) = (trailer_at, size_bytes) else {
            let name = name.display();
            return Err(Error::os("create shared memory", name, Errno::OVERFLOW));
        };
        let options = CreateOptions {
            reserve: Reserve::Always,
            ..CreateOptions::default()
        };
        let segment = Segment::create(name, size_bytes, options, keep_going)?;
        let made = ArraySegment {
            segment,
            len_bytes,
            trailer_at,
            creator: Some(std::process::id()),
        };
        let mapping = made.segment.mapping();
        mapping.store_u64(trailer_at + WORD_BYTES, len_bytes as u64)?;
        mapping.store_u64(trailer_at, MAGIC)?;
        Ok(made)
    }

    /// Opens the array segment `name`.
    ///
    /// # Errors
    ///
    /// Those of [`Segment::attach`]; [`Error::Foreign`] when the segment does not
    /// hold an array.
    pub fn attach(name: SegmentName) -> Result<Self> {
        let segment = Segment::attach(name, OpenFlags::empty(), 0, false)?;
        let foreign = || Error::Foreign {
            name: segment.name().display(),
            reason: "it does not hold an array of shared_numpy",
        };
        let mapping = segment.mapping();
        let trailer_at = mapping.len().checked_sub(TRAILER_BYTES);
        let trailer_at = trailer_at
            .filter(|at| at.is_multiple_of(WORD_BYTES))
            .ok_or_else(foreign)?;
        let magic = mapping.load_u64(trailer_at)?;
        let len_bytes = mapping.load_u64(trailer_at + WORD_BYTES)?;
        let len_bytes = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        if magic != MAGIC || len_bytes.checked_next_multiple_of(WORD_BYTES) != Some(trailer_at) {
            return Err(foreign());
        }
        Ok(ArraySegment {
            segment,
            len_bytes,
            trailer_at,
            creator: None,
        })
    }

    /// The segment's name.
    pub fn name(&self) -> &SegmentName {
        self.segment.name()
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.segment.identity()
    }

    /// How many bytes the array has; they begin at offset 0 of the mapping.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The memory, trailer included.
    pub fn mapping(&self) -> &Arc<Mapping> {
        self.segment.mapping()
    }

    /// Notes that the name is given to somebody; `false` if the name is gone.
    pub fn publish(&self) -> bool {
        self.change_state(|state| match state {
            closed if closed >= CLOSED => None,
            full if full == CLOSED - 1 => Some(full),
            given => Some(given + 1),
        })
    }

    /// Takes one [`ArraySegment::publish`] back: that handle reached nobody.
    pub fn withdraw(&self) {
        self.change_state(|state| match state {
            0 | CLOSED.. => None,
            given => Some(given - 1),
        });
    }

    /// Removes the name for good; `false` if that was done before.
    ///
    /// # Errors
    ///
    /// The system's, other than that the name is gone.
    pub fn unlink(&self) -> Result<bool> {
        self.change_state(|state| (state < CLOSED).then_some(CLOSED));
        match segment::unlink(self.segment.name(), Some(self.segment.identity())) {
            Ok(()) => Ok(true),
            Err(Error::Replaced { .. }) => Ok(false),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The last view in this process is gone: removes the name if this process
    /// created it and gave it to nobody; says whether it did.
    pub fn abandon(&self) -> bool {
        // A forked child inherits the object, not the duty.
        self.creator == Some(std::process::id())
            && self.change_state(|state| (state == 0).then_some(CLOSED))
            && segment::unlink(self.segment.name(), Some(self.segment.identity())).is_ok()
    }

    /// Checks that a view lies inside the array's bytes, however its strides run.
    ///
    /// `axes` are pairs of (length, stride in bytes); the element at index 0 begins
    /// at `offset_bytes` and each element has `item_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`].
    pub fn check_view(
        &self,
        offset_bytes: i64,
        axes: &[(i64, i64)],
        item_bytes: i64,
    ) -> Result<()> {
        let is_empty = axes.iter().any(|&(length, _)| length == 0);
        let mut low = i128::from(offset_bytes);
        let mut high = low;
        let mut is_sane = item_bytes >= 0;
        for &(length, stride) in axes {
            is_sane &= length >= 0;
            if !is_empty {
                // Two 64-bit factors fit in 127 bits, and so do 64 such sums when
                // each is within reach of the segment, which is checked as they grow.
                let reach = (i128::from(length) - 1) * i128::from(stride);
                low += reach.min(0);
                high += reach.max(0);
                is_sane &= low >= 0 && high <= self.len_bytes as i128;
            }
            if !is_sane {
                break;
            }
        }
        if !is_empty {
            high += i128::from(item_bytes);
        }
        if is_sane && low >= 0 && high <= self.len_bytes as i128 {
            return Ok(());
        }
        Err(Error::OutOfBounds {
            offset_bytes: u64::try_from(low.max(0)).unwrap_or(u64::MAX),
            len_bytes: u64::try_from(high - low).unwrap_or(u64::MAX),
            size_bytes: self.len_bytes as u64,
        })
    }

    /// Replaces the state by what `next` makes of it; `None` leaves it, and gives `false`.
    fn change_state(&self, next: impl Fn(u64) -> Option<u64>) -> bool {
        let (mapping, at) = (self.segment.mapping(), self.trailer_at + 2 * WORD_BYTES);
        // The word was inside the mapping when this was made; mappings do not shrink.
        let Ok(mut state) = mapping.load_u64(at) else {
            return false;
        };
        loop {
            let Some(new) = next(state) else {
                return false;
            };
            match mapping.compare_exchange_u64(at, state, new) {
                Ok(Ok(_)) => return true,
                Ok(Err(found)) => state = found,
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(tag: &str) -> SegmentName {
        let name = format!("/snp_core_array_{tag}_{}", std::process::id());
        SegmentName::new(name.as_bytes()).unwrap()
    }

    fn create(tag: &str, len_bytes: usize) -> ArraySegment {
        ArraySegment::create(name(tag), len_bytes, &mut || true).unwrap()
    }

    fn exists(tag: &str) -> bool {
        Segment::attach(name(tag), OpenFlags::empty(), 0, true).is_ok()
    }

    #[test]
    fn what_nobody_was_told_of_goes_with_its_creator() {
        let segment = create("private", 10);
        assert!(exists("private"));
        assert!(segment.abandon());
        assert!(!exists("private"));
        assert!(!segment.publish(), "a name that is gone is not given out");
        assert!(!segment.abandon());
        assert!(!segment.unlink().unwrap());
    }

    #[test]
    fn a_published_name_stays_until_it_is_unlinked() {
        let segment = create("published", 10);
        assert!(segment.publish());
        assert!(!segment.abandon());
        let other = ArraySegment::attach(name("published")).unwrap();
        assert_eq!(other.len_bytes(), 10);
        assert!(other.unlink().unwrap());
        assert!(!segment.unlink().unwrap());
        assert!(!segment.publish());
        assert!(!exists("published"));
    }

    #[test]
    fn handles_that_reached_nobody_do_not_count() {
        let segment = create("withdrawn", 10);
        segment.withdraw();
        assert!(segment.publish());
        assert!(segment.publish());
        segment.withdraw();
        assert!(!segment.abandon());
        segment.withdraw();
        assert!(segment.abandon());
    }

    #[test]
    fn whoever_attached_has_no_duty() {
        let segment = create("attached", 0);
        let other = ArraySegment::attach(name("attached")).unwrap();
        assert!(!other.abandon());
        assert!(segment.abandon());
    }

    #[test]
    fn other_segments_are_refused() {
        for (tag, size_bytes) in [("small", 8), ("zeros", 64), ("odd", 61)] {
            let options = CreateOptions::default();
            Segment::create(name(tag), size_bytes, options, &mut || true).unwrap();
            let refused = ArraySegment::attach(name(tag)).unwrap_err();
            assert!(matches!(refused, Error::Foreign { .. }), "{refused}");
            segment::unlink(&name(tag), None).unwrap();
        }
        let segment = create("lying", 100);
        let at = segment.trailer_at + WORD_BYTES;
        segment.mapping().store_u64(at, 1 << 40).unwrap();
        assert!(ArraySegment::attach(name("lying")).is_err());
        segment.unlink().unwrap();
    }

    #[test]
    fn views_stay_inside() {
        let segment = create("views", 100);
        let ok = |offset, axes: &[(i64, i64)], item| segment.check_view(offset, axes, item).is_ok();
        assert!(ok(0, &[(25, 4)], 4));
        assert!(ok(96, &[(25, -4)], 4));
        assert!(ok(0, &[(1 << 40, 0), (25, 4)], 4), "broadcast");
        assert!(ok(100, &[(0, 4)], 4), "empty at the end");
        assert!(ok(0, &[], 100) && ok(100, &[], 0));
        assert!(!ok(1, &[(25, 4)], 4));
        assert!(!ok(95, &[(25, -4)], 4));
        assert!(!ok(101, &[(0, 4)], 4) && !ok(-1, &[], 1));
        assert!(!ok(0, &[(-1, 4)], 4) && !ok(0, &[(1, 4)], -4));
        // Products and sums that wrap around in 64 bits.
        assert!(!ok(0, &[(5, 1 << 62)], 4));
        assert!(!ok(0, &[(3, i64::MAX), (3, i64::MIN)], 4));
        assert!(!ok(
            0,
            &[(i64::MAX, i64::MIN), (i64::MAX, i64::MAX)],
            i64::MAX
        ));
        segment.unlink().unwrap();
    }
}

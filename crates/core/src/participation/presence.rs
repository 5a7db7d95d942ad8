//! Who this process is where a block lies, and who is still there: what locks ask.
//!
//! Guarantee: somebody is said to be gone only when its slot does not count any more,
//! which the kernel's word (`liveness`) has seen to; that word is asked for here, so that no
//! wait depends on a tracker. How often it is asked, `growth` tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::growth::Asking;
use super::registry::{Registry, lock};
use super::{Hold, tracker};
use crate::error::{Error, Result};
use crate::layout::Participant;
use crate::lock::wait::Watch;
use crate::members::client::Connection;
use crate::pool::family::Family;
use crate::sync::AtomicU64;
use crate::sys::clock;

/// How far attempts to begin a watch are apart, of all who wait in a process.
const BEGIN_EVERY_S: u64 = 30;

/// After how long one is given up. Who waits looks after nobody meanwhile.
const BEGIN_WITHIN: Duration = Duration::from_millis(300);

/// Of a family without a header, which none is.
static NO_NEWS: AtomicU64 = AtomicU64::new(0);

/// The family of a block.
#[derive(Debug, Clone)]
pub struct Presence {
    family: Arc<Family>,
}

impl Hold {
    /// The family of the block, which never changes.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub fn presence(&self) -> Result<Presence> {
        let mut registry = lock();
        let local = registry
            .local(self.held.segment)
            .ok_or_else(|| Error::Dropped)?;
        let family = local.family;
        let family = Arc::clone(&registry.families[family].family);
        Ok(Presence { family })
    }

    /// Whether a participant of the block's family is gone, by proof. Of a block that was let
    /// go of it cannot be told.
    pub(crate) fn is_gone(&self, who: Participant, asked: Asking) -> bool {
        self.presence()
            .is_ok_and(|presence| presence.ask(who, asked))
    }

    /// Who this process is in the family of the block; that changes with a fork.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`] when the block was let go of as inherited; [`Error::Full`] when
    /// the family has no room for a child that was not counted.
    pub fn me(&self) -> Result<Participant> {
        let mut registry = lock();
        let local = registry
            .local(self.held.segment)
            .ok_or_else(|| Error::Dropped)?;
        let family = local.family;
        if registry
            .holder(self.held.segment)?
            .is_dropped(self.held.since)
        {
            return Err(Error::Dropped);
        }
        registry.families[family].ensure_me()
    }
}

impl Presence {
    /// Whether a participant is gone, by proof: for waits, which ask again and again. Must not
    /// be called with the process-wide lock held.
    pub fn is_gone(&self, who: Participant) -> bool {
        self.ask(who, Asking::WhileWaiting)
    }

    fn ask(&self, who: Participant, asked: Asking) -> bool {
        if !self.family.counts(who) {
            return true;
        }
        let registry = lock();
        self.place(&registry)
            .is_some_and(|place| registry.families[place].is_gone(who, asked))
    }

    /// To its tracker, if this process has one, and who it is there.
    fn connection(&self) -> Option<(Arc<Connection>, Participant)> {
        let registry = lock();
        let member = &registry.families[self.place(&registry)?];
        member.connection.clone().zip(member.me)
    }

    /// Where the family stands in the registry; it stays there.
    fn place(&self, registry: &Registry) -> Option<usize> {
        let mut members = registry.families.iter();
        members.position(|member| Arc::ptr_eq(&member.family, &self.family))
    }
}

impl Watch for Presence {
    fn news(&self) -> &AtomicU64 {
        // The header is in every family's mapping.
        self.family.news().unwrap_or(&NO_NEWS)
    }

    fn is_watched(&self, news: u64) -> bool {
        self.family.is_watched(news)
    }

    fn holds(&self) -> bool {
        self.connection()
            .is_some_and(|(connection, _)| connection.is_open())
    }

    fn remind(&self) {
        if let Some((connection, me)) = self.connection() {
            connection.remind(me);
        }
    }

    fn begin(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<()> {
        let mut registry = lock();
        let place = self.place(&registry).ok_or_else(|| Error::Dropped)?;
        let member = &mut registry.families[place];
        let me = member.me.ok_or_else(|| Error::Dropped)?;
        if let Some(connection) = member.connection.clone()
            && connection.is_open()
        {
            drop(registry);
            connection.remind(me);
            return Ok(());
        }
        let now_s = clock::monotonic_s();
        let was_lately = |at_s| now_s < at_s + BEGIN_EVERY_S;
        if self.family.note_if_alone(me)?
            || member.no_tracker.is_some()
            || member.begun_at_s.is_some_and(was_lately)
        {
            return Ok(());
        }
        member.begun_at_s = Some(now_s);
        drop(registry);
        let began = Instant::now();
        let made = tracker::connection(place, true, &mut || {
            keep_going() && began.elapsed() < BEGIN_WITHIN
        });
        // What went wrong may be a shortage of this moment: who sends finds out for itself.
        lock().families[place].no_tracker = None;
        made.map(|_| ())
    }
}

//! The newest events, in memory: consumers that keep up read from here.

use std::collections::VecDeque;
use std::sync::{Arc, RwLock, RwLockReadGuard};

#[cfg(feature = "jetstream")]
use schemas::Patterns;

use crate::{Page, Read, Recorded, Seq};

/// Events kept: what a consumer may fall behind before it reads the file.
const EVENTS_MAX: usize = 8_192;
/// Bytes of events kept: 8 MiB.
const BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Recent {
    window: RwLock<Window>,
}

#[derive(Default)]
struct Window {
    /// Every event recorded since the first one here, in order.
    events: VecDeque<(Arc<Recorded>, usize)>,
    bytes: usize,
}

impl Recent {
    /// Adds what was just committed.
    pub(crate) fn extend(&self, events: Vec<(Arc<Recorded>, usize)>) {
        let mut window = self.window.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (event, bytes) in events {
            window.bytes += bytes;
            window.events.push_back((event, bytes));
        }
        while window.events.len() > EVENTS_MAX || window.bytes > BYTES_MAX {
            let Some((_, bytes)) = window.events.pop_front() else { break };
            window.bytes -= bytes;
        }
    }

    /// Drops everything: after events were deleted from the file.
    pub(crate) fn clear(&self) {
        let mut window = self.window.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *window = Window::default();
    }

    /// The page asked for, if it starts within the window.
    pub(crate) fn read(&self, read: &Read) -> Option<Page> {
        let window = self.window();
        let first = window.events.front()?.0.seq;
        if read.after.next() < first {
            return None;
        }
        let start = window.events.partition_point(|(event, _)| event.seq <= read.after);
        let mut page = Page { events: Vec::new(), through: read.after };
        for (event, _) in window.events.range(start..) {
            if event.seq > read.until || page.events.len() == read.events_max {
                break;
            }
            page.through = event.seq;
            if read.types.matches(&event.event.kind) {
                page.events.push(Arc::clone(event));
            }
        }
        Some(page)
    }

    /// The newest of the events asked for, newest first, and down to where they were looked for;
    /// `None` when they end before the window begins.
    #[cfg(feature = "jetstream")]
    pub(crate) fn read_back(&self, read: &Read) -> Option<Page> {
        let window = self.window();
        let first = window.events.front()?.0.seq;
        if read.until < first {
            return None;
        }
        let mut page = Page { events: Vec::new(), through: read.until };
        for (event, _) in window.events.iter().rev() {
            if event.seq > read.until {
                continue;
            }
            if event.seq <= read.after || page.events.len() == read.events_max {
                return Some(page);
            }
            page.through = event.seq;
            if read.types.matches(&event.event.kind) {
                page.events.push(Arc::clone(event));
            }
        }
        Some(page)
    }

    /// How many events of `types` stand in the window after `after` and not after `until`, if the
    /// window reaches back that far.
    #[cfg(feature = "jetstream")]
    pub(crate) fn count(&self, after: Seq, until: Seq, types: &Patterns) -> Option<u64> {
        let window = self.window();
        if after.next() < window.events.front()?.0.seq {
            return None;
        }
        let start = window.events.partition_point(|(event, _)| event.seq <= after);
        let meant = |(event, _): &&(Arc<Recorded>, usize)| {
            event.seq <= until && types.matches(&event.event.kind)
        };
        Some(window.events.range(start..).filter(meant).count() as u64)
    }

    /// For each of `seqs` the event, if it lies within the window.
    pub(crate) fn get(&self, seqs: &[Seq]) -> Vec<Option<Arc<Recorded>>> {
        let window = self.window();
        let find = |seq: &Seq| {
            let at = window.events.binary_search_by_key(seq, |(event, _)| event.seq).ok()?;
            Some(Arc::clone(&window.events[at].0))
        };
        seqs.iter().map(find).collect()
    }

    fn window(&self) -> RwLockReadGuard<'_, Window> {
        self.window.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

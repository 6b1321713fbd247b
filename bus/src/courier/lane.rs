//! What a process has under way without rows, queue by queue: places in the limits of the queue,
//! and the events that are tried on them, one after the other on each.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Courier, Trip};
use crate::work::{QueueId, WorkId};

/// Events of one queue without rows at once, and of all queues; more get rows.
const EVENTS_MAX: usize = 16_384;
const EVENTS_OF_ALL_MAX: usize = 131_072;
/// Events for each place of a queue that has rows due.
const WAITING_EACH: usize = 4;
/// How long a lane keeps its places after events came for it: to take places and to give them up are
/// a third of the statements that an event costs where a few come at a time.
pub(super) const KEPT: Duration = Duration::from_millis(100);
/// How long at most, before those that nothing is tried on are given up all the same: the limit may have
/// become another.
const KEPT_MAX: Duration = Duration::from_secs(1);
/// Failures one after the other after which a queue is held until they are written.
const FAILURES_MAX: usize = 10;

/// An event on its way without a row.
pub(super) struct Leg<C: Courier> {
    pub(super) dispatch: Arc<Boarded>,
    pub(super) trip: Trip,
    pub(super) errand: C::Errand,
    /// When it gets a row, if it has not begun.
    pub(super) deadline: Instant,
}

/// One queue.
struct Lane<C: Courier> {
    /// Each stands for a place that this process may fill on this node.
    places: Vec<OwnedSemaphorePermit>,
    /// Places on which an event is being tried.
    running: usize,
    /// When events last boarded.
    sought: Instant,
    /// When places that it did not need were last given up.
    trimmed: Instant,
    /// Most places to use: less than there are while others wait for some.
    target: usize,
    /// Attempts that failed one after the other.
    failures: usize,
    /// Nothing begins before what came of those under way is written, which may close the queue.
    held: bool,
    waiting: VecDeque<Leg<C>>,
    /// Events whose transaction has not committed yet.
    boarding: usize,
    /// Events that are being tried or wait.
    under_way: usize,
    /// Those, and those whose outcome is known and not written yet.
    unlanded: usize,
}

impl<C: Courier> Default for Lane<C> {
    fn default() -> Lane<C> {
        Lane {
            places: Vec::new(),
            running: 0,
            sought: Instant::now(),
            trimmed: Instant::now(),
            target: usize::MAX,
            failures: 0,
            held: false,
            waiting: VecDeque::new(),
            boarding: 0,
            under_way: 0,
            unlanded: 0,
        }
    }
}

/// All lanes of a process, and the dispatches it knows of.
pub(super) struct Lanes<C: Courier> {
    state: Mutex<State<C>>,
    known: Arc<Mutex<HashSet<WorkId>>>,
}

struct State<C: Courier> {
    lanes: HashMap<QueueId, Lane<C>>,
    /// Events over all lanes whose outcome is not written yet.
    unlanded: usize,
    closed: bool,
}

/// That a dispatch is known to the process that made it: nobody takes its events for abandoned.
#[derive(Debug)]
pub(super) struct Boarded {
    pub(super) id: WorkId,
    known: Arc<Mutex<HashSet<WorkId>>>,
}

impl Drop for Boarded {
    fn drop(&mut self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl<C: Courier> Default for Lanes<C> {
    fn default() -> Lanes<C> {
        let state = State { lanes: HashMap::new(), unlanded: 0, closed: false };
        Lanes { state: Mutex::new(state), known: Arc::default() }
    }
}

impl<C: Courier> Lanes<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events that wait for a place or are being tried, of the queues that keep up: nobody waits for
    /// one that has rows due.
    pub(super) fn under_way(&self) -> usize {
        let state = self.state();
        state.lanes.values().filter(|lane| lane.keeps_up()).map(|lane| lane.under_way).sum()
    }

    pub(super) fn are_any(&self) -> bool {
        !self.state().lanes.is_empty()
    }

    pub(super) fn knows(&self, dispatch: WorkId) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&dispatch)
    }

    pub(super) fn holds(&self, queue: QueueId) -> bool {
        self.state().lanes.contains_key(&queue)
    }

    pub(super) fn board(&self, id: WorkId) -> Arc<Boarded> {
        let known = Arc::clone(&self.known);
        known.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Arc::new(Boarded { id, known })
    }

    /// Keeps room for up to `events` of `queue`, which also keeps the places that it has.
    pub(super) fn reserve(&self, queue: QueueId, events: usize) -> Reserved {
        let mut state = self.state();
        let left = EVENTS_OF_ALL_MAX.saturating_sub(state.unlanded);
        let lane = state.lanes.entry(queue).or_default();
        let most = if lane.keeps_up() { EVENTS_MAX } else { lane.places.len() * WAITING_EACH };
        let room = most.saturating_sub(lane.unlanded + lane.boarding).min(left);
        let count = events.min(room);
        let taken = lane.under_way + lane.boarding;
        let reserved = Reserved {
            events: count,
            has_places: lane.usable() > 0 || lane.boarding > 0,
            free: lane.usable().saturating_sub(taken),
        };
        lane.boarding += count;
        reserved
    }

    /// Gives back what [`Lanes::reserve`] kept.
    pub(super) fn release(&self, queue: QueueId, events: usize) {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&queue) {
            lane.boarding -= events;
        }
        state.forget_if_empty(queue);
    }

    /// Adds events that room was kept for, and places for them: how many of the places have nobody
    /// yet who works on them, and the events that get rows now.
    pub(super) fn add(
        &self,
        queue: QueueId,
        legs: Vec<Leg<C>>,
        mut places: OwnedSemaphorePermit,
    ) -> (usize, Vec<Leg<C>>) {
        let mut state = self.state();
        state.unlanded += legs.len();
        let closed = state.closed;
        let lane = state.lanes.entry(queue).or_default();
        lane.sought = Instant::now();
        lane.held |= closed;
        lane.under_way += legs.len();
        lane.unlanded += legs.len();
        lane.waiting.extend(legs);
        while let Some(place) = places.split(1) {
            lane.places.push(place);
        }
        state.go_on(queue)
    }

    /// The next event for somebody who works on a place; without one, the place is idle.
    pub(super) fn next(&self, queue: QueueId) -> Option<Leg<C>> {
        let mut state = self.state();
        let lane = state.lanes.get_mut(&queue)?;
        let goes_on = lane.running <= lane.usable();
        let next = lane.waiting.pop_front_if(|_| goes_on);
        if next.is_none() {
            lane.running -= 1;
        }
        next
    }

    /// The attempt at an event has ended; its place is free for the next, unless what came of it
    /// `holds` the queue: then those that wait get rows now. How many others go on, too.
    pub(super) fn tried(&self, queue: QueueId, failed: bool, holds: bool) -> (usize, Vec<Leg<C>>) {
        let mut state = self.state();
        let Some(lane) = state.lanes.get_mut(&queue) else { return (0, Vec::new()) };
        lane.under_way -= 1;
        lane.failures = if failed { lane.failures + 1 } else { 0 };
        lane.held |= holds;
        state.go_on(queue)
    }

    /// An event that is being tried takes its place with it. Those that have no place left to wait
    /// for get rows now.
    pub(super) fn leave(&self, queue: QueueId) -> (Option<OwnedSemaphorePermit>, Vec<Leg<C>>) {
        let mut state = self.state();
        let Some(lane) = state.lanes.get_mut(&queue) else { return (None, Vec::new()) };
        lane.under_way -= 1;
        lane.running -= 1;
        let place = lane.places.pop();
        (place, state.overdue(queue))
    }

    /// Whether there are places that nothing is tried on.
    pub(super) fn any_idle(&self) -> bool {
        self.state().lanes.values().any(Lane::is_idle)
    }

    /// The queues with such places that no event has come for in a while.
    pub(super) fn forsaken(&self) -> Vec<QueueId> {
        let state = self.state();
        let forsaken = |lane: &Lane<C>| lane.is_idle() && (state.closed || !lane.is_sought());
        state.lanes.iter().filter(|(_, lane)| forsaken(lane)).map(|(queue, _)| *queue).collect()
    }

    /// Takes places out of the lanes of `queues` that need them no longer when so many of their events
    /// have landed: those that there is no event for, unless some may come soon and places `may_be_kept`
    /// for them; and half of them where rows are due, which wait for a place too. They are put back
    /// unless that is committed.
    pub(super) fn spare(
        self: &Arc<Self>,
        queues: impl Iterator<Item = QueueId>,
        landed: &BTreeMap<QueueId, usize>,
        due: &HashSet<QueueId>,
        may_be_kept: bool,
    ) -> Vec<Spare<C>> {
        let mut state = self.state();
        let closed = state.closed;
        let mut spare = Vec::new();
        for queue in queues {
            let Some(lane) = state.lanes.get_mut(&queue) else { continue };
            let places = lane.places.len();
            lane.target = if due.contains(&queue) { places / 2 } else { usize::MAX };
            let landed = landed.get(&queue).copied().unwrap_or(0);
            let left = (lane.unlanded + lane.boarding).saturating_sub(landed);
            let is_kept = lane.is_sought() && lane.trimmed.elapsed() < KEPT_MAX;
            let wanted = if is_kept && may_be_kept && !closed {
                places
            } else {
                lane.trimmed = Instant::now();
                left
            };
            let kept = wanted.min(lane.target).max(lane.running).min(places);
            let places = lane.places.split_off(kept);
            if !places.is_empty() {
                spare.push(Spare { lanes: Arc::clone(self), queue, places });
            }
        }
        spare
    }

    /// Notes what was written: so many events have landed. How many of the places have nobody yet who
    /// works on them, and the events that get rows now.
    pub(super) fn landed(&self, queue: QueueId, events: usize) -> (usize, Vec<Leg<C>>) {
        let mut state = self.state();
        state.unlanded = state.unlanded.saturating_sub(events);
        let closed = state.closed;
        let Some(lane) = state.lanes.get_mut(&queue) else { return (0, Vec::new()) };
        lane.unlanded = lane.unlanded.saturating_sub(events);
        let on = state.go_on(queue);
        if let Some(lane) = state.lanes.get_mut(&queue) {
            // Whether the queue is closed stands in the database now, where all look before they begin.
            lane.held = closed;
            lane.failures %= FAILURES_MAX;
        }
        state.forget_if_empty(queue);
        on
    }

    /// Starts nothing any more: what waits gets rows.
    pub(super) fn close(&self) -> Vec<(QueueId, Vec<Leg<C>>)> {
        let mut state = self.state();
        state.closed = true;
        let queues: Vec<QueueId> = state.lanes.keys().copied().collect();
        let left = queues.into_iter().map(|queue| {
            if let Some(lane) = state.lanes.get_mut(&queue) {
                lane.held = true;
            }
            (queue, state.overdue(queue))
        });
        left.collect()
    }
}

impl<C: Courier> Lane<C> {
    /// Whether its queue had no rows due when it was last looked at.
    fn keeps_up(&self) -> bool {
        self.target == usize::MAX
    }

    fn is_idle(&self) -> bool {
        self.places.len() > self.under_way
    }

    fn is_sought(&self) -> bool {
        self.sought.elapsed() < KEPT
    }

    /// Places on which events may be tried. Once some have failed, so many at most that no more than
    /// [`FAILURES_MAX`] fail one after the other.
    fn usable(&self) -> usize {
        let trusted = match self.failures {
            0 => usize::MAX,
            failures => FAILURES_MAX.saturating_sub(failures),
        };
        if self.held { 0 } else { self.places.len().min(self.target).min(trusted) }
    }
}

/// What a lane has for events that come.
pub(super) struct Reserved {
    /// For how many there is room.
    pub(super) events: usize,
    /// Whether it has places, or will have when those before have boarded.
    pub(super) has_places: bool,
    /// Places that nothing is tried on, and nothing waits for.
    pub(super) free: usize,
}

/// Places that are about to be given up.
pub(super) struct Spare<C: Courier> {
    lanes: Arc<Lanes<C>>,
    pub(super) queue: QueueId,
    places: Vec<OwnedSemaphorePermit>,
}

impl<C: Courier> Spare<C> {
    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    /// That they are given up was committed.
    pub(super) fn given_up(mut self) {
        self.places.clear();
        self.lanes.state().forget_if_empty(self.queue);
    }
}

impl<C: Courier> Drop for Spare<C> {
    fn drop(&mut self) {
        if !self.places.is_empty() {
            let mut state = self.lanes.state();
            state.lanes.entry(self.queue).or_default().places.append(&mut self.places);
        }
    }
}

impl<C: Courier> State<C> {
    /// How many start to work on idle places now, and the events that get rows instead.
    fn go_on(&mut self, queue: QueueId) -> (usize, Vec<Leg<C>>) {
        let overdue = self.overdue(queue);
        let Some(lane) = self.lanes.get_mut(&queue) else { return (0, overdue) };
        let idle = lane.usable().saturating_sub(lane.running).min(lane.waiting.len());
        lane.running += idle;
        (idle, overdue)
    }

    /// Events that have waited too long, or have no place left to wait for. Whoever waits, waits for
    /// somebody who tries an event on a place, whose end leads here.
    fn overdue(&mut self, queue: QueueId) -> Vec<Leg<C>> {
        let now = Instant::now();
        let Some(lane) = self.lanes.get_mut(&queue) else { return Vec::new() };
        let stuck = lane.usable() == 0;
        let late = lane.waiting.iter().take_while(|leg| stuck || leg.deadline <= now).count();
        lane.under_way -= late;
        lane.waiting.drain(..late).collect()
    }

    fn forget_if_empty(&mut self, queue: QueueId) {
        let empty = self
            .lanes
            .get(&queue)
            .is_some_and(|lane| lane.places.is_empty() && lane.unlanded == 0 && lane.boarding == 0);
        if empty {
            self.lanes.remove(&queue);
        }
    }
}

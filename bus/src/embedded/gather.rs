//! Gathers the calls that share one commit.
//!
//! A commit takes all that wait, and a call that comes alone waits for nobody. But those who were
//! answered together come back together: the first of them would be committed alone, with a sync of
//! its own, while the others arrive and wait for it. So after a commit of many, the next one waits for
//! its company as long as more keep coming (Postgres knows this as `commit_siblings` and
//! `commit_delay`). And a small one waits for the sync of the one before: it would be synced after it
//! anyway, and takes who comes meanwhile.

use std::time::Duration;

use tokio::sync::mpsc;

use super::writer::{Command, Publish};

/// Events past which no further call joins a commit, which bounds its length in time.
const COMMIT_EVENTS_MAX: usize = 4_096;
/// Bytes past which no further call joins a commit.
const COMMIT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Calls of one commit from which on its company is expected again.
const COMPANY_MIN: usize = 8;
/// Events from which on a commit is begun while the one before is synced.
const EVENTS_BESIDE_SYNC: usize = 64;
/// One wait for more; the system's timer adds about as much.
const WAIT: Duration = Duration::from_micros(50);
/// So many waits at most: with the timer's share, less than a millisecond.
const WAITS_MAX: usize = 8;

/// The calls of one commit.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) calls: Vec<Publish>,
    /// What ended the gathering: it is done by itself, after the calls.
    pub(super) other: Option<Command>,
    events: usize,
    bytes: usize,
}

impl Gathered {
    /// `first` and all that wait behind it; `before` calls shared the commit before, and
    /// `wait_for_sync` returns when that is synced.
    #[expect(clippy::disallowed_methods, reason = "the writer has a thread of its own")]
    pub(super) fn gather(
        first: Command,
        queue: &mut mpsc::Receiver<Command>,
        before: usize,
        wait_for_sync: impl FnOnce(),
    ) -> Gathered {
        let mut gathered = Gathered::default();
        gathered.take(first);
        gathered.take_all(queue);
        if gathered.events < EVENTS_BESIDE_SYNC && !gathered.is_full() {
            wait_for_sync();
        }
        for waits in 0..=WAITS_MAX {
            let had = gathered.calls.len();
            gathered.take_all(queue);
            let more_come = waits == 0 || gathered.calls.len() > had;
            let expects_more = before >= COMPANY_MIN && gathered.calls.len() * 4 < before * 3;
            if gathered.is_full() || !more_come || !expects_more {
                break;
            }
            std::thread::sleep(WAIT);
        }
        gathered
    }

    fn take_all(&mut self, queue: &mut mpsc::Receiver<Command>) {
        while !self.is_full()
            && let Ok(command) = queue.try_recv()
        {
            self.take(command);
        }
    }

    fn is_full(&self) -> bool {
        let many = self.events >= COMMIT_EVENTS_MAX || self.bytes >= COMMIT_BYTES_MAX;
        many || self.other.is_some()
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Publish(publish) => {
                self.events += publish.events.len();
                self.bytes += publish.bytes;
                self.calls.push(publish);
            }
            Command::Delete { .. } | Command::Restore { .. } => self.other = Some(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn call() -> Command {
        let (reply, _) = oneshot::channel();
        let event = schemas::Event::new(
            schemas::EventType::from_trusted("t".into()),
            schemas::Source::from_trusted("/s".into()),
            schemas::EventId::from_uuid(uuid::Uuid::nil()),
        );
        Command::Publish(Publish { events: vec![event], bytes: 1, reply })
    }

    #[test]
    fn all_that_wait_are_taken() {
        let (sender, mut queue) = mpsc::channel(8);
        sender.try_send(call()).ok().unwrap();
        assert_eq!(Gathered::gather(call(), &mut queue, 1, || ()).calls.len(), 2);
    }

    #[test]
    fn company_is_waited_for_while_it_comes() {
        let (sender, mut queue) = mpsc::channel(64);
        let coming = std::thread::spawn(move || {
            for _ in 0..31 {
                sender.blocking_send(call()).ok().unwrap();
            }
        });
        // However slow they are, the first wait is for the whole company.
        let gathered = Gathered::gather(call(), &mut queue, 32, || ());
        coming.join().unwrap();
        let rest = std::iter::from_fn(|| queue.try_recv().ok()).count();
        assert_eq!(gathered.calls.len() + rest, 32);
        // When nobody comes any more, it ends.
        assert_eq!(Gathered::gather(call(), &mut queue, 1_000, || ()).calls.len(), 1);
    }

    #[test]
    fn a_small_commit_waits_for_the_sync_of_the_one_before() {
        let (sender, mut queue) = mpsc::channel(128);
        let gathered = Gathered::gather(call(), &mut queue, 1, || {
            sender.try_send(call()).ok().unwrap(); // Comes meanwhile.
        });
        assert_eq!(gathered.calls.len(), 2);
        for _ in 0..EVENTS_BESIDE_SYNC {
            sender.try_send(call()).ok().unwrap();
        }
        let gathered = Gathered::gather(call(), &mut queue, 1, || unreachable!("it is large"));
        assert_eq!(gathered.calls.len(), EVENTS_BESIDE_SYNC + 1);
    }

    #[test]
    fn what_is_no_call_ends_it() {
        let (sender, mut queue) = mpsc::channel(8);
        let (reply, _) = oneshot::channel();
        sender.try_send(Command::Restore { events: Vec::new(), end: None, reply }).ok().unwrap();
        sender.try_send(call()).ok().unwrap();
        let gathered = Gathered::gather(call(), &mut queue, 64, || ());
        assert!(gathered.calls.len() == 1 && gathered.other.is_some());
    }
}

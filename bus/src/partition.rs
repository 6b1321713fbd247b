//! Which partition an event belongs to.

use schemas::Event;

/// Partitions of every consumer: the most nodes that can share one. Stored with the cursors, so it
/// cannot change for a log that has been read.
pub const PARTITIONS: i64 = 16;

/// The partition of an event: a hash of its `partitionkey`, else its subject, else its id. The same
/// on every node and in every version.
#[must_use]
pub fn partition_of(event: &Event) -> i64 {
    partition_of_key(event.partition_key())
}

/// The partition of a key, as [`partition_of`] finds that of an event.
#[must_use]
pub fn partition_of_key(key: &str) -> i64 {
    let hash = fnv1a(key.as_bytes());
    // The low bits of FNV-1a alone spread short keys badly; fold the high half in.
    let folded = (hash >> 32) ^ hash;
    i64::try_from(folded % PARTITIONS.unsigned_abs()).unwrap_or(0)
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

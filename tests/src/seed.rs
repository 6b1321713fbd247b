//! Randomness that can be had again.

/// The seed of this run: `SKALD_TEST_SEED`, or a fresh one. Print it, so that a failure can be had
/// again.
///
/// # Panics
/// When the variable is no number.
#[must_use]
pub fn seed() -> u64 {
    match std::env::var("SKALD_TEST_SEED") {
        Ok(text) => text.parse().expect("SKALD_TEST_SEED is a number"),
        Err(_) => rand::random(),
    }
}

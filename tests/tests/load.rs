//! A load that goes on through crashes and faults, what its producers and workers saw, and what must
//! be true of that in the end.

pub(crate) mod effects;
pub(crate) mod journal;
pub(crate) mod producers;
pub(crate) mod workers;

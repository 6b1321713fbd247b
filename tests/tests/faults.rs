//! What must hold when parts of a distributed Skald fail: two nodes under load on one broker and one
//! database, all of them processes that are killed, stopped, paused and cut off.
//!
//! `site` is all of those processes; `traffic` the load; `fault` what is done to them, and how it is
//! told that they are well again; `ledger` and `leases` what must be true in the end. `reads` what goes on
//! meanwhile.

mod fault;
mod forming;
mod leases;
mod ledger;
mod reads;
mod rounds;
mod site;
mod traffic;

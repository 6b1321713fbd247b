//! The tests of the whole: the contract, the command line, the pages, crashes, faults of servers,
//! sagas between processes, and the tidiness of the house.
#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test right there")]

mod chaos;
mod cli;
mod crash;
mod docs;
mod examples;
mod faults;
mod http_contract;
mod load;
mod pages;
mod sagas;
mod tidy;

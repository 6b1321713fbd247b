//! What must hold when the machine lets the process down: `kill -9`, full disks, clocks set back,
//! files that are locked.

mod clock_set_back;
mod conference;
mod disk_full;
mod kill;
mod locked;
mod lost_files;
mod python_participants;
mod saga_retention;
mod sagas;
mod webhooks;

//! Rollups over events, and the questions that can be asked of them.

mod count_events;
pub use count_events::CountEvents;

mod interval;
pub use interval::{Interval, InvalidInterval};

mod timeseries;
pub use timeseries::{POINTS_MAX, Point, Timeseries, TimeseriesError};

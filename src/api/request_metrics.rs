//! Metrics of requests, by method, route and status.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

/// Counts requests and times them.
///
/// What a series is called is put together once: to look it up among all metrics, by its name and
/// labels, costs more than to answer a short request costs otherwise.
#[derive(Default)]
pub(crate) struct RequestMetrics {
    routes: RwLock<HashMap<String, Route>>,
}

struct Route {
    seconds: Histogram,
    /// By method and status.
    answered: Vec<((&'static str, u16), Counter)>,
}

impl RequestMetrics {
    pub(crate) fn count(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let known = routes.get(route).is_some_and(|known| known.note(method, status, took));
        drop(routes);
        if known {
            return;
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let known = routes.entry(route.to_owned()).or_insert_with(|| Route::new(route));
        if !known.answered.iter().any(|(of, _)| *of == (method, status)) {
            let answered = counter!(
                "skald_http_requests_total",
                "method" => method, "route" => route.to_owned(), "status" => status.to_string()
            );
            known.answered.push(((method, status), answered));
        }
        known.note(method, status, took);
    }
}

impl Route {
    fn new(route: &str) -> Route {
        let seconds = histogram!("skald_http_request_seconds", "route" => route.to_owned());
        Route { seconds, answered: Vec::new() }
    }

    /// False when there is no such series yet.
    fn note(&self, method: &'static str, status: u16, took: Duration) -> bool {
        let Some((_, answered)) = self.answered.iter().find(|(of, _)| *of == (method, status))
        else {
            return false;
        };
        answered.increment(1);
        self.seconds.record(took.as_secs_f64());
        true
    }
}

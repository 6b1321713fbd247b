//! Skald as a library: the same node, with the program's own consumers inside.

use std::path::PathBuf;
use std::sync::Arc;

use bus::{BatchConsumer, Consumer, Each, Handler, Kind, Whole};

use orchestrator::{Methods, RustMethods, RustSaga};

use crate::config::Settings;
use crate::server::{Node, Profile, ServeError};
use crate::telemetry;

/// A node with consumers of one's own.
///
/// ```no_run
/// use skald::{Consumer, Delivery, DomainEvent, Failure, Skald};
///
/// #[derive(serde::Deserialize)]
/// struct OrderPaid {
///     order_id: String,
/// }
///
/// impl DomainEvent for OrderPaid {
///     const TYPE: &'static str = "com.acme.order.paid";
/// }
///
/// /// Greets an order when it is paid.
/// struct GreetOrder;
///
/// impl Consumer for GreetOrder {
///     type Event = OrderPaid;
///     const NAME: &'static str = "greet-order";
///
///     async fn handle(&self, paid: OrderPaid, _: &mut Delivery<'_>) -> Result<(), Failure> {
///         tracing::info!(order = paid.order_id, "hello");
///         Ok(())
///     }
/// }
///
/// # async fn run() -> Result<(), skald::SkaldError> {
/// Skald::dev().consumer(GreetOrder).run().await
/// # }
/// ```
pub struct Skald {
    settings: Settings,
    profile: Profile,
    handlers: Vec<Result<Arc<dyn Handler>, SkaldError>>,
    sagas: Vec<Result<Arc<dyn Methods>, SkaldError>>,
}

/// The node could not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SkaldError {
    /// A consumer's event has a `TYPE` that is no pattern.
    #[error("the consumer `{0}` wants events of a type that is no pattern")]
    Type(&'static str, #[source] schemas::InvalidPattern),
    /// The table of a saga has faults that the compiler cannot see.
    #[error("the saga `{0}` cannot be run")]
    Saga(&'static str, #[source] schemas::Faults),
    /// Traces and logs.
    #[error("setting up logs and traces")]
    Telemetry(#[from] telemetry::TelemetryError),
    /// The node.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Skald {
    /// The embedded profile in `./.skald`, on `127.0.0.1:8080`, without keys.
    #[must_use]
    pub fn dev() -> Skald {
        Skald::new(Settings::default(), Profile::Dev)
    }

    /// With these settings.
    #[must_use]
    pub fn new(settings: Settings, profile: Profile) -> Skald {
        Skald { settings, profile, handlers: Vec::new(), sagas: Vec::new() }
    }

    /// Keeps its files in `folder`.
    #[must_use]
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Skald {
        let here = Settings::in_folder(&folder.into());
        self.settings.data = here.data;
        self.settings.log.url = here.log.url;
        self.settings.database.url = here.database.url;
        self
    }

    /// Listens on `address`, such as `127.0.0.1:0`.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Skald {
        self.settings.listen = address.to_owned();
        self
    }

    /// With a consumer of single events.
    #[must_use]
    pub fn consumer<C: Consumer>(mut self, consumer: C) -> Skald {
        let handler = Each::new(consumer, Kind::Rust);
        self.handlers.push(match handler {
            Ok(handler) => Ok(Arc::new(handler)),
            Err(error) => Err(SkaldError::Type(C::NAME, error)),
        });
        self
    }

    /// With a consumer of batches.
    #[must_use]
    pub fn batch_consumer<C: BatchConsumer>(mut self, consumer: C) -> Skald {
        self.handlers.push(Ok(Arc::new(Whole::new(consumer, Kind::Rust))));
        self
    }

    /// With a saga whose steps are methods.
    #[must_use]
    pub fn saga<S: RustSaga>(mut self, saga: S) -> Skald {
        self.sagas.push(match RustMethods::new(saga) {
            Ok(methods) => Ok(Arc::new(methods)),
            Err(faults) => Err(SkaldError::Saga(S::NAME, faults)),
        });
        self
    }

    /// Starts the node and gives it back, for programs that do more than run it.
    ///
    /// # Errors
    /// [`SkaldError`].
    pub async fn start(self) -> Result<Node, SkaldError> {
        let handlers = self.handlers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let sagas = self.sagas.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Node::start(self.settings, self.profile, handlers, sagas).await?)
    }

    /// Runs the node until SIGTERM or Ctrl-C.
    ///
    /// # Errors
    /// [`SkaldError`].
    pub async fn run(self) -> Result<(), SkaldError> {
        let _telemetry = telemetry::init(&self.settings)?;
        let handlers = self.handlers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let sagas = self.sagas.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(crate::server::run(self.settings, self.profile, handlers, sagas).await?)
    }
}

//! Measures this machine: `skald bench`.
//!
//! `log` measures log, consumers, work, outbox and memory, `http` the API, `sagas` and `webhooks`
//! what their names say. A `part` takes its samples and those of its reference in turn, in a fresh
//! `folder` → `samples` reduces them to a median → `report` compares it with its targets and prints. References run here too: a
//! `nats_server` that the bench starts itself, driven by `jetstream`; a server that answers and does
//! nothing (`noop`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

mod api;
mod client;
mod consume;
mod disk;
mod folder;
mod jetstream;
mod latency;
mod load;
mod memory;
mod nats_server;
mod nodes;
mod noop;
mod outbox;
mod process;
mod publish;
mod report;
mod sagas;
mod samples;
mod sink;
mod site;
mod webhooks;
mod work;

use folder::Folder;
use jetstream::JetStream;
use nats_server::NatsServer;
use report::Report;
use site::Site;

/// What to measure.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Measure log, consumers, work, outbox and memory beside a local NATS server.
    Log(LogArgs),
    /// Measure publishing over HTTP beside a server that does nothing.
    Http(Options),
    /// Measure sagas of three steps, and many that wait.
    Sagas(SagasArgs),
    /// Measure webhooks in this program beside a bare client that posts the same.
    Webhooks(WebhooksArgs),
    /// The reference of `http`: answers every publish request at once.
    #[command(hide = true)]
    Noop(noop::NoopArgs),
}

#[derive(Args, Debug)]
struct LogArgs {
    /// The NATS server to compare with [default: in PATH, or in target/venv/bin].
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// Measure these only.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure a log on this broker, beside the same broker driven raw: `nats://HOST:PORT`, where
    /// there are no events yet.
    #[arg(long, value_name = "URL")]
    log: Option<String>,
    /// Measure with databases of their own on this server: `postgres://USER@HOST/NAME`.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Debug)]
struct SagasArgs {
    /// Measure these only.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<sagas::Part>,
    /// Measure on this broker: `nats://HOST:PORT`, where there are no events yet.
    #[arg(long, value_name = "URL", requires = "database")]
    log: Option<String>,
    /// Measure on this database, where there are no sagas yet: `postgres://USER@HOST/NAME`.
    #[arg(long, value_name = "URL", requires = "log")]
    database: Option<String>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Debug)]
struct WebhooksArgs {
    /// Measure these only.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<webhooks::Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Debug)]
struct Options {
    /// Take fewer and shorter samples: a minute instead of ten, and rougher.
    #[arg(long)]
    quick: bool,
    /// Where to measure, which should be the disk that events are kept on; what is put there is
    /// deleted at the end [default: the folder of the configured data].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Print JSON for programs instead of text for people.
    // Global above; named here too, since only then its value is given to this command.
    #[arg(long)]
    json: bool,
}

/// One subject of `bench log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Durable publishing, alone and together.
    Publish,
    /// Consumers and reads over a log that is there.
    Consume,
    /// Two nodes beside one; on a broker and a server only.
    Nodes,
    /// Enqueue, claim and finish.
    Work,
    /// From a staged event to the log.
    Outbox,
    /// From a published event to its consumer's commit.
    Latency,
    /// Resident memory and start time.
    Memory,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Samples of each measurement; their median counts.
    rounds: usize,
    /// Length of a sample that is measured by time.
    sample: Duration,
    /// Events in a log that is read, at least 500,000 unless quick.
    events: u64,
    /// Rows that go through the work engine.
    rows: usize,
    /// Rows that wait in its table beside them, and events that wait in a log: a million, unless
    /// quick.
    waiting: usize,
    /// Events staged for the relay.
    staged: usize,
    /// How long events are published at a fixed rate.
    paced: Duration,
}

impl Extent {
    const FULL: Extent = Extent {
        rounds: 3,
        sample: Duration::from_secs(3),
        events: 500_000,
        rows: 100_000,
        waiting: 1_000_000,
        staged: 200_000,
        paced: Duration::from_secs(10),
    };
    const QUICK: Extent = Extent {
        rounds: 1,
        sample: Duration::from_secs(1),
        events: 100_000,
        rows: 20_000,
        waiting: 200_000,
        staged: 40_000,
        paced: Duration::from_secs(3),
    };
}

/// Runs the benchmarks.
///
/// # Errors
/// One of them cannot run.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.what {
        What::Log(args) => log(args).await,
        What::Http(options) => http(&options).await,
        What::Sagas(args) => sagas(args).await,
        What::Webhooks(args) => webhooks(args).await,
        What::Noop(args) => noop::run(&args).await,
    }
}

async fn log(args: LogArgs) -> anyhow::Result<()> {
    // What a server records while it works is part of what its work costs.
    let mut settings = crate::config::Settings::default();
    "warn".clone_into(&mut settings.logs.filter);
    let telemetry = crate::telemetry::init(&settings)?;
    crate::telemetry::metrics();

    let extent = args.options.extent();
    let folder = Folder::new(args.options.data.as_deref())?;
    let mut report = Report::new(args.options.quick);
    let binary = nats_server::find(args.nats_server)?;
    let server = match &binary {
        _ if args.log.is_some() => None,
        Some(binary) => Some(NatsServer::start(binary, folder.path()).await?),
        None => {
            report.remark(nats_server::HOW_TO_GET_IT);
            None
        }
    };
    let address = args.log.clone().or_else(|| server.as_ref().map(NatsServer::address));
    let reference = match &address {
        Some(address) => Some(JetStream::connect(address).await?),
        None => None,
    };
    let site = Site::new(folder, args.log, args.database);
    let measured = parts(&args.only, extent, &site, reference.as_ref(), &mut report).await;
    telemetry.shutdown();
    report.print(args.options.json)?; // What was measured before one failed counts too.
    measured
}

async fn parts(
    only: &[Part],
    extent: Extent,
    site: &Site,
    reference: Option<&JetStream>,
    report: &mut Report,
) -> anyhow::Result<()> {
    for part in Part::value_variants() {
        if !only.is_empty() && !only.contains(part) {
            continue;
        }
        match part {
            Part::Publish => publish::measure(extent, site, reference, report).await?,
            Part::Consume => consume::measure(extent, site, reference, report).await?,
            Part::Nodes => nodes::measure(extent, site, report).await?,
            Part::Work => work::measure(extent, site, report).await?,
            Part::Outbox => outbox::measure(extent, site, report).await?,
            Part::Latency => latency::measure(extent, site, report).await?,
            // Of the embedded profile alone.
            Part::Memory if site.has_broker() || site.has_server() => {}
            Part::Memory => memory::measure(extent, &site.folder, report).await?,
        }
    }
    Ok(())
}

async fn http(options: &Options) -> anyhow::Result<()> {
    let folder = Folder::new(options.data.as_deref())?;
    let mut report = Report::new(options.quick);
    api::measure(options.extent(), &folder, &mut report).await?;
    report.print(options.json)
}

async fn sagas(args: SagasArgs) -> anyhow::Result<()> {
    let options = &args.options;
    let mut settings = crate::config::Settings::default();
    "warn".clone_into(&mut settings.logs.filter);
    let telemetry = crate::telemetry::init(&settings)?;
    let site = Site::new(Folder::new(options.data.as_deref())?, args.log, args.database);
    let mut report = Report::new(options.quick);
    let measured = sagas::measure(options.extent(), &args.only, &site, &mut report).await;
    telemetry.shutdown();
    report.print(options.json)?;
    measured
}

async fn webhooks(args: WebhooksArgs) -> anyhow::Result<()> {
    let options = &args.options;
    let mut settings = crate::config::Settings::default();
    "warn".clone_into(&mut settings.logs.filter);
    let telemetry = crate::telemetry::init(&settings)?;
    let folder = Folder::new(options.data.as_deref())?;
    let mut report = Report::new(options.quick);
    let measured = webhooks::measure(options.extent(), &args.only, &folder, &mut report).await;
    telemetry.shutdown();
    report.print(options.json)?;
    measured
}

impl Options {
    fn extent(&self) -> Extent {
        if self.quick { Extent::QUICK } else { Extent::FULL }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[arg(long, global = true)]
        json: bool,
        #[command(flatten)]
        bench: BenchArgs,
    }

    #[test]
    fn json_may_stand_before_and_after_the_command() {
        for line in ["skald --json log --quick", "skald log --json --only work,outbox"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let What::Log(args) = cli.bench.what else { panic!("{line}") };
            assert!(args.options.json && cli.json, "{line}");
        }
    }
}

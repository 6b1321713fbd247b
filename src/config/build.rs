//! Settings from entries.

use std::path::PathBuf;

use egress::Network;

use super::reader::{Reader, from_text};
use super::value::Value;
use super::{ByteSize, LogFormat, RetentionRule, Settings, check};

const RETENTION: &str = "log.retention";

/// The settings: the defaults of the data folder, with everything that was set put over them.
pub(super) fn settings(reader: &mut Reader) -> Settings {
    let mut data = PathBuf::from(".skald");
    reader.set(&mut data, "data", |value| check::folder(value.filled()?).map(PathBuf::from));
    let mut settings = Settings::in_folder(&data);
    reader.set(&mut settings.listen, "listen", |value| check::listen(value.text()?));
    reader.set(&mut settings.log.url, "log.url", |value| check::log_url(value.text()?));
    let log = &mut settings.log;
    reader.set(&mut log.stream, "log.stream", |value| check::stream(value.filled()?));
    reader.set(&mut log.replicas, "log.replicas", |value| check::replicas(value.count()?));
    reader.set(&mut log.inbox, "log.inbox", positive_span);
    log.credentials = reader.optional("log.credentials", path);
    log.nkey = reader.optional("log.nkey", path);
    log.token = reader.optional("log.token", path);
    log.tls.ca = reader.optional("log.tls.ca", path);
    log.tls.certificate = reader.optional("log.tls.certificate", path);
    log.tls.key = reader.optional("log.tls.key", path);
    if log.tls.certificate.is_some() != log.tls.key.is_some() {
        reader.table_fault("log.tls", "needs both, a certificate and its key");
    }
    log.retention = retention(reader);
    reader.set(&mut settings.database.url, "database.url", |value| {
        check::database_url(value.text()?)
    });
    let security = &mut settings.security;
    security.admin_key =
        reader.optional("security.admin_key", |value| check::admin_key(value.text()?));
    security.encryption_key =
        reader.optional("security.encryption_key", |value| check::encryption_key(value.text()?));
    security.encryption_key_before = reader
        .optional("security.encryption_key_before", |value| check::encryption_key(value.text()?));
    let webhooks = &mut settings.webhooks;
    reader.set(&mut webhooks.allow_private_networks, "webhooks.allow_private_networks", networks);
    webhooks.proxy = reader.optional("webhooks.proxy", |value| check::proxy(value.text()?));
    reader.set(&mut webhooks.retention, "webhooks.retention", positive_span);
    let sagas = &mut settings.sagas;
    reader.set(&mut sagas.env, "sagas.env", names);
    reader.set(&mut sagas.allow_private_networks, "sagas.allow_private_networks", networks);
    reader.set(&mut sagas.retention, "sagas.retention", positive_span);
    let http = &mut settings.http;
    reader.set(&mut http.timeout, "http.timeout", positive_span);
    reader.set(&mut http.in_flight_max, "http.in_flight_max", Value::count);
    reader.set(&mut http.in_flight_bytes_max, "http.in_flight_bytes_max", |value| {
        check::in_flight_bytes(byte_size(value)?)
    });
    settings.otel.endpoint =
        reader.optional("otel.endpoint", |value| check::http_url(value.text()?));
    reader.set(&mut settings.otel.service_name, "otel.service_name", |value| {
        Ok(value.filled()?.to_owned())
    });
    reader.set(&mut settings.logs.format, "logs.format", log_format);
    reader.set(&mut settings.logs.filter, "logs.filter", |value| check::filter(value.filled()?));
    settings
}

fn retention(reader: &mut Reader) -> Vec<RetentionRule> {
    let positions = reader.positions(RETENTION);
    positions.into_iter().filter_map(|position| rule(reader, position)).collect()
}

fn rule(reader: &mut Reader, position: usize) -> Option<RetentionRule> {
    let table = format!("{RETENTION}[{position}]");
    let faults = reader.faults.len();
    let types = reader.optional(&format!("{table}.type"), from_text);
    let max_age = reader.optional(&format!("{table}.max_age"), positive_span);
    let max_bytes = reader.optional(&format!("{table}.max_bytes"), byte_size);
    if reader.faults.len() > faults {
        return None;
    }
    if types.is_none() {
        reader.table_fault(&table, "needs a type: the pattern of the types it is for");
    } else if max_age.is_none() && max_bytes.is_none() {
        reader.table_fault(&table, "needs a max_age or a max_bytes");
    }
    Some(RetentionRule { types: types?, max_age, max_bytes })
}

fn path(value: &Value) -> Result<PathBuf, String> {
    Ok(PathBuf::from(value.filled()?))
}

fn positive_span(value: &Value) -> Result<bus::Span, String> {
    let span: bus::Span = from_text(value)?;
    if span.0.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(span) }
}

fn byte_size(value: &Value) -> Result<ByteSize, String> {
    match value {
        Value::Number(number) => {
            u64::try_from(*number).map(ByteSize).map_err(|_| "must not be negative".to_owned())
        }
        Value::Plain(_) | Value::Text(_) | Value::List(_) | Value::Other(_) => from_text(value),
    }
}

fn networks(value: &Value) -> Result<Vec<Network>, String> {
    let parse = |text: &str| text.parse::<Network>().map_err(|error| error.to_string());
    value.list()?.into_iter().map(parse).collect()
}

fn names(value: &Value) -> Result<Vec<String>, String> {
    Ok(value.list()?.into_iter().map(ToOwned::to_owned).collect())
}

fn log_format(value: &Value) -> Result<LogFormat, String> {
    match value.text()? {
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("must be pretty or json, not `{other}`")),
    }
}

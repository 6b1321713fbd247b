//! Server-sent events, as the HTML standard defines their form.

use std::time::Duration;

/// Bytes of one message at most: an event of 1 MiB with every character escaped still fits.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Message {
    pub(in super::super) id: Option<String>,
    pub(in super::super) data: String,
    pub(in super::super) retry: Option<Duration>,
}

/// Turns bytes into messages, however they were cut on their way.
#[derive(Debug, Default)]
pub(in super::super) struct Messages {
    unread: Vec<u8>,
    message: Message,
    /// Whether any field of the message was read.
    begun: bool,
}

impl Messages {
    /// The messages that `chunk` completes.
    pub(super) fn read(&mut self, chunk: &[u8]) -> Vec<Message> {
        self.unread.extend_from_slice(chunk);
        let mut complete = Vec::new();
        let mut from = 0;
        while let Some(length) = self.unread[from..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.unread[from..from + length]).into_owned();
            from += length + 1;
            self.line(line.trim_end_matches('\r'), &mut complete);
        }
        self.unread.drain(..from);
        if self.unread.len() + self.message.data.len() > MESSAGE_BYTES_MAX {
            *self = Messages::default();
        }
        complete
    }

    fn line(&mut self, line: &str, complete: &mut Vec<Message>) {
        if line.is_empty() {
            if std::mem::take(&mut self.begun) {
                complete.push(std::mem::take(&mut self.message));
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.message.id = Some(value.to_owned()),
            "retry" => self.message.retry = value.parse().ok().map(Duration::from_millis),
            "data" => {
                if !self.message.data.is_empty() {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            _ => return, // a comment, the kind, or something newer
        }
        self.begun = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let text = b": hello\n\nretry: 250\n\nid: 7\ndata: {\"a\":\ndata: 1}\n\nid: 8\r\ndata:x\r\n\r\nid: 9\n";
        for size in 1..=text.len() {
            let mut messages = Messages::default();
            let read: Vec<_> = text.chunks(size).flat_map(|chunk| messages.read(chunk)).collect();
            assert_eq!(read.len(), 3, "{size}");
            assert_eq!(read[0].retry, Some(Duration::from_millis(250)));
            assert_eq!(read[1].id.as_deref(), Some("7"));
            assert_eq!(read[1].data, "{\"a\":\n1}");
            assert_eq!(read[2].data, "x");
        }
    }
}

//! What an event carries.

use bytes::Bytes;

/// What an event carries beside its attributes. Cloning shares the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    #[default]
    Empty,
    /// A JSON text, byte for byte as its producer wrote it, without white space around it.
    Json(Bytes),
    /// Text in UTF-8, where `datacontenttype` says that it is not JSON.
    Text(Bytes),
    /// Any other bytes.
    Binary(Bytes),
}

impl Data {
    /// The bytes, whatever they mean; none when empty.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Data::Empty => &[],
            Data::Json(bytes) | Data::Text(bytes) | Data::Binary(bytes) => bytes,
        }
    }

    /// The bytes, shared.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Data::Empty => Bytes::new(),
            Data::Json(bytes) | Data::Text(bytes) | Data::Binary(bytes) => bytes.clone(),
        }
    }

    /// True when there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// The kind as a number, for storage beside the bytes. Never changes its meaning.
    #[must_use]
    pub fn kind_code(&self) -> i64 {
        match self {
            Data::Empty => 0,
            Data::Json(_) => 1,
            Data::Text(_) => 2,
            Data::Binary(_) => 3,
        }
    }

    /// The inverse of [`Data::kind_code`]; `None` for a code that no kind has.
    #[must_use]
    pub fn from_code(code: i64, bytes: Bytes) -> Option<Data> {
        match code {
            0 => Some(Data::Empty),
            1 => Some(Data::Json(bytes)),
            2 => Some(Data::Text(bytes)),
            3 => Some(Data::Binary(bytes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_again_by_its_code() {
        let bytes = Bytes::from_static(b"1");
        for data in [Data::Json(bytes.clone()), Data::Text(bytes.clone()), Data::Binary(bytes)] {
            assert_eq!(Data::from_code(data.kind_code(), data.to_bytes()), Some(data));
        }
        assert_eq!(Data::from_code(0, Bytes::new()), Some(Data::Empty));
        assert_eq!(Data::from_code(4, Bytes::new()), None);
    }
}

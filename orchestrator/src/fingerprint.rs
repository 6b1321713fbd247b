//! A short number for a long text: the same on every node and in every version.

/// FNV-1a. Ids of children and of events are made of it, so it never changes.
pub(crate) fn fingerprint(text: &str, salt: u64) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ salt, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_by_it_keeps_its_name() {
        assert_eq!(fingerprint("", 0), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint("a", 0), 0xaf63_dc4c_8601_ec8c);
        assert_ne!(fingerprint("a", 0), fingerprint("a", 1));
    }
}

//! skald

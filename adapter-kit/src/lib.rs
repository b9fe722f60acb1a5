//! Shared by all adapters.

//! CONNECT-IP on tokio.

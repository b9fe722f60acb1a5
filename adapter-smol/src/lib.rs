//! CONNECT-IP on smol.

//! CONNECT-IP on mio.

//! The path itself.

use std::net::Ipv4Addr;

use super::{Subject, Tunnel};
use crate::error::Error;
use crate::lab::SERVER;

/// No tunnel.
pub(super) struct Raw;

impl Subject for Raw {
    fn name(&self) -> &str {
        "raw"
    }

    fn available(&self) -> Result<String, String> {
        Ok("no tunnel".to_owned())
    }

    fn server(&self) -> Ipv4Addr {
        SERVER
    }

    fn start(&self, _: &mut Tunnel<'_>) -> Result<(), Error> {
        Ok(())
    }
}

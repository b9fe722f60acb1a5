//! Yardsticks, built elsewhere: what a tunnel without cryptography, or without a protocol, reaches.

use std::path::PathBuf;

use super::{Role, Subject, Tunnel};
use crate::error::Error;
use crate::lab::{CLIENT, PORT, SERVER};

/// Which yardstick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Forwards super-packets, without cryptography.
    Offload,
    /// Forwards packet by packet, without cryptography.
    Naive,
    /// The thinnest tunnel over quinn-proto.
    Quinn,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Offload, Self::Naive, Self::Quinn];

    const fn parts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Offload => (
                "fwd-offload",
                "tunfwd",
                "offload",
                "no cryptography, offload",
            ),
            Self::Naive => (
                "fwd-naive",
                "tunfwd",
                "naive",
                "no cryptography, packet by packet",
            ),
            Self::Quinn => (
                "qfwd",
                "qfwd",
                "cc=cubic",
                "bare quinn-proto datagrams, offload, no HTTP/3, no policy; AES-128-GCM, Cubic",
            ),
        }
    }
}

/// One yardstick.
pub(super) struct Bound {
    kind: Kind,
    folder: Option<PathBuf>,
}

impl Bound {
    pub(super) const fn new(kind: Kind, folder: Option<PathBuf>) -> Self {
        Self { kind, folder }
    }

    fn program(&self) -> Result<PathBuf, String> {
        let folder = self.folder.as_ref().ok_or("no --bounds given")?;
        let program = folder.join(self.kind.parts().1);
        match program.is_file() {
            true => Ok(program),
            false => Err(format!("{} does not exist", program.display())),
        }
    }
}

impl Subject for Bound {
    fn name(&self) -> &str {
        self.kind.parts().0
    }

    fn available(&self) -> Result<String, String> {
        self.program()?;
        Ok(format!("{}; MTU 1420", self.kind.parts().3))
    }

    fn cipher(&self, _: &Tunnel<'_>) -> Option<String> {
        (self.kind == Kind::Quinn).then(|| "aes-128-gcm".to_owned())
    }

    fn start(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let program = self.program().map_err(Error::Usage)?;
        let mode = self.kind.parts().2;
        let (server, client) = (format!("{SERVER}:{PORT}"), format!("{CLIENT}:{PORT}"));
        for role in [Role::Server, Role::Client] {
            let (own, other) = match role {
                Role::Server => (&server, &client),
                Role::Client => (&client, &server),
            };
            let arguments = match (self.kind, role) {
                (Kind::Quinn, Role::Server) => vec!["server", "fw0", &server, &client, mode],
                (Kind::Quinn, Role::Client) => vec!["client", "fw0", &client, &server, mode],
                _ => vec![mode, "fw0", own, other],
            };
            tunnel.spawn(role, &program, &arguments)?;
            tunnel.wait_link(role, "fw0")?;
            let address = match role {
                Role::Server => "10.77.0.1/24",
                Role::Client => "10.77.0.2/24",
            };
            tunnel
                .lab
                .ip(role.space(), &["addr", "add", address, "dev", "fw0"])?;
            tunnel
                .lab
                .ip(role.space(), &["link", "set", "fw0", "mtu", "1420", "up"])?;
        }
        Ok(())
    }
}

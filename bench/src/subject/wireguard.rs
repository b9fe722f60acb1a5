//! WireGuard in user space: wireguard-go and boringtun, set up by `wg`.

use std::path::{Path, PathBuf};

use super::{Role, Subject, Tunnel, find, version};
use crate::error::Error;
use crate::lab::{PORT, SERVER, run};

const MTU: &str = "1420";

/// A program that takes a device name and listens to `wg`.
pub(super) struct WireGuard {
    name: &'static str,
    program: String,
    arguments: &'static [&'static str],
}

impl WireGuard {
    /// `$WG_GO`, or the one installed. The versions of 2023 and later have offload; the ones before are
    /// five times slower.
    pub(super) fn go() -> Self {
        Self {
            name: "wireguard-go",
            program: std::env::var("WG_GO").unwrap_or_else(|_| "wireguard-go".to_owned()),
            arguments: &["-f"],
        }
    }

    pub(super) fn boringtun() -> Self {
        Self {
            name: "boringtun",
            program: std::env::var("BORINGTUN").unwrap_or_else(|_| "boringtun-cli".to_owned()),
            // It would otherwise look for the login user, whom a bare root lacks.
            arguments: &["-f", "-t", "2", "--disable-drop-privileges", "-v", "error"],
        }
    }
}

impl Subject for WireGuard {
    fn name(&self) -> &str {
        self.name
    }

    fn available(&self) -> Result<String, String> {
        let program = find(&self.program)?;
        find("wg")?;
        let version = version(&program, "--version");
        Ok(format!(
            "{version}; {}; ChaCha20-Poly1305; MTU {MTU}",
            program.display()
        ))
    }

    fn cipher(&self, _: &Tunnel<'_>) -> Option<String> {
        Some("chacha20-poly1305".to_owned())
    }

    fn start(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let program = find(&self.program).map_err(Error::Usage)?;
        let unique = tunnel.lab.tag();
        // The control sockets of both ends lie in one folder: the devices need different names.
        let ends = [
            (Role::Server, format!("mws{unique}"), "10.77.0.1"),
            (Role::Client, format!("mwc{unique}"), "10.77.0.2"),
        ];
        let mut keys = Vec::new();
        for (role, _, _) in &ends {
            let secret = run("wg", &["genkey"])?;
            let file = tunnel.write(&format!("{role:?}.key"), &secret)?;
            keys.push((public_key(&file)?, file.to_string_lossy().into_owned()));
        }
        for (role, device, address) in &ends {
            let arguments: Vec<&str> = self
                .arguments
                .iter()
                .copied()
                .chain([device.as_str()])
                .collect();
            tunnel.spawn(*role, &program, &arguments)?;
            let socket = PathBuf::from(format!("/var/run/wireguard/{device}.sock"));
            tunnel.wait_for(&socket.to_string_lossy(), || socket.exists())?;
            let (port, endpoint) = (PORT.to_string(), format!("{SERVER}:{PORT}"));
            let settings: Vec<&str> = match role {
                Role::Server => vec![
                    "set",
                    device,
                    "listen-port",
                    &port,
                    "private-key",
                    &keys[0].1,
                    "peer",
                    &keys[1].0,
                    "allowed-ips",
                    "10.77.0.2/32",
                ],
                Role::Client => vec![
                    "set",
                    device,
                    "private-key",
                    &keys[1].1,
                    "peer",
                    &keys[0].0,
                    "endpoint",
                    &endpoint,
                    "allowed-ips",
                    "10.77.0.0/24",
                ],
            };
            tunnel.lab.run(role.space(), "wg", &settings)?;
            let address = format!("{address}/24");
            tunnel
                .lab
                .ip(role.space(), &["addr", "add", &address, "dev", device])?;
            tunnel
                .lab
                .ip(role.space(), &["link", "set", device, "mtu", MTU, "up"])?;
        }
        Ok(())
    }
}

fn public_key(secret: &Path) -> Result<String, Error> {
    let script = "wg pubkey < \"$0\"";
    let key = run("sh", &["-c", script, &secret.to_string_lossy()])?;
    Ok(key.trim().to_owned())
}

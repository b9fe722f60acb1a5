//! quincy: a VPN over QUIC datagrams, in Rust on quinn.

use super::{Role, Subject, Tunnel, find, installed, openvpn};
use crate::error::Error;
use crate::lab::{PORT, SERVER, run};

const MTU: u32 = 1400;

/// quincy 3 with certificates. Its cipher cannot be chosen: of AES-256-GCM and ChaCha20-Poly1305, which are
/// all it offers, both ends of the same build take the first.
pub(super) struct Quincy;

impl Subject for Quincy {
    fn name(&self) -> &str {
        "quincy"
    }

    fn available(&self) -> Result<String, String> {
        find("quincy-client")?;
        find("quincy-identity")?;
        find("openssl")?;
        let server = find("quincy-server")?;
        let version = installed(&server, "quincy-server");
        let version = version.unwrap_or_else(|| "quincy, version unknown".to_owned());
        Ok(format!("{version}; AES-256-GCM; Cubic; offload; MTU {MTU}"))
    }

    fn cipher(&self, _: &Tunnel<'_>) -> Option<String> {
        Some("aes-256-gcm".to_owned())
    }

    fn start(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let program = |name: &str| find(name).map_err(Error::Usage);
        openvpn::certificates(tunnel)?;
        let file = |name: &str| tunnel.folder().join(name).to_string_lossy().into_owned();
        let fingerprint = run(
            "quincy-identity",
            &["tls", "fingerprint", "--cert", &file("client.pem")],
        )?;
        let fingerprint = fingerprint.lines().last().unwrap_or_default().to_owned();
        let users = tunnel.write(
            "users.toml",
            &format!("[users.bench]\nauthorized_keys = []\nauthorized_certs = [{fingerprint:?}]\n"),
        )?;
        let common = format!("[connection]\nmtu = {MTU}\n[log]\nlevel = \"info\"\n");
        let tls = "[protocol]\nmode = \"tls\"\nkey_exchange = \"standard\"\n";
        let server = tunnel.write(
            "server.toml",
            &format!(
                "name = \"bench\"\ninterface_name = \"qs0\"\ntunnel_network = \"10.77.0.1/24\"\nusers_file = {users:?}\n\
                 bind_address = \"0.0.0.0\"\nbind_port = {PORT}\n{tls}\
                 certificate_file = {:?}\ncertificate_key_file = {:?}\n{common}",
                file("server.pem"),
                file("server.key"),
            ),
        )?;
        let client = tunnel.write(
            "client.toml",
            &format!(
                "connection_string = \"{SERVER}:{PORT}\"\n{tls}\
                 trusted_certificate_paths = [{:?}]\nclient_certificate_file = {:?}\n\
                 client_certificate_key_file = {:?}\n[network]\ninterface_name = \"qc0\"\nroutes = []\ndns_servers = []\n{common}",
                file("ca.pem"),
                file("client.pem"),
                file("client.key"),
            ),
        )?;
        let (server, client) = (server.to_string_lossy(), client.to_string_lossy());
        tunnel.spawn(
            Role::Server,
            &program("quincy-server")?,
            &["--config-path", &server],
        )?;
        tunnel.wait_link(Role::Server, "qs0")?;
        tunnel.spawn(
            Role::Client,
            &program("quincy-client")?,
            &["--config-path", &client],
        )
    }
}

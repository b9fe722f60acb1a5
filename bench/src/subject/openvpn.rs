//! OpenVPN over UDP, in user space.

use std::fs;

use super::{Role, Subject, Tunnel, find, tunnel, version};
use crate::error::Error;
use crate::lab::{PORT, SERVER, run};

/// OpenVPN with certificates and AES-128-GCM.
pub(super) struct OpenVpn;

impl Subject for OpenVpn {
    fn name(&self) -> &str {
        "openvpn"
    }

    fn available(&self) -> Result<String, String> {
        let program = find("openvpn")?;
        find("openssl")?;
        let version = version(&program, "--version");
        let words: Vec<&str> = version.split(' ').take(2).collect();
        Ok(format!(
            "{}; AES-128-GCM; fast-io, no kernel offload",
            words.join(" ")
        ))
    }

    fn cipher(&self, _: &Tunnel<'_>) -> Option<String> {
        Some("aes-128-gcm".to_owned())
    }

    fn start(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let program = find("openvpn").map_err(Error::Usage)?;
        certificates(tunnel)?;
        let file = |name: &str| tunnel.folder().join(name).to_string_lossy().into_owned();
        let (ca, port, to) = (file("ca.pem"), PORT.to_string(), SERVER.to_string());
        let (server, server_key) = (file("server.pem"), file("server.key"));
        let (client, client_key) = (file("client.pem"), file("client.key"));
        let common = [
            "--dev-type",
            "tun",
            "--proto",
            "udp",
            "--data-ciphers",
            "AES-128-GCM",
            "--ca",
            &ca,
            "--disable-dco",
            "--fast-io",
            "--sndbuf",
            "4194304",
            "--rcvbuf",
            "4194304",
            "--txqueuelen",
            "1000",
            "--verb",
            "3",
        ];
        let server = [
            "--dev",
            "ovs0",
            "--dh",
            "none",
            "--port",
            &port,
            "--server",
            "10.77.0.0",
            "255.255.255.0",
            "--topology",
            "subnet",
            "--keepalive",
            "10",
            "60",
            "--cert",
            &server,
            "--key",
            &server_key,
        ];
        let client = [
            "--dev",
            "ovc0",
            "--client",
            "--nobind",
            "--remote",
            &to,
            &port,
            "--cert",
            &client,
            "--key",
            &client_key,
        ];
        tunnel.spawn(Role::Server, &program, &[&common[..], &server[..]].concat())?;
        tunnel.wait_link(Role::Server, "ovs0")?;
        tunnel.spawn(Role::Client, &program, &[&common[..], &client[..]].concat())
    }
}

/// A throw-away authority and a certificate for each end, by openssl.
pub(super) fn certificates(tunnel: &tunnel::Tunnel<'_>) -> Result<(), Error> {
    let file = |name: &str| tunnel.folder().join(name).to_string_lossy().into_owned();
    let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
    let new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let openssl = |parts: &[&[&str]]| run("openssl", &parts.concat());
    openssl(&[
        &["req", "-x509"],
        &new_key,
        &[
            "-days",
            "30",
            "-subj",
            "/CN=bench-ca",
            "-keyout",
            &ca_key,
            "-out",
            &ca,
        ],
    ])?;
    for who in ["server", "client"] {
        let names = format!(
            "subjectAltName=DNS:{who},IP:{SERVER}\nextendedKeyUsage=serverAuth,clientAuth\n"
        );
        let extensions = tunnel.write(&format!("{who}.ext"), &names)?;
        let (key, request) = (file(&format!("{who}.key")), file(&format!("{who}.csr")));
        let (certificate, subject) = (file(&format!("{who}.pem")), format!("/CN={who}"));
        openssl(&[
            &["req"],
            &new_key,
            &["-subj", &subject, "-keyout", &key, "-out", &request],
        ])?;
        openssl(&[&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "30",
            "-out",
            &certificate,
            "-extfile",
            &extensions.to_string_lossy(),
        ]])?;
        let _ = fs::remove_file(request);
    }
    Ok(())
}

//! `masque check`: is this configuration right, and is this host fit for it?

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use masque_adapter_kit::{TunConfig, TunDevice, UdpConfig};

use crate::config::shared::{TransportSection, TunSection};
use crate::config::{ClientFile, Schema, ServerFile, Source};
use crate::exit::{Exit, Failure};
use crate::tls::Credentials;

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Finding {
    /// As it should be.
    Good(String),
    /// It will work, but not as well as it could.
    Warning(String),
    /// It will not work.
    Problem(Exit, String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(text) => write!(f, "ok       {text}"),
            Self::Warning(text) => write!(f, "warning  {text}"),
            Self::Problem(_, text) => write!(f, "problem  {text}"),
        }
    }
}

/// Looks at a configuration and at the host, prints what it finds, and changes nothing.
///
/// # Errors
/// The configuration is wrong, or the host is not fit.
pub fn run(path: &Path) -> Result<(), Failure> {
    let source = Source::read(path)?;
    let findings = match source.schema()? {
        Schema::Server if !cfg!(feature = "server") => {
            return Err(source.whole("a server's configuration, but this program is a client only"));
        }
        Schema::Server => server(&source)?,
        Schema::Client => client(&source)?,
    };
    let mut problems = 0;
    let mut worst = Exit::Ok;
    for finding in &findings {
        println!("{finding}");
        if let Finding::Problem(code, _) = finding {
            problems += 1;
            if worst == Exit::Ok {
                worst = *code;
            }
        }
    }
    match problems {
        0 => Ok(()),
        count => Err(Failure::new(
            worst,
            format!("{count} problem(s) with {}", path.display()),
        )),
    }
}

fn server(source: &Source) -> Result<Vec<Finding>, Failure> {
    let settings = ServerFile::load(source)?;
    let mut findings = vec![Finding::Good(format!(
        "configuration: a server for {}",
        crate::app::list(&settings.pools)
    ))];
    for (template, _) in &settings.templates {
        findings.push(Finding::Good(format!("answers under {template}")));
    }
    findings.extend(certificate(&settings.credentials));
    findings.extend(shards(settings.shards.get().into()));
    for listen in &settings.listen {
        findings.push(socket(*listen, &settings.transport));
    }
    findings.push(tun(&settings.tun));
    for v6 in [false, true] {
        if settings
            .pools
            .iter()
            .any(|pool| pool.address().is_ipv6() == v6)
        {
            findings.push(forwarding(v6));
        }
    }
    if settings.firewall {
        findings.push(nft(Finding::Problem(
            Exit::Host,
            "the program `nft` is missing or does not run; the server needs it to protect this host: install nftables".to_owned(),
        )));
    } else {
        findings.push(Finding::Warning(
            "firewall = false: nothing keeps clients from this host but your own rules".to_owned(),
        ));
    }
    findings.push(folder(&settings.state_dir));
    findings.push(buffers(&settings.transport));
    Ok(findings)
}

fn client(source: &Source) -> Result<Vec<Finding>, Failure> {
    let settings = ClientFile::load(source)?;
    let (host, port) = &settings.connect;
    let mut findings = vec![Finding::Good(format!(
        "configuration: a client of {host}, port {port}"
    ))];
    findings.extend(certificate(&settings.credentials));
    if settings.credentials.described().is_none() {
        findings.push(Finding::Warning(
            "no certificate of our own: most servers demand one".to_owned(),
        ));
    }
    findings.push(resolve(host, *port));
    findings.push(tun(&settings.tun));
    findings.push(nft(Finding::Warning(
        "the program `nft` is missing or does not run: packets for tunnel addresses that arrive outside the tunnel will not be dropped".to_owned(),
    )));
    findings.push(buffers(&settings.transport));
    Ok(findings)
}

fn certificate(credentials: &Credentials) -> Option<Finding> {
    let described = credentials.described()?;
    let name = described.identity().unwrap_or("nobody").to_owned();
    Some(match described.unusable_at(SystemTime::now()) {
        Some(why) => Finding::Problem(Exit::Config, format!("the certificate of {name} {why}")),
        None => Finding::Good(format!(
            "the certificate of {name} is valid until {}",
            described.not_after.1
        )),
    })
}

fn shards(shards: usize) -> Option<Finding> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    match shards {
        1 => None,
        _ if shards > processors => Some(Finding::Warning(format!(
            "{shards} shards on {processors} processor(s) wait for each other: shards = \"auto\" fits"
        ))),
        _ => Some(Finding::Good(format!(
            "{shards} shards on {processors} processors"
        ))),
    }
}

fn problem(what: impl fmt::Display, error: &std::io::Error) -> Finding {
    let failure = Failure::system(what, error);
    Finding::Problem(failure.code, failure.message)
}

fn socket(listen: SocketAddr, transport: &TransportSection) -> Finding {
    let config = UdpConfig {
        receive_buffer: transport.socket_buffer(),
        send_buffer: transport.socket_buffer(),
        ..UdpConfig::new(listen)
    };
    match config.bind() {
        Ok(_) => Finding::Good(format!("UDP {listen} is free")),
        Err(error) => problem(format!("cannot bind UDP {listen}"), &error),
    }
}

fn tun(tun: &TunSection) -> Finding {
    let name = tun.name.get_ref();
    if Path::new("/sys/class/net").join(name).exists() {
        return Finding::Problem(
            Exit::Host,
            format!("a device {name} exists already (is another instance running?)"),
        );
    }
    // A name of its own: the real one must not appear on the host, be it for a moment.
    let config = TunConfig {
        name: Some("masqcheck%d".to_owned()),
        mtu: 1280,
        offload: tun.offload,
        queue: None,
        up: false,
    };
    match TunDevice::create(&config) {
        Ok(device) if tun.offload && !device.offload().tcp => Finding::Warning(
            "TUN works, but without segmentation offload: expect half the speed".to_owned(),
        ),
        Ok(_) => Finding::Good("TUN devices can be made".to_owned()),
        Err(error) => problem("cannot make a TUN device", &error),
    }
}

fn forwarding(v6: bool) -> Finding {
    let path = match v6 {
        true => "/proc/sys/net/ipv6/conf/all/forwarding",
        false => "/proc/sys/net/ipv4/ip_forward",
    };
    let version = if v6 { "IPv6" } else { "IPv4" };
    match fs::read_to_string(path) {
        Ok(value) if value.trim() == "1" => {
            Finding::Good(format!("{version} forwarding is on ({path})"))
        }
        Ok(_) if is_writable(path) => Finding::Good(format!(
            "{version} forwarding is off ({path}); the server turns it on while it runs"
        )),
        Ok(_) => Finding::Problem(
            Exit::Permission,
            format!("{version} forwarding is off and {path} cannot be written"),
        ),
        Err(error) => problem(
            format!("{version} is not available in this kernel ({path})"),
            &error,
        ),
    }
}

fn is_writable(path: &str) -> bool {
    fs::OpenOptions::new().write(true).open(path).is_ok()
}

fn nft(otherwise: Finding) -> Finding {
    let runs = Command::new("nft")
        .args(["--json", "list", "tables"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    match runs {
        true => Finding::Good("nftables can be used".to_owned()),
        false => otherwise,
    }
}

fn folder(state_dir: &Path) -> Finding {
    let mut nearest = state_dir;
    while !nearest.exists() {
        match nearest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => nearest = parent,
            _ => {
                nearest = Path::new(".");
                break;
            }
        }
    }
    match tempfile::tempfile_in(nearest) {
        Ok(_) => Finding::Good(format!("state is kept in {}", state_dir.display())),
        Err(error) => problem(format!("cannot write to {}", nearest.display()), &error),
    }
}

fn buffers(transport: &TransportSection) -> Finding {
    let wanted = transport.socket_buffer();
    let most = |path: &str| {
        fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
    };
    let limits = [
        ("net.core.rmem_max", most("/proc/sys/net/core/rmem_max")),
        ("net.core.wmem_max", most("/proc/sys/net/core/wmem_max")),
    ];
    let short: Vec<String> = limits
        .iter()
        .filter(|(_, limit)| limit.is_some_and(|limit| limit < wanted))
        .map(|(name, _)| format!("{name}={wanted}"))
        .collect();
    match short.is_empty() {
        true => Finding::Good(format!("UDP socket buffers of {wanted} bytes are possible")),
        false => Finding::Warning(format!(
            "UDP socket buffers will be smaller than {wanted} bytes; for bulk speed: sysctl -w {}",
            short.join(" ")
        )),
    }
}

fn resolve(host: &str, port: u16) -> Finding {
    use std::net::ToSocketAddrs;
    if host.parse::<IpAddr>().is_ok() {
        return Finding::Good(format!("the server's address is {host}"));
    }
    match (host, port).to_socket_addrs().map(|mut all| all.next()) {
        Ok(Some(address)) => Finding::Good(format!("{host} resolves to {}", address.ip())),
        Ok(None) => Finding::Problem(Exit::Unreachable, format!("{host} has no address")),
        Err(error) => {
            Finding::Problem(Exit::Unreachable, format!("cannot resolve {host}: {error}"))
        }
    }
}

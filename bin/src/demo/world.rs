//! The real way: two namespaces, two processes, two TUN devices, the kernel's own stacks.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::interrupt::Children;
use super::transfer::Direction;
use super::{
    DemoArgs, Files, GATEWAYS, PATIENCE, PORT, broken, interrupt, judge_pings, kernel, last_lines,
    namespace, print_transfer,
};
use crate::app::host_failure;
use crate::exit::Failure;
use crate::host::HostNet;

/// The underlay: what the server's and the client's ends of the veth pair have.
const SERVER: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.2";

/// Runs the demo in namespaces; the process is left in the server's.
pub(super) fn run(args: &DemoArgs, folder: &Path) -> Result<(), Failure> {
    namespace::enter()?;
    let children = interrupt::watch(folder.to_owned())?;
    let (namespaces, namespace) = mpsc::channel();
    let (ready, go) = mpsc::channel();
    let job = ClientJob {
        folder: folder.to_owned(),
        pings: args.pings,
        bytes: args.mib << 20,
        children: children.clone(),
    };
    // A namespace belongs to a thread: this one holds the client's.
    let client_side = thread::spawn(move || {
        match namespace::split() {
            Ok(handle) => namespaces.send(Ok(handle)),
            Err(failure) => namespaces.send(Err(failure)),
        }
        .map_err(|_| broken("nobody waits"))?;
        // Closed without a word where the server's side failed.
        match go.recv() {
            Ok(()) => job.run(),
            Err(_) => Ok(()),
        }
    });
    let handle = namespace
        .recv()
        .map_err(|_| broken("the client's thread is gone"))??;
    let mut server = ServerSide::start(folder, &handle, &children)?;
    ready
        .send(())
        .map_err(|_| broken("the client's thread is gone"))?;
    let client = client_side
        .join()
        .map_err(|_| broken("the client's thread panicked"))?;
    let server = server.process.stop();
    client.and(server)
}

/// The server's namespace: the veth pair, the server, and what answers transfers.
struct ServerSide {
    process: Process,
    _host: HostNet,
}

impl ServerSide {
    fn start(folder: &Path, client: &File, children: &Children) -> Result<Self, Failure> {
        use std::os::fd::AsFd;
        let failed = |error| host_failure(&error);
        let run_dir = folder.join("run");
        let mut host = HostNet::open("demo-server", Some(&run_dir)).map_err(failed)?;
        host.set_up("lo", None).map_err(failed)?;
        host.create_veth("under0", "under1").map_err(failed)?;
        host.move_to_namespace("under1", client.as_fd())
            .map_err(failed)?;
        underlay(&mut host, "under0", SERVER)?;
        kernel::serve(PORT)?;
        let files = Files::make(folder, SERVER)?;
        let firewall = namespace::has_nftables();
        if !firewall {
            println!("  note         no nftables here: the server runs without its packet filter");
        }
        let more = format!("firewall = {firewall}\n[tun]\nname = \"masque0\"\nrun_dir = \"run\"\n");
        let listen = format!("{SERVER}:4433");
        let config = files.server(&listen, &more)?;
        files.client(&listen, "[tun]\nname = \"masque1\"\nrun_dir = \"run\"\n")?;
        let mut process = Process::start("server", &config, folder, children)?;
        process.wait_for("server ready")?;
        println!("  server       {listen} in a network namespace of its own");
        Ok(Self {
            process,
            _host: host,
        })
    }
}

fn underlay(host: &mut HostNet, link: &str, address: &str) -> Result<(), Failure> {
    let failed = |error| host_failure(&error);
    let invalid = |_| broken("underlay address");
    let net: ipnet::IpNet = format!("{address}/24")
        .parse()
        .map_err(|_| broken(address))?;
    host.replace_addresses(link, &[net]).map_err(failed)?;
    host.set_up(link, None).map_err(failed)?;
    let prefix = masque_core::wire::prefix::IpPrefix::new(net.network(), 24).map_err(invalid)?;
    host.replace_routes(link, crate::host::Table::MAIN, &[prefix])
        .map_err(failed)
}

/// What happens in the client's namespace.
struct ClientJob {
    folder: PathBuf,
    pings: u16,
    bytes: u64,
    children: Children,
}

impl ClientJob {
    fn run(&self) -> Result<(), Failure> {
        let run_dir = self.folder.join("run");
        let failed = |error| host_failure(&error);
        let mut host = HostNet::open("demo-client", Some(&run_dir)).map_err(failed)?;
        host.set_up("lo", None).map_err(failed)?;
        underlay(&mut host, "under1", CLIENT)?;
        let config = self.folder.join("client.toml");
        let mut client = Process::start("client", &config, &self.folder, &self.children)?;
        let result = self.traffic(&mut client);
        let stopped = client.stop();
        result.and(stopped)
    }

    fn traffic(&self, client: &mut Process) -> Result<(), Failure> {
        println!("  client       {CLIENT} in another, joined by a veth pair");
        // Addresses, routes and MTU come in any order.
        let mut told = [
            ("addresses", "addresses", None),
            ("routes", "advertised", None),
            ("MTU", "mtu", None),
        ];
        while told.iter().any(|(_, _, value)| value.is_none()) {
            let line = client.next_line()?;
            for (message, field, value) in &mut told {
                if line["message"] == *message {
                    *value = Some(match &line[*field] {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    });
                }
            }
        }
        for (name, _, value) in &told {
            println!("  {name:<12} {}", value.as_deref().unwrap_or_default());
        }
        for gateway in GATEWAYS {
            let address: IpAddr = gateway.parse().map_err(|_| broken(gateway))?;
            judge_pings(gateway, &kernel::ping(address, self.pings)?)?;
        }
        for gateway in GATEWAYS {
            let address: IpAddr = gateway.parse().map_err(|_| broken(gateway))?;
            for direction in [Direction::Up, Direction::Down] {
                let to = SocketAddr::new(address, PORT);
                let time = kernel::transfer(direction, to, self.bytes)?;
                print_transfer(direction, gateway, self.bytes, time);
            }
        }
        Ok(())
    }
}

/// A server or client as anyone would start it, its log read line by line.
struct Process {
    name: &'static str,
    child: Child,
    lines: mpsc::Receiver<Value>,
    log: PathBuf,
    children: Children,
}

impl Process {
    fn start(
        name: &'static str,
        config: &Path,
        folder: &Path,
        children: &Children,
    ) -> Result<Self, Failure> {
        let failed = |error| Failure::system(format!("cannot start the {name}"), &error);
        let mut child = Command::new("/proc/self/exe")
            .args(["--log-format", "json", name, "-c"])
            .arg(config)
            .env("MASQUE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let children = children.clone();
        if let Some(pid) = pid_of(&child) {
            children.add(pid);
        }
        let log = folder.join(format!("{name}.log"));
        let mut file = File::create(&log).map_err(failed)?;
        let (sender, lines) = mpsc::channel();
        let stderr = child.stderr.take();
        thread::spawn(move || {
            let Some(stderr) = stderr else { return };
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                tracing::debug!(process = name, "{line}");
                // A full disk does not matter here; the log is for error messages.
                let _ = writeln!(file, "{line}");
                if let Ok(mut value) = serde_json::from_str::<Value>(&line) {
                    if let Some(fields) = value.get_mut("fields") {
                        value = fields.take();
                    }
                    if sender.send(value).is_err() {
                        continue;
                    }
                }
            }
        });
        Ok(Self {
            name,
            child,
            lines,
            log,
            children,
        })
    }

    fn next_line(&mut self) -> Result<Value, Failure> {
        self.lines.recv_timeout(PATIENCE).map_err(|_| {
            broken(format!(
                "the {} did not get on; its last words:\n{}",
                self.name,
                last_lines(&self.log)
            ))
        })
    }

    fn wait_for(&mut self, message: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.next_line()?["message"] == message {
                return Ok(());
            }
        }
        Err(broken(format!("the {} never said {message:?}", self.name)))
    }

    /// SIGTERM, and its exit code.
    fn stop(&mut self) -> Result<(), Failure> {
        self.signal(Signal::SIGTERM);
        let status = self
            .child
            .wait()
            .map_err(|error| Failure::system(format!("the {}", self.name), &error))?;
        match status.success() {
            true => Ok(()),
            false => Err(broken(format!(
                "the {} ended with {status}; its last words:\n{}",
                self.name,
                last_lines(&self.log)
            ))),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = pid_of(&self.child) {
            // Not yet waited for, so the number cannot be another process's.
            let _ = kill(pid, signal);
            self.children.remove(pid);
        }
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().map(Pid::from_raw)
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGTERM);
            // Gone in any case: SIGTERM ends it within its grace.
            let _ = self.child.wait();
        }
    }
}

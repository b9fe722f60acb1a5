//! Our own binaries, with certificates and configurations made on the fly.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Places, Role, Subject, Tunnel, version};
use crate::error::Error;
use crate::lab::{PORT, SERVER, run};

/// Our three binaries with other settings: `NAME:KEY=VALUE,…`, in the words of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// What is added to the names in the tables.
    pub name: String,
    /// Lines of TOML for both ends, or for the one that they begin with: `server.` or `client.`.
    pub settings: Vec<String>,
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not NAME:KEY=VALUE[,KEY=VALUE…]");
        let (name, settings) = text.split_once(':').ok_or_else(wrong)?;
        let settings: Vec<String> = settings.split(',').map(str::to_owned).collect();
        if name.is_empty() || settings.iter().any(|setting| !setting.contains('=')) {
            return Err(wrong());
        }
        let name = name.to_owned();
        Ok(Self { name, settings })
    }
}

impl Variant {
    /// ChaCha20-Poly1305, as WireGuard has: `-chacha`, always there.
    pub(super) fn chacha20() -> Self {
        Self {
            name: CHACHA20.to_owned(),
            settings: vec!["transport.ciphers = [\"chacha20-poly1305\"]".to_owned()],
        }
    }

    /// What is added to a program's name. A plus marks what the command line has added.
    fn suffix(&self) -> String {
        match *self == Self::chacha20() {
            true => format!("-{}", self.name),
            false => format!("+{}", self.name),
        }
    }
}

/// The name of the variant that is always there.
const CHACHA20: &str = "chacha";

/// One of our binaries, or one of the same command line to hold them against.
pub(super) struct Masque {
    name: String,
    program: String,
    places: Vec<PathBuf>,
    variant: Option<Variant>,
    ours: bool,
}

impl Masque {
    pub(super) fn new(runtime: &str, places: &Places, variant: Option<Variant>) -> Self {
        let program = format!("masque-{runtime}");
        Self::of(program, places, variant, true)
    }

    /// Tasks and channels: packets one by one, which is what the style amounts to.
    pub(super) fn idiomatic(runtime: &str, places: &Places) -> Self {
        let one_by_one = Variant {
            name: String::new(),
            settings: vec![
                "tun.offload = false".to_owned(),
                "transport.gro = false".to_owned(),
            ],
        };
        let program = format!("masque-idiomatic-{runtime}");
        Self {
            name: program.clone(),
            ..Self::of(program, places, Some(one_by_one), false)
        }
    }

    fn of(program: String, places: &Places, variant: Option<Variant>, ours: bool) -> Self {
        let beside = std::env::current_exe()
            .ok()
            .and_then(|path| path.parent().map(Path::to_owned));
        let places = match &places.bin_dir {
            Some(folder) => vec![folder.clone()],
            None => beside
                .into_iter()
                .chain([PathBuf::from("target/release")])
                .collect(),
        };
        Self {
            name: match &variant {
                Some(variant) => format!("{program}{}", variant.suffix()),
                None => program.clone(),
            },
            program,
            places,
            variant,
            ours,
        }
    }

    fn find(&self) -> Option<PathBuf> {
        self.places
            .iter()
            .map(|folder| folder.join(&self.program))
            .find(|path| path.is_file())
            .and_then(|path| path.canonicalize().ok())
    }

    fn settings(&self, role: Role, device: &str, folder: &str) -> String {
        let own = self.variant.iter().flat_map(|variant| &variant.settings);
        // Other tunnels over QUIC have Cubic, and are compared with by it.
        let control = match own
            .clone()
            .any(|line| line.contains("transport.congestion"))
        {
            true => "",
            false => "transport.congestion = \"cubic\"\n",
        };
        let own: String = own
            .filter_map(|line| for_end(line, role))
            .map(|line| format!("{line}\n"))
            .collect();
        format!("tun.name = {device:?}\ntun.run_dir = {folder:?}\n{control}{own}")
    }

    fn server(&self) -> String {
        format!(
            "listen = [\"0.0.0.0:{PORT}\"]\n\
             certificate = \"server.pem\"\n\
             key = \"server.key\"\n\
             ca = \"ca.pem\"\n\
             pools = [\"10.77.0.0/24\", \"fd77::/64\"]\n\
             routes = [\"10.77.0.0/24\", \"fd77::/64\"]\n\
             allow_gateway = true\n\
             state_dir = \"state\"\n\
             {}",
            self.settings(Role::Server, "mqs0", "run-server")
        )
    }

    /// The configuration of the client called `name`.
    fn client(&self, name: &str) -> String {
        format!(
            "url = \"https://{SERVER}:{PORT}/.well-known/masque/ip/{{target}}/{{ipproto}}/\"\n\
             ca = \"ca.pem\"\n\
             certificate = \"{name}.pem\"\n\
             key = \"{name}.key\"\n\
             {}",
            self.settings(Role::Client, "mqc0", &format!("run-{name}"))
        )
    }
}

/// How often a second client is started to find it on another shard: a random number decides.
const TRIES: u32 = 30;

/// Calls our program for certificates.
fn pki(program: &Path, folder: &str, arguments: &[&str]) -> Result<String, Error> {
    let all: Vec<&str> = ["pki"]
        .into_iter()
        .chain(arguments.iter().copied())
        .chain(["--dir", folder])
        .collect();
    run(&program.to_string_lossy(), &all)
}

/// The line of TOML that a setting is for this end, if it is for it.
fn for_end(setting: &str, role: Role) -> Option<&str> {
    match (setting.split_once('.'), role) {
        (Some(("server", line)), Role::Server) | (Some(("client", line)), Role::Client) => {
            Some(line)
        }
        (Some(("server" | "client", _)), _) => None,
        _ => Some(setting),
    }
}

impl Subject for Masque {
    fn name(&self) -> &str {
        &self.name
    }

    fn available(&self) -> Result<String, String> {
        let Some(program) = self.find() else {
            let places: Vec<_> = self
                .places
                .iter()
                .map(|place| place.display().to_string())
                .collect();
            return Err(format!(
                "no {} in {} (cargo build --release -p masque -p masque-bench, or --bin-dir)",
                self.program,
                places.join(", ")
            ));
        };
        let settings = match &self.variant {
            Some(variant) => variant.settings.join(", "),
            None => "default settings, but Cubic".to_owned(),
        };
        Ok(format!("{}; {settings}", version(&program, "--version")))
    }

    fn start(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let program = self
            .find()
            .ok_or_else(|| Error::Usage(format!("no {}", self.program)))?;
        let folder = tunnel.folder().to_string_lossy().into_owned();
        let pki = |arguments: &[&str]| pki(&program, &folder, arguments);
        pki(&["init"])?;
        pki(&["issue", "--server", &SERVER.to_string(), "--out", "server"])?;
        pki(&["issue", "--client", "bench", "--out", "client"])?;
        let server = tunnel.write("server.toml", &self.server())?;
        let client = tunnel.write("client.toml", &self.client("client"))?;
        let start = |path: &Path| path.to_string_lossy().into_owned();
        tunnel.spawn(Role::Server, &program, &["server", "-c", &start(&server)])?;
        tunnel.wait_link(Role::Server, "mqs0")?;
        tunnel.spawn(Role::Client, &program, &["client", "-c", &start(&client)])
    }

    fn start_second(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let program = self
            .find()
            .ok_or_else(|| Error::Usage(format!("no {}", self.program)))?;
        let folder = tunnel.folder().to_string_lossy().into_owned();
        let issue = ["issue", "--client", "second", "--out", "second"];
        pki(&program, &folder, &issue)?;
        let path = tunnel.write("second.toml", &self.client("second"))?;
        let path = path.to_string_lossy().into_owned();
        for _ in 0..TRIES {
            tunnel.spawn_second(&program, &["client", "-c", &path])?;
            let alone = tunnel.server_said("shards") == ["1"];
            let shards = tunnel.server_said("shard");
            if alone || shards.first() != shards.last() {
                return Ok(());
            }
        }
        let text = "the second client is on the first one's shard, again and again";
        Err(Error::Timeout(text.to_owned()))
    }

    fn cipher(&self, tunnel: &Tunnel<'_>) -> Option<String> {
        let log = tunnel.log(Role::Client);
        let (_, rest) = log.rsplit_once("cipher=\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    }

    fn is_ours(&self) -> bool {
        self.ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_name_and_settings_and_adds_its_name() {
        let variant: Variant = "nogso:transport.gso=false,tun.offload=false"
            .parse()
            .expect("a variant");
        assert_eq!(
            variant.settings,
            ["transport.gso=false", "tun.offload=false"]
        );
        let places = Places::default();
        let name = |variant| Masque::new("mio", &places, variant).name;
        assert_eq!(name(None), "masque-mio");
        assert_eq!(name(Some(variant)), "masque-mio+nogso");
        assert_eq!(name(Some(Variant::chacha20())), "masque-mio-chacha");
        for wrong in ["", "name", ":a=b", "name:word"] {
            assert!(wrong.parse::<Variant>().is_err(), "{wrong}");
        }
    }
}

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
    /// Lines of TOML for both ends.
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
                Some(variant) => format!("{program}+{}", variant.name),
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

    fn settings(&self, device: &str, folder: &str) -> String {
        let own = self.variant.iter().flat_map(|variant| &variant.settings);
        let own: String = own.map(|line| format!("{line}\n")).collect();
        format!("tun.name = {device:?}\ntun.run_dir = {folder:?}\n{own}")
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
            self.settings("mqs0", "run-server")
        )
    }

    fn client(&self) -> String {
        format!(
            "url = \"https://{SERVER}:{PORT}/.well-known/masque/ip/{{target}}/{{ipproto}}/\"\n\
             ca = \"ca.pem\"\n\
             certificate = \"client.pem\"\n\
             key = \"client.key\"\n\
             {}",
            self.settings("mqc0", "run-client")
        )
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
            None => "default settings".to_owned(),
        };
        Ok(format!("{}; {settings}", version(&program, "--version")))
    }

    fn start(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let program = self
            .find()
            .ok_or_else(|| Error::Usage(format!("no {}", self.program)))?;
        let folder = tunnel.folder().to_string_lossy().into_owned();
        let pki = |arguments: &[&str]| {
            let all: Vec<&str> = ["pki"]
                .into_iter()
                .chain(arguments.iter().copied())
                .chain(["--dir", &folder])
                .collect();
            run(&program.to_string_lossy(), &all)
        };
        pki(&["init"])?;
        pki(&["issue", "--server", &SERVER.to_string(), "--out", "server"])?;
        pki(&["issue", "--client", "bench", "--out", "client"])?;
        let server = tunnel.write("server.toml", &self.server())?;
        let client = tunnel.write("client.toml", &self.client())?;
        let start = |path: &Path| path.to_string_lossy().into_owned();
        tunnel.spawn(Role::Server, &program, &["server", "-c", &start(&server)])?;
        tunnel.wait_link(Role::Server, "mqs0")?;
        tunnel.spawn(Role::Client, &program, &["client", "-c", &start(&client)])
    }

    fn is_ours(&self) -> bool {
        self.ours
    }
}

//! Writes the scripts that are made from `testdata/vectors.json`: each error case as a peer's deed.
//!
//! What a vector leaves out is added here: what comes before its bytes, who the subject is, and how
//! free the standards leave the subject.

use std::fmt::Write as _;

use serde_json::Value;

/// A file of scripts made from vectors: its name and its text.
pub type File = (&'static str, String);

/// What the vectors begin a request stream with; our own request stands in for it, so that the scripts
/// can be run against any server.
const REQUEST: &str = "0140590000cf27023a70726f746f636f6c0a636f6e6e6563742d6970d7500b6578616d706c652e6f7267511b2f2e77656c6c2d6b6e6f776e2f6d61737175652f69702f2a2f2a2f270963617073756c652d70726f746f636f6c023f31";

/// The default template's path up to its variables.
const WELL_KNOWN: &str = "/.well-known/masque/ip";

/// Vectors that no peer can play, or that say nothing about the core.
fn is_elsewhere(name: &str) -> bool {
    name.starts_with("capsule-dns") || name.starts_with("capsule-pref64")
}

/// All files.
///
/// # Errors
/// What is wrong with the vectors.
pub fn files(vectors: &str) -> Result<Vec<File>, serde_json::Error> {
    let vectors: Vec<Value> = serde_json::from_str(vectors)?;
    let groups: [(&str, &[&str]); 6] = [
        ("vectors-capsules.toml", &["capsule", "capsule-stream"]),
        ("vectors-datagrams.toml", &["http3-datagram", "ip-packet"]),
        ("vectors-fields.toml", &["qpack-field-section"]),
        (
            "vectors-qpack.toml",
            &["qpack-encoder-stream", "qpack-decoder-stream"],
        ),
        (
            "vectors-streams.toml",
            &["h3-uni-stream", "h3-request-stream", "settings-frame"],
        ),
        ("vectors-paths.toml", &["uri"]),
    ];
    Ok(groups
        .into_iter()
        .map(|(file, kinds)| {
            let mut out =
                "# Made from testdata/vectors.json by testkit/src/hostile/vectors.rs.\n".to_owned();
            let of_kind = |v: &&Value| kinds.contains(&text(v, "kind"));
            for vector in vectors.iter().filter(of_kind) {
                if let Some(script) = script(vector) {
                    script.write(vector, &mut out);
                }
            }
            (file, out)
        })
        .collect())
}

fn text<'a>(vector: &'a Value, key: &str) -> &'a str {
    vector[key].as_str().unwrap_or_default()
}

struct Made {
    against: &'static [&'static str],
    start: &'static str,
    needs: &'static str,
    steps: Vec<String>,
}

const SERVER: &[&str] = &["server"];
const CLIENT: &[&str] = &["client"];
const BOTH: &[&str] = &["server", "client"];

impl Made {
    fn write(&self, vector: &Value, out: &mut String) {
        let requirements = vector["req"].as_array().into_iter().flatten();
        let requirements: Vec<_> = requirements.filter_map(Value::as_str).collect();
        let quoted = |list: &[&str]| {
            let list: Vec<_> = list.iter().map(|it| format!("{it:?}")).collect();
            format!("[{}]", list.join(", "))
        };
        let why = vector["error"]["why"].as_str().unwrap_or_default();
        let why = why.split(" (or 400").next().unwrap_or_default();
        let _ = writeln!(
            out,
            "\n[[script]]\nname = {:?}\nabout = {why:?}\nrequirements = {}\nagainst = {}\nstart = {:?}",
            text(vector, "name"),
            quoted(&requirements),
            quoted(self.against),
            self.start,
        );
        if !self.needs.is_empty() {
            let _ = writeln!(out, "needs = [{:?}]", self.needs);
        }
        let _ = writeln!(out, "steps = [");
        for step in &self.steps {
            let _ = writeln!(out, "    {step},");
        }
        let _ = writeln!(out, "]");
    }
}

fn script(vector: &Value) -> Option<Made> {
    let name = text(vector, "name");
    if is_elsewhere(name) || vector["valid"] == true && name != "fs-501-unknown-protocol" {
        return None;
    }
    let hex = text(vector, "hex");
    let fin = vector["fin"] == true;
    let receiver = text(vector, "receiver");
    let made = |against, start, steps| {
        Some(Made {
            against,
            start,
            needs: "",
            steps,
        })
    };
    match text(vector, "kind") {
        "capsule" | "capsule-stream" => {
            let bytes = format!("{{ data = [{hex:?}] }}");
            let mut steps = vec![write("request", &bytes, fin)];
            // Which code it is depends on what an implementation takes a capsule for (RFC 9297 §3.3).
            steps.extend(outcome(vector, "request", ", strict = false"));
            let mut made = made(BOTH, "tunnel", steps)?;
            if name == "capsule-oversize-known" {
                made.needs = "ours";
            }
            Some(made)
        }
        "http3-datagram" => {
            let send = match hex.strip_prefix("0b") {
                // Stream 44 in the vector, the tunnel's here.
                Some(rest) => {
                    format!("{{ send = {{ stream = \"request\", bytes = [{rest:?}] }} }}")
                }
                None => format!("{{ send = {{ bytes = [{hex:?}] }} }}"),
            };
            let mut steps = vec![send];
            steps.extend(outcome(vector, "request", ""));
            made(BOTH, "tunnel", steps)
        }
        "ip-packet" => {
            let bytes = format!("[\"00\", {hex:?}]");
            let send = format!("{{ send = {{ stream = \"request\", bytes = {bytes} }} }}");
            let mut steps = vec![send];
            steps.extend(outcome(vector, "request", ""));
            made(BOTH, "tunnel", steps)
        }
        "qpack-field-section" => {
            let against = match receiver {
                "client" => CLIENT,
                "server" => SERVER,
                // A field section that cannot be read is nobody's in particular.
                _ if name.starts_with("qpack") => BOTH,
                _ if name.starts_with("fs-bad-resp") => CLIENT,
                _ => SERVER,
            };
            let bytes = format!("{{ section = {hex:?} }}");
            let mut steps = vec![write("request", &bytes, false)];
            if name == "fs-501-unknown-protocol" {
                // 9220-3-02 asks for 501 in so many words only as a SHOULD.
                steps.push("{ answered = { status = [501], strict = false } }".to_owned());
            } else {
                let or = match name {
                    // Some QPACK decoders refuse it themselves.
                    "fs-bad-name-empty" => ", strict = false, or_status = 400",
                    _ if against == SERVER => ", or_status = 400",
                    _ => "",
                };
                steps.extend(outcome(vector, "request", or));
            }
            // Towards a server nothing more than SETTINGS: what is sent is the request.
            made(against, "head", steps)
        }
        "settings-frame" => {
            let bytes = format!("\"00\", {hex:?}");
            let mut steps = vec![write("control", &bytes, false)];
            let free = if name == "settings-bad-duplicate" {
                ", optional = true"
            } else if name == "settings-bad-connect-protocol-2" {
                ", strict = false, optional = true"
            } else {
                ""
            };
            steps.extend(outcome(vector, "control", free));
            made(BOTH, "quic", steps)
        }
        "h3-uni-stream" => {
            let against = match receiver {
                "server" => SERVER,
                "client" => CLIENT,
                _ if name == "h3-control-bad-goaway-stream1" => CLIENT,
                _ => BOTH,
            };
            let mut steps = vec![write("control", &format!("{hex:?}"), fin)];
            steps.extend(outcome(vector, "control", ""));
            made(against, "quic", steps)
        }
        "qpack-encoder-stream" | "qpack-decoder-stream" => {
            let mut steps = vec![
                write("control", "\"00\", { settings = [[8, 1], [51, 1]] }", false),
                write("qpack", &format!("{hex:?}"), fin),
            ];
            steps.extend(outcome(vector, "qpack", ""));
            made(BOTH, "quic", steps)
        }
        "h3-request-stream" => {
            let bytes = match hex.strip_prefix(REQUEST) {
                Some(rest) => format!("{{ request = {{}} }}, {rest:?}"),
                None => format!("{hex:?}"),
            };
            let mut steps = vec![write("request", &bytes, fin)];
            let free = match name {
                // quic-go and others tell a request that never came by a code of their own.
                "h3-stream-empty-fin" => ", or_status = 400",
                _ => "",
            };
            steps.extend(outcome(vector, "request", free));
            made(SERVER, "settings", steps)
        }
        "uri" => {
            let decoded = &vector["decoded"];
            let path = decoded["path"].as_str()?;
            if decoded["template"].is_string() || !path.starts_with(WELL_KNOWN) {
                return None;
            }
            let bytes = format!("{{ request = {{ set = [[\":path\", {path:?}]] }} }}");
            let mut steps = vec![write("request", &bytes, false)];
            // What is wrong with a request may be said by a status, and which one is free.
            steps.extend(outcome(
                vector,
                "request",
                ", strict = false, or_status = 400",
            ));
            let mut made = made(SERVER, "settings", steps)?;
            made.needs = "scope";
            Some(made)
        }
        _ => None,
    }
}

fn write(stream: &str, bytes: &str, fin: bool) -> String {
    let fin = if fin { ", fin = true" } else { "" };
    format!("{{ write = {{ stream = {stream:?}, bytes = [{bytes}]{fin} }} }}")
}

/// What a vector says will come of it. `free` is what the standards leave open.
fn outcome(vector: &Value, stream: &str, free: &str) -> Vec<String> {
    let error = &vector["error"];
    let code = error["code_hex"].as_str().unwrap_or("0x0");
    match error["scope"].as_str().unwrap_or_default() {
        "connection" => vec![format!("{{ closed = {{ code = {code}{free} }} }}")],
        "stream" | "policy" => {
            let optional = match text(vector, "name") {
                // RFC 9484 §4.7.3: to notice is optional.
                "capsule-bad-ra-proto0-overlap" => ", optional = true",
                // §4.7.2 tells who sends; who receives need not remember.
                "capsule-bad-ar-dup-id" | "capsule-bad-ar-reused-id" => ", optional = true",
                _ => "",
            };
            vec![
                format!("{{ aborted = {{ stream = {stream:?}, code = {code}{free}{optional} }} }}"),
                "\"alive\"".to_owned(),
            ]
        }
        _ => vec!["{ quiet = 200 }".to_owned(), "\"alive\"".to_owned()],
    }
}

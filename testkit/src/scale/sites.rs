//! Who allocates: what dhat wrote down, by the crate whose code asked.
//!
//! dhat keeps a backtrace for every allocation. Those below [`super::Meter::server_side`] are the
//! server's; each belongs to the innermost function in it that is neither the standard library's nor a
//! container's.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Whose code asked for memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Owner {
    /// masque-core.
    Core,
    /// quinn-proto.
    Quic,
    /// rustls and its cryptography.
    Tls,
    /// The harness and whatever else.
    Other,
}

/// One place that allocated on the server's account.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// Whose it is.
    pub owner: Owner,
    /// The frames from the owner's function outwards, a few.
    pub frames: Vec<String>,
    /// Allocations.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes still held at the end.
    pub held: u64,
}

/// Why a profile cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SitesError {
    /// The file.
    #[error("profile: {0}")]
    Io(#[from] std::io::Error),
    /// Its content.
    #[error("profile: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Profile {
    pps: Vec<Point>,
    ftbl: Vec<String>,
}

#[derive(Deserialize)]
struct Point {
    #[serde(rename = "tb")]
    bytes: u64,
    #[serde(rename = "tbk")]
    blocks: u64,
    #[serde(rename = "eb")]
    held: u64,
    #[serde(rename = "fs")]
    frames: Vec<usize>,
}

/// Reads the profile that dhat has written to `path`: the server's sites, most allocations first.
///
/// # Errors
/// [`SitesError`].
pub fn read(path: &Path) -> Result<Vec<Site>, SitesError> {
    let profile: Profile = serde_json::from_slice(&std::fs::read(path)?)?;
    let mut sites: Vec<Site> = Vec::new();
    for point in &profile.pps {
        let frames = point.frames.iter().filter_map(|&at| profile.ftbl.get(at));
        let frames: Vec<&str> = frames.map(|frame| function(frame)).collect();
        let Some(end) = frames
            .iter()
            .position(|frame| frame.contains("server_side"))
        else {
            continue;
        };
        let frames = &frames[..end];
        let found = frames.iter().enumerate().find_map(|(at, frame)| {
            let owner = owner(frame)?;
            Some((at, owner))
        });
        let (at, owner) = found.unwrap_or((0, Owner::Other));
        let shown = frames[at..].iter().take(4).map(|frame| (*frame).to_owned());
        let shown: Vec<_> = shown.collect();
        match sites.iter_mut().find(|site| site.frames == shown) {
            Some(site) => {
                site.blocks += point.blocks;
                site.bytes += point.bytes;
                site.held += point.held;
            }
            None => sites.push(Site {
                owner,
                frames: shown,
                blocks: point.blocks,
                bytes: point.bytes,
                held: point.held,
            }),
        }
    }
    sites.sort_by_key(|site| std::cmp::Reverse(site.blocks));
    Ok(sites)
}

/// `0x55d0: masque_core::…::f (file.rs:1:2)` without the address.
fn function(frame: &str) -> &str {
    frame.split_once(": ").map_or(frame, |(_, rest)| rest)
}

/// By the path of the function, or, where it was inlined and has lost that, by its file, of which
/// dhat keeps the last three parts.
fn owner(frame: &str) -> Option<Owner> {
    const PATHS: [(&str, Owner); 7] = [
        ("masque_core::", Owner::Core),
        ("quinn_proto::", Owner::Quic),
        ("rustls::", Owner::Tls),
        ("webpki::", Owner::Tls),
        ("aws_lc_rs::", Owner::Tls),
        ("x509_parser::", Owner::Tls),
        ("masque_testkit::", Owner::Other),
    ];
    const FILES: [(&str, Owner); 16] = [
        ("masque-core/", Owner::Core),
        ("src/endpoint/", Owner::Core),
        ("src/session/", Owner::Core),
        ("src/wire/", Owner::Core),
        ("wire/", Owner::Core),
        ("quinn-proto", Owner::Quic),
        ("src/connection/", Owner::Quic),
        ("connection/streams/", Owner::Quic),
        ("src/congestion/", Owner::Quic),
        ("src/range_set/", Owner::Quic),
        ("src/config/", Owner::Quic),
        ("rustls", Owner::Tls),
        ("src/msgs/", Owner::Tls),
        ("src/server/", Owner::Tls),
        ("src/conn/", Owner::Tls),
        ("testkit/", Owner::Other),
    ];
    let path = frame.trim_start_matches(['<', '&']);
    let file = frame.rsplit_once(" (").map_or("", |(_, file)| file);
    let by = |table: &[(&str, Owner)], text: &str| {
        let found = table.iter().find(|(start, _)| text.starts_with(start));
        found.map(|(_, owner)| *owner)
    };
    by(&PATHS, path).or_else(|| by(&FILES, file))
}

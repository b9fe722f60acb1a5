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
        let Some(end) = frames.iter().position(|frame| frame.contains("server_side")) else {
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

fn owner(function: &str) -> Option<Owner> {
    let named = |name: &str| {
        let function = function.trim_start_matches(['<', '&']);
        function.starts_with(name)
    };
    if named("masque_core::") {
        Some(Owner::Core)
    } else if named("quinn_proto::") {
        Some(Owner::Quic)
    } else if ["rustls", "aws_lc", "webpki", "x509_parser"].iter().any(|name| named(name)) {
        Some(Owner::Tls)
    } else {
        None
    }
}

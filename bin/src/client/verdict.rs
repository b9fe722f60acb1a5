//! What the end of an attempt or of a tunnel means: an exit code, words, and whether trying again makes
//! sense.

use std::time::SystemTime;

use masque_core::endpoint::CloseReason;
use masque_core::session::TunnelEnd;

use crate::exit::{Exit, Failure};
use crate::tls::Credentials;

/// What is known where something ends.
pub(super) struct Circumstances<'a> {
    /// The server as it was configured.
    pub(super) server: String,
    /// What we showed it.
    pub(super) credentials: &'a Credentials,
    /// Whether there ever was a tunnel.
    pub(super) was_up: bool,
    /// Whether we gave up waiting.
    pub(super) timed_out: bool,
    /// How the tunnel ended before we closed the connection.
    pub(super) tunnel_end: Option<TunnelEnd>,
}

/// The judgement.
pub(super) struct Verdict {
    /// What to end with, or to log.
    pub(super) failure: Failure,
    /// Whether a first attempt that ends so is the last.
    pub(super) permanent: bool,
}

impl Verdict {
    fn new(code: Exit, text: impl Into<String>, permanent: bool) -> Self {
        Self {
            failure: Failure::new(code, text),
            permanent,
        }
    }

    fn help(mut self, help: &str) -> Self {
        self.failure = self.failure.help(help);
        self
    }

    /// The end of a connection.
    pub(super) fn of_connection(reason: &CloseReason, around: &Circumstances<'_>) -> Self {
        let server = &around.server;
        match reason {
            CloseReason::Tls(text) => Self::new(
                Exit::Refused,
                format!("no secure connection to {server}: {text}"),
                true,
            )
            .help(&advice(around.credentials)),
            CloseReason::NotAuthorised | CloseReason::CertificateExpired => Self::new(
                Exit::Refused,
                format!("refused by {server}: {reason}"),
                true,
            ),
            CloseReason::Violation(_) | CloseReason::SettingsTimeout => Self::new(
                Exit::Refused,
                format!("{server} does not speak CONNECT-IP properly: {reason}"),
                true,
            ),
            CloseReason::Peer { .. } => Self::new(
                Exit::Refused,
                format!("{server} ended the connection: {reason}"),
                false,
            ),
            CloseReason::Local if around.timed_out => Self::silent(server),
            CloseReason::TimedOut if !around.was_up => Self::silent(server),
            CloseReason::Local => match around.tunnel_end {
                Some(end) => Self::of_tunnel(server, end),
                None => Self::lost(server, reason),
            },
            _ => Self::lost(server, reason),
        }
    }

    fn lost(server: &str, reason: &CloseReason) -> Self {
        let text = format!("connection to {server} lost: {reason}");
        Self::new(Exit::Unreachable, text, false)
    }

    fn silent(server: &str) -> Self {
        let text = format!("no answer from {server} (UDP)");
        Self::new(Exit::Unreachable, text, false)
            .help("is the server running, and does a firewall let UDP to this port through?")
    }

    /// The end of a tunnel on a living connection.
    fn of_tunnel(server: &str, end: TunnelEnd) -> Self {
        let (code, text, permanent) = match end {
            TunnelEnd::Unsupported => (Exit::Refused, "does not offer CONNECT-IP", true),
            TunnelEnd::Violation(_) => (Exit::Refused, "does not speak CONNECT-IP properly", true),
            TunnelEnd::Rejected => (Exit::Refused, "takes no more tunnels now", false),
            TunnelEnd::TimedOut => (Exit::Unreachable, "does not answer the request", false),
            TunnelEnd::ResetByPeer { .. } => (Exit::Refused, "reset the tunnel", false),
            TunnelEnd::Finished | TunnelEnd::Local | TunnelEnd::ConnectionEnded => {
                (Exit::Unreachable, "ended the tunnel", false)
            }
        };
        Self::new(code, format!("{server} {text}"), permanent)
    }

    /// An HTTP status other than success.
    pub(super) fn of_status(url: &str, status: u16, proxy_status: Option<&str>) -> Self {
        let detail = proxy_status.map_or_else(String::new, |text| format!(" ({text})"));
        let text = format!("the server refuses {url} with status {status}{detail}");
        let refused = |permanent| Self::new(Exit::Refused, text, permanent);
        match status {
            404 => refused(true)
                .help("the server knows no such URI template: compare url with its templates"),
            401 | 403 | 407 => {
                refused(true).help("this identity is not allowed: ask the server's operator")
            }
            501 => refused(true).help("this server does not do CONNECT-IP"),
            400 => refused(true).help("the server does not understand this target or ipproto"),
            _ => refused(!matches!(status, 408 | 429 | 500..=599)),
        }
    }
}

fn advice(credentials: &Credentials) -> String {
    match credentials.described() {
        Some(own) => match own.unusable_at(SystemTime::now()) {
            Some(why) => format!("our own certificate {why}"),
            None => "check that ca is the server's CA, that the certificate is from the CA the server trusts, and the host name in url".to_owned(),
        },
        None => "this client has no certificate; most servers demand one (certificate, key)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_trying_again_makes_sense() {
        for (status, permanent) in [
            (400, true),
            (403, true),
            (404, true),
            (429, false),
            (501, true),
            (502, false),
            (503, false),
        ] {
            let verdict = Verdict::of_status("https://vpn/", status, Some("masque; error=x"));
            assert_eq!(verdict.permanent, permanent, "{status}");
            assert_eq!(verdict.failure.code, Exit::Refused);
            assert!(verdict.failure.message.contains(&status.to_string()));
            assert!(verdict.failure.message.contains("error=x"));
        }
    }
}

//! qlog as JSON text sequences (draft-ietf-quic-qlog-main-schema-14): QUIC and HTTP/3 by their drafts
//! (quic-events-14, h3-events), capsules, tunnels and drops as events of our own.
//!
//! qvis reads qlog 0.3, where events have other categories and a few fields other names. It takes the
//! category from a field of that name before it looks at the event's name: [`category`] puts it there.
//! What else it needs is in `docs/lab/qlog.md`, and held by a test.
//!
//! | event | from |
//! |---|---|
//! | `quic:packet_sent`, `quic:packet_received` | packets of null crypto, which can be read |
//! | `quic:udp_datagrams_sent`, `quic:udp_datagrams_received` | every datagram |
//! | `quic:connection_state_updated`, `quic:mtu_updated`, `quic:connection_closed` | the endpoint's trace |
//! | `http3:frame_created`, `http3:frame_parsed`, `http3:parameters_set`, `http3:stream_type_set` | the session's trace |
//! | `recovery:metrics_updated` | what a captured world notes of each connection; named as in 0.3 |
//! | `connect-ip:capsule_created`, `connect-ip:capsule_parsed` | the session's trace |
//! | `connect-ip:state_updated`, `connect-ip:timer_updated`, `connect-ip:packet_dropped`, `connect-ip:error` | everybody's trace |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use masque_core::trace::{Layer, TraceEvent, What};
use serde_json::{Value, json};

use super::quic;
use crate::world::{Captured, Entry, Metrics, Place, Said, Trace, World};

/// Our own events, by the rules for private schemas.
const OWN_SCHEMA: &str = "urn:ietf:params:qlog:events:connect-ip#masque-lab";

/// The log of one node of a world that was traced and captured.
#[must_use]
pub fn qlog(world: &World, node: &str) -> String {
    let client = world.nodes().any(|id| {
        let own = world.node(id);
        own.name() == node && own.config_is_client()
    });
    log_of(world.trace(), node, client, world.secrets().is_none())
}

/// The log of one node of a trace with packets, `readable` ones if they are of null crypto.
pub(super) fn log_of(trace: &Trace, node: &str, client: bool, readable: bool) -> String {
    let mut log = Log {
        text: String::new(),
        readable,
        largest: BTreeMap::new(),
        groups: Groups::of(trace, node),
    };
    log.record(&json!({
        "file_schema": "urn:ietf:params:qlog:file:sequential",
        "serialization_format": "application/qlog+json-seq",
        // What qvis goes by.
        "qlog_version": "0.3",
        "qlog_format": "JSON-SEQ",
        "title": format!("masque-lab: {node}"),
        "trace": {
            "vantage_point": {
                "name": node,
                "type": if client { "client" } else { "server" },
            },
            "common_fields": {
                "time_format": "relative_to_epoch",
                "reference_time": {"clock_type": "monotonic", "epoch": "unknown"},
            },
            "event_schemas": [
                "urn:ietf:params:qlog:events:quic",
                "urn:ietf:params:qlog:events:http3",
                OWN_SCHEMA,
            ],
        },
    }));
    let mut packets = trace.captured().iter().peekable();
    let mut metrics = trace.metrics().iter().peekable();
    for line in 0..=trace.entries().len() {
        while let Some(packet) = packets.next_if(|packet| packet.line <= line) {
            if packet.node == node {
                log.packet(packet);
            }
        }
        while let Some(noted) = metrics.next_if(|noted| noted.line <= line) {
            if noted.node == node {
                log.metrics(noted);
            }
        }
        if let Some(entry) = trace.entries().get(line).filter(|entry| entry.node == node) {
            log.entry(entry);
        }
    }
    log.text
}

/// A way between two sockets, and a packet number space on it.
type Space = (SocketAddr, SocketAddr, &'static str);

/// The connection of every event: qvis shows each as a trace of its own, and splits a file only if its
/// first event has a group.
struct Groups {
    /// By remote address: from which line of the trace on it belongs to which connection.
    by_address: BTreeMap<SocketAddr, Vec<(usize, u64)>>,
    first: u64,
}

impl Groups {
    /// An endpoint says of which connection a datagram is that it sends; what comes back is of the same.
    fn of(trace: &Trace, node: &str) -> Self {
        let mut groups = Self {
            by_address: BTreeMap::new(),
            first: 0,
        };
        let own = trace.entries().iter().enumerate();
        let told = own.filter(|(_, entry)| entry.node == node);
        let mut first = None;
        for (line, entry) in told {
            let Said::Core(event) = &entry.said else {
                continue;
            };
            let Some(connection) = event.connection else {
                continue;
            };
            first.get_or_insert(connection);
            if let What::Output(text) = &event.what
                && let Some((_, to)) = text.rsplit_once(" to ")
                && let Ok(to) = to.parse()
            {
                let all = groups.by_address.entry(to).or_default();
                if all.last().is_none_or(|(_, last)| *last != connection) {
                    all.push((line, connection));
                }
            }
        }
        groups.first = first.unwrap_or_default();
        groups
    }

    /// The connection a datagram from or to this address belongs to, at this line.
    fn at(&self, remote: SocketAddr, line: usize) -> u64 {
        let all = self.by_address.get(&remote).map_or(&[][..], Vec::as_slice);
        let until = all.partition_point(|(from, _)| *from <= line);
        let found = all.get(until.saturating_sub(1));
        found.map_or(self.first, |(_, connection)| *connection)
    }
}

struct Log {
    text: String,
    readable: bool,
    /// The largest packet number seen, from which cut ones are made whole.
    largest: BTreeMap<Space, u64>,
    groups: Groups,
}

impl Log {
    fn record(&mut self, value: &Value) {
        self.text.push('\u{1e}');
        self.text.push_str(&value.to_string());
        self.text.push('\n');
    }

    fn event(&mut self, at: Duration, name: &str, data: Value, group: u64) {
        self.record(&json!({
            "time": at.as_nanos() as f64 / 1e6,
            "name": name,
            "category": category(name),
            "group_id": format!("c{group}"),
            "data": data,
        }));
    }

    fn metrics(&mut self, noted: &Metrics) {
        let millis = noted.rtt.as_secs_f64() * 1000.0;
        let data = json!({
            "congestion_window": noted.congestion_window,
            "smoothed_rtt": millis,
        });
        let name = "recovery:metrics_updated";
        self.event(noted.at, name, data, noted.connection);
    }

    fn packet(&mut self, captured: &Captured) {
        let (from, to, name) = match captured.place {
            Place::Sent { from, to } => (from, to, "sent"),
            Place::Received { from, to } => (from, to, "received"),
            Place::IntoTun | Place::OutOfTun => return,
        };
        let remote = if name == "sent" { to } else { from };
        let group = self.groups.at(remote, captured.line);
        let size = captured.data.len();
        let data = json!({"count": 1, "raw": [{"length": size + 8, "payload_length": size}]});
        let event = format!("quic:udp_datagrams_{name}");
        self.event(captured.at, &event, data, group);
        let packets = self.readable.then(|| quic::read(&captured.data));
        let Some(Ok(packets)) = packets else { return };
        for packet in packets {
            let (low, bytes) = packet.number;
            let mut header = json!({
                "packet_type": packet.kind,
                "dcid": super::hex_text(&packet.dcid),
            });
            if !packet.scid.is_empty() {
                header["scid"] = super::hex_text(&packet.scid).into();
            }
            if packet.has_frames() {
                let largest = self.largest.entry((from, to, packet.kind)).or_default();
                let number = quic::whole_number(Some(*largest), low, bytes);
                *largest = number.max(*largest);
                header["packet_number"] = number.into();
            }
            let frames = packet.frames.iter().map(|frame| frame.fields.clone());
            let data = json!({
                "header": header,
                "raw": {
                    "length": packet.end - packet.start,
                    "payload_length": packet.end - packet.payload,
                },
                "frames": frames.collect::<Vec<_>>(),
            });
            let event = format!("quic:packet_{name}");
            self.event(captured.at, &event, data, group);
        }
    }

    fn entry(&mut self, entry: &Entry) {
        let Said::Core(event) = &entry.said else {
            return;
        };
        if let Some((name, data)) = describe(event) {
            let group = event.connection.unwrap_or(self.groups.first);
            self.event(entry.at, name, data, group);
        }
    }
}

/// The category that an event has in qlog 0.3, or would have.
fn category(name: &str) -> &'static str {
    match name.split_once(':').unwrap_or_default() {
        ("quic", "connection_state_updated" | "connection_closed" | "mtu_updated") => {
            "connectivity"
        }
        ("quic", _) => "transport",
        ("http3", _) => "http",
        ("recovery", _) => "recovery",
        (_, "capsule_created" | "capsule_parsed") => "http",
        (_, "packet_dropped") => "warning",
        (_, "error") => "error",
        _ => "info",
    }
}

fn describe(event: &TraceEvent) -> Option<(&'static str, Value)> {
    let stream = event.stream;
    Some(match &event.what {
        What::Frame {
            sent,
            name,
            bytes,
            text,
        } => {
            let local = if *sent { "local" } else { "remote" };
            if *name == "SETTINGS" {
                let data = json!({"initiator": local, "settings": text});
                return Some(("http3:parameters_set", data));
            }
            let mut frame = json!({"frame_type": name.to_lowercase()});
            if *name == "HEADERS" {
                let fields = text.split("; ").filter_map(|field| {
                    // A pseudo-header begins with a colon of its own.
                    let at = field.get(1..)?.find(": ")? + 1;
                    Some(json!({"name": &field[..at], "value": field.get(at + 2..)?}))
                });
                frame["headers"] = fields.collect();
            } else {
                frame["id"] = text.trim_start_matches("id ").parse::<u64>().ok().into();
            }
            let mut data = json!({"length": bytes, "frame": frame});
            // A control stream's number is not told.
            data["stream_id"] = stream.unwrap_or_default().into();
            match sent {
                true => ("http3:frame_created", data),
                false => ("http3:frame_parsed", data),
            }
        }
        What::Capsule {
            sent,
            name,
            bytes,
            text,
        } => {
            let data = json!({
                "stream_id": stream,
                "length": bytes,
                "capsule": {"capsule_type": name.to_lowercase(), "text": text},
            });
            match sent {
                true => ("connect-ip:capsule_created", data),
                false => ("connect-ip:capsule_parsed", data),
            }
        }
        What::State { from, to } if event.layer == Layer::Endpoint && !to.starts_with("tunnel") => {
            let state = |name: &str| match name {
                "none" | "handshake" => "attempted",
                "connected" => "handshake_complete",
                "drained" => "closed",
                _ => "closing",
            };
            let mut data = json!({"new": state(to)});
            if *from != "none" {
                data["old"] = state(from).into();
            }
            ("quic:connection_state_updated", data)
        }
        What::State { from: "Type", to } => {
            let kind = match *to {
                "Control" => "control",
                "Encoder" => "qpack_encode",
                "Decoder" => "qpack_decode",
                _ => "unknown",
            };
            let data = json!({"initiator": "remote", "stream_id": stream, "stream_type": kind});
            ("http3:stream_type_set", data)
        }
        What::State { from, to } => {
            let data = json!({
                "layer": event.layer.name(), "stream_id": stream, "old": from, "new": to,
            });
            ("connect-ip:state_updated", data)
        }
        What::Armed { reason, after_us } => {
            let delta = *after_us as f64 / 1000.0;
            let data = json!({"event_type": "set", "timer": reason, "delta": delta});
            ("connect-ip:timer_updated", data)
        }
        What::Fired { reason } => {
            let data = json!({"event_type": "expired", "timer": reason});
            ("connect-ip:timer_updated", data)
        }
        What::Disarmed { reason } => {
            let data = json!({"event_type": "cancelled", "timer": reason});
            ("connect-ip:timer_updated", data)
        }
        What::Dropped { reason, bytes } => {
            let data = json!({
                "layer": event.layer.name(), "trigger": reason, "raw": {"length": bytes},
            });
            ("connect-ip:packet_dropped", data)
        }
        What::Changed { from, to, .. } => ("quic:mtu_updated", json!({"old": from, "new": to})),
        What::Error(text) if event.layer == Layer::Quic => {
            ("quic:connection_closed", json!({"reason": text}))
        }
        What::Error(text) => (
            "connect-ip:error",
            json!({"stream_id": stream, "reason": text}),
        ),
        What::Input(_) | What::Output(_) | What::Event(_) => return None,
    })
}

//! Frames and capsules in words, for the trace.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::trace::What;
use crate::wire::capsule::{AddressEntry, Capsule, CapsuleEvent};
use crate::wire::fields::FieldList;
use crate::wire::settings::Settings;
use crate::wire::varint::VarInt;

/// One field after another, secrets left out.
pub(super) fn fields(fields: &FieldList) -> String {
    let each = fields.0.iter().map(|field| {
        let name = String::from_utf8_lossy(&field.name);
        if field.is_secret() {
            return format!("{name}: ...");
        }
        let value = String::from_utf8_lossy(&field.value);
        format!("{name}: {}", value.escape_debug())
    });
    each.collect::<Vec<_>>().join("; ")
}

/// The settings that are not at their default.
pub(super) fn settings(settings: &Settings) -> String {
    let mut said = Vec::new();
    if let Some(size) = settings.max_field_section_size {
        said.push(format!("max_field_section_size={size}"));
    }
    if settings.enable_connect_protocol {
        said.push("enable_connect_protocol".to_string());
    }
    if settings.h3_datagram {
        said.push("h3_datagram".to_string());
    }
    said.join(" ")
}

/// The payload of a SETTINGS frame in bytes.
pub(super) fn settings_len(settings: &Settings) -> usize {
    let mut frame = Vec::new();
    settings.encode_frame(&mut frame);
    let length = frame.get(1..).and_then(VarInt::decode);
    length.map_or(0, |(length, _)| announced(length))
}

/// A capsule of a known type.
pub(super) fn capsule(sent: bool, capsule: &Capsule) -> What {
    let (name, text): (_, Cow<'static, str>) = match capsule {
        Capsule::Datagram(payload) => ("DATAGRAM", format!("payload {}", payload.len()).into()),
        Capsule::AddressAssign(assign) => ("ADDRESS_ASSIGN", entries(&assign.0).into()),
        Capsule::AddressRequest(request) => ("ADDRESS_REQUEST", entries(request.entries()).into()),
        Capsule::RouteAdvertisement(routes) => {
            let each = routes.ranges().iter().map(|range| {
                let (start, end) = (range.start(), range.end());
                format!("{start}-{end} protocol {}", range.protocol())
            });
            let text = each.collect::<Vec<_>>().join(", ");
            ("ROUTE_ADVERTISEMENT", text.into())
        }
    };
    let mut encoded = Vec::new();
    capsule.encode(&mut encoded);
    let length = VarInt::decode(&encoded)
        .and_then(|(_, ty)| VarInt::decode(encoded.get(ty..)?))
        .map_or(0, |(length, _)| announced(length));
    What::Capsule {
        sent,
        name,
        bytes: length,
        text,
    }
}

/// Whatever a decoder found.
pub(super) fn capsule_event(event: &CapsuleEvent) -> What {
    match event {
        CapsuleEvent::Capsule(found) => capsule(false, found),
        CapsuleEvent::Unknown { ty, length } => What::Capsule {
            sent: false,
            name: "UNKNOWN",
            bytes: announced(*length),
            text: format!("type {:#x}", ty.into_inner()).into(),
        },
        CapsuleEvent::DatagramTooLarge { length } => What::Capsule {
            sent: false,
            name: "DATAGRAM",
            bytes: announced(*length),
            text: "over the limit".into(),
        },
    }
}

fn announced(length: VarInt) -> usize {
    usize::try_from(length.into_inner()).unwrap_or(usize::MAX)
}

fn entries(entries: &[AddressEntry]) -> String {
    let each = entries.iter().map(|entry| {
        let id = entry.request_id.0.into_inner();
        let refused = if entry.is_refusal() { " refused" } else { "" };
        format!("{id}: {}{refused}", entry.prefix)
    });
    each.collect::<Vec<_>>().join(", ")
}

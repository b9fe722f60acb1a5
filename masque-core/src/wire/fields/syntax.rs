//! What field names, field values and the values of pseudo-headers may look like.

/// A byte of a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A token: a method, or a field name whatever its case.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// The name of a field that is not a pseudo-header (RFC 9114 §4.2, §10.3).
pub(super) fn is_field_name(name: &[u8]) -> bool {
    is_token(name) && !name.iter().any(u8::is_ascii_uppercase)
}

/// A field value (RFC 9110 §5.5): no control characters but tabs, no white space at the ends.
pub(super) fn is_field_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_allowed = |&byte: &u8| byte == b'\t' || !byte.is_ascii_control();
    value.iter().all(is_allowed) && !is_blank(value.first()) && !is_blank(value.last())
}

/// A `:protocol`: a name, perhaps with a version (RFC 9110 §7.8).
pub(super) fn is_protocol(protocol: &[u8]) -> bool {
    protocol.split(|&byte| byte == b'/').count() <= 2
        && protocol.split(|&byte| byte == b'/').all(is_token)
}

/// A scheme (RFC 3986 §3.1).
pub(super) fn is_scheme(scheme: &[u8]) -> bool {
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// A path with its query, in visible ASCII and without a fragment.
pub(super) fn is_path(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
        && path
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
}

/// Host and perhaps port, without userinfo (RFC 9114 §4.3.1).
pub(super) fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = split_authority(authority);
    is_host(host) && port.is_none_or(|port| port.is_empty() || is_port(port))
}

/// Host and port, as a CONNECT without `:protocol` has them (RFC 9114 §4.4).
pub(super) fn is_authority_with_port(authority: &[u8]) -> bool {
    let (host, port) = split_authority(authority);
    is_host(host) && port.is_some_and(is_port)
}

fn split_authority(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let after_brackets = authority
        .iter()
        .rposition(|&byte| byte == b']')
        .map_or(0, |last| last + 1);
    match authority[after_brackets..]
        .iter()
        .position(|&byte| byte == b':')
    {
        Some(colon) => {
            let (host, port) = authority.split_at(after_brackets + colon);
            (host, Some(&port[1..]))
        }
        None => (authority, None),
    }
}

fn is_host(host: &[u8]) -> bool {
    let is_name_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    match host {
        [b'[', inner @ .., b']'] => {
            !inner.is_empty() && inner.iter().all(|byte| is_name_byte(byte) || *byte == b':')
        }
        _ => !host.is_empty() && host.iter().all(is_name_byte),
    }
}

fn is_port(port: &[u8]) -> bool {
    // Checked before parsing: `u16::from_str` takes a sign.
    port.iter().all(u8::is_ascii_digit)
        && core::str::from_utf8(port)
            .ok()
            .and_then(|port| port.parse::<u16>().ok())
            .is_some_and(|port| port != 0)
}

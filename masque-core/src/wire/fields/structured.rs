//! As much of structured fields (RFC 8941) as a Boolean item with parameters takes.

/// The value of a structured field whose whole text is one Boolean item; parameters are read over.
/// `None` where the text is anything else (RFC 8941 §4.2: then the field is ignored altogether).
pub(super) fn boolean_item(text: &[u8]) -> Option<bool> {
    let text = trim(text);
    let (value, parameters) = boolean(text)?;
    is_parameters(parameters).then_some(value)
}

fn boolean(text: &[u8]) -> Option<(bool, &[u8])> {
    match text {
        [b'?', b'1', rest @ ..] => Some((true, rest)),
        [b'?', b'0', rest @ ..] => Some((false, rest)),
        _ => None,
    }
}

/// RFC 8941 §4.2.3.2, up to the end of the text.
fn is_parameters(mut text: &[u8]) -> bool {
    while let Some(parameter) = text.strip_prefix(b";") {
        let Some(after_key) = key(skip_spaces(parameter)) else {
            return false;
        };
        text = match after_key.strip_prefix(b"=") {
            None => after_key,
            Some(item) => match bare_item(item) {
                Some(after_item) => after_item,
                None => return false,
            },
        };
    }
    text.is_empty()
}

/// What follows the key that `text` begins with (§4.2.3.3).
fn key(text: &[u8]) -> Option<&[u8]> {
    let first = text.first()?;
    if !first.is_ascii_lowercase() && *first != b'*' {
        return None;
    }
    Some(skip(text, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
    }))
}

/// What follows the bare item that `text` begins with (§4.2.3.1).
fn bare_item(text: &[u8]) -> Option<&[u8]> {
    match text.first()? {
        b'-' | b'0'..=b'9' => number(text),
        b'"' => string(&text[1..]),
        b'*' | b'a'..=b'z' | b'A'..=b'Z' => Some(skip(text, |byte| {
            super::is_token_byte(byte) || b":/".contains(&byte)
        })),
        b':' => binary(&text[1..]),
        b'?' => boolean(text).map(|(_, rest)| rest),
        _ => None,
    }
}

/// At most 15 digits, or 12 and a fraction of 1 to 3 (§4.2.4).
fn number(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (integer, rest) = digits(text);
    match rest.strip_prefix(b".") {
        None => (1..=15).contains(&integer).then_some(rest),
        Some(rest) => {
            let (fraction, rest) = digits(rest);
            ((1..=12).contains(&integer) && (1..=3).contains(&fraction)).then_some(rest)
        }
    }
}

fn digits(text: &[u8]) -> (usize, &[u8]) {
    let rest = skip(text, |byte| byte.is_ascii_digit());
    (text.len() - rest.len(), rest)
}

/// The rest of a string after its opening quote (§4.2.5).
fn string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'"' | b'\\', rest @ ..] => rest,
            [b'\\', ..] => return None,
            [b' '..=b'~', rest @ ..] => rest,
            _ => return None,
        };
    }
}

/// The rest of a byte sequence after its opening colon (§4.2.7).
fn binary(text: &[u8]) -> Option<&[u8]> {
    skip(text, |byte| {
        byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
    })
    .strip_prefix(b":")
}

fn trim(text: &[u8]) -> &[u8] {
    let text = skip_spaces(text);
    let end = text.iter().rposition(|&byte| byte != b' ');
    &text[..end.map_or(0, |last| last + 1)]
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    skip(text, |byte| byte == b' ')
}

fn skip(text: &[u8], belongs: impl Fn(u8) -> bool) -> &[u8] {
    let end = text.iter().position(|&byte| !belongs(byte));
    &text[end.unwrap_or(text.len())..]
}

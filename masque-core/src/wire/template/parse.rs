//! From the text of a template to its parts.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::matching::Pattern;
use super::{Expression, Operator, Part, TemplateError, UriTemplate, Variable};
use crate::wire::scope::is_name;

pub(super) fn parse(template: &str) -> Result<UriTemplate, TemplateError> {
    if !template.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err(TemplateError::Character);
    }
    let mut parts = split(template)?;
    check_fragment(&parts)?;
    check_repeated(&parts)?;
    let authority = take_authority(&mut parts)?;
    let (host, port) = split_authority(&authority).ok_or(TemplateError::NotAbsolute)?;
    let (host, pattern) = (host.to_string(), Pattern::new(&parts)?);
    Ok(UriTemplate {
        text: template.to_string(),
        authority,
        host,
        port,
        parts,
        pattern,
    })
}

/// Literals and expressions, in turn; no literal is empty.
fn split(template: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let (literal, after) = match rest.find(['{', '}']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if !literal.is_empty() {
            check_literal(literal)?;
            parts.push(Part::Literal(literal.to_string()));
        }
        rest = after;
        if !rest.is_empty() {
            let inside = rest.strip_prefix('{').ok_or(TemplateError::Braces)?;
            let (inside, after) = inside.split_once('}').ok_or(TemplateError::Braces)?;
            parts.push(Part::Expression(expression(inside)?));
            rest = after;
        }
    }
    Ok(parts)
}

/// RFC 6570 §2.1, with `'`, which only an oversight left out there.
fn check_literal(literal: &str) -> Result<(), TemplateError> {
    let encoded = literal.split('%').skip(1).all(|after| {
        after
            .as_bytes()
            .first_chunk::<2>()
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if encoded && !literal.contains(['"', '<', '>', '\\', '^', '`', '|']) {
        Ok(())
    } else {
        Err(TemplateError::Character)
    }
}

fn expression(inside: &str) -> Result<Expression, TemplateError> {
    let (operator, names) = match inside.as_bytes().first() {
        Some(b'?') => (Operator::Query, &inside[1..]),
        Some(b'&') => (Operator::Continuation, &inside[1..]),
        Some(b'{') => return Err(TemplateError::Braces),
        Some(b'+' | b'#' | b'.' | b'/' | b';' | b'=' | b',' | b'!' | b'@' | b'|') => {
            return Err(TemplateError::Operator);
        }
        _ => (Operator::Simple, inside),
    };
    let variables = names.split(',').map(variable).collect::<Result<_, _>>()?;
    Ok(Expression {
        operator,
        variables,
    })
}

fn variable(name: &str) -> Result<Variable, TemplateError> {
    match name {
        "target" => Ok(Variable::Target),
        "ipproto" => Ok(Variable::Ipproto),
        _ if name.contains('{') => Err(TemplateError::Braces),
        _ if name.contains(['*', ':']) => Err(TemplateError::Modifier),
        _ => Err(TemplateError::Variable),
    }
}

/// A fragment is not sent, so neither is a variable in it.
fn check_fragment(parts: &[Part]) -> Result<(), TemplateError> {
    let fragment = parts
        .iter()
        .position(|part| matches!(part, Part::Literal(text) if text.contains('#')));
    match fragment {
        None => Ok(()),
        Some(at) if at + 1 == parts.len() => Err(TemplateError::NotAbsolute),
        Some(_) => Err(TemplateError::Position),
    }
}

/// With each variable at most once, matching a path takes one pass and has one answer.
fn check_repeated(parts: &[Part]) -> Result<(), TemplateError> {
    let mut seen = Vec::new();
    for part in parts {
        if let Part::Expression(expression) = part {
            for variable in &expression.variables {
                if seen.contains(variable) {
                    return Err(TemplateError::Variable);
                }
                seen.push(*variable);
            }
        }
    }
    Ok(())
}

/// Takes scheme and authority off the front; what is left begins with the path's `/`.
fn take_authority(parts: &mut [Part]) -> Result<String, TemplateError> {
    const SCHEME: &str = "https://";
    let followed = parts.len() > 1;
    let Some(Part::Literal(first)) = parts.first_mut() else {
        return Err(TemplateError::NotAbsolute);
    };
    // Schemes are case-insensitive (RFC 3986 §3.1).
    let rest = match first.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(TemplateError::NotAbsolute),
    };
    let end = match rest.find(['/', '?']) {
        Some(end) => end,
        None if followed => return Err(TemplateError::Position),
        None => return Err(TemplateError::NotAbsolute),
    };
    let (authority, path) = rest.split_at(end);
    if !path.starts_with('/') {
        return Err(TemplateError::NotAbsolute);
    }
    let authority = authority.to_string();
    *first = path.to_string();
    Ok(authority)
}

/// Host and port, without user information, which `:authority` must not hold (RFC 9114 §4.3.1).
fn split_authority(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, port)
    } else {
        let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        (host, Some(port).filter(|_| is_name(host))?)
    };
    if port.is_empty() {
        return Some((host, 443));
    }
    let digits = port.strip_prefix(':')?;
    let port = digits.parse().ok().filter(|&port| port != 0)?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some((host, port))
}

//! URI templates of level 3 and below (RFC 6570, RFC 9484 §3).

mod matching;
mod parse;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use matching::Pattern;

/// Why a template cannot be used (RFC 9484 §3). These are configuration faults, found before a packet is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// Not `https://authority/path…`.
    #[error("not an absolute https URI with authority and path")]
    NotAbsolute,
    /// A character outside 0x21 to 0x7e, or one that RFC 6570 §2.1 forbids in literal text.
    #[error("character that a URI template cannot hold")]
    Character,
    /// `{` and `}` do not pair up.
    #[error("unbalanced braces")]
    Braces,
    /// An operator other than `?` and `&`, or none.
    #[error("operator not allowed")]
    Operator,
    /// An explode or prefix modifier, which make it level 4.
    #[error("level 4 modifier")]
    Modifier,
    /// A variable outside path and query, or an operator where it cannot stand: `?` after the query
    /// has begun, `&` before, or either in front of anything but `&`.
    #[error("variable outside path and query, or operator misplaced")]
    Position,
    /// An empty or malformed variable name, one other than `target` and `ipproto`, or one given
    /// twice.
    #[error("variable name malformed, unknown or repeated")]
    Variable,
}

/// How `*` is written into a URI: RFC 6570 demands `%2A`, RFC 9484's own examples show `*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wildcard {
    /// `%2A`.
    #[default]
    Encoded,
    /// `*`.
    Bare,
}

/// The values of `target` and `ipproto`, percent-decoded once, as [`Scope::parse`] takes them;
/// `None` where a variable is absent.
///
/// [`Scope::parse`]: super::scope::Scope::parse
pub type ScopeValues = (Option<String>, Option<String>);

/// A template that RFC 9484 §3 allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UriTemplate {
    text: String,
    authority: String,
    host: String,
    port: u16,
    /// Path and query.
    parts: Vec<Part>,
    pattern: Pattern,
}

impl UriTemplate {
    /// Judges a template.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        parse::parse(template)
    }

    /// The default template, for a client that knows only the proxy's `host` or `host:port`
    /// (RFC 9484 §3); an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// [`TemplateError`] if `authority` is none.
    pub fn well_known(authority: &str) -> Result<Self, TemplateError> {
        let template = format!("https://{authority}/.well-known/masque/ip/{{target}}/{{ipproto}}/");
        Self::parse(&template).and_then(|template| {
            let whole = template.authority == authority;
            whole.then_some(template).ok_or(TemplateError::NotAbsolute)
        })
    }

    /// The template as it was parsed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `authority` as the template has it, port included if given.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host without brackets or port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 443 where none is given.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `:path` (path and query) with `target` and `ipproto` filled in; `None` leaves a variable
    /// undefined, which in a path leaves a gap that no server accepts: give `*` there.
    #[must_use]
    pub fn expand(
        &self,
        target: Option<&str>,
        ipproto: Option<&str>,
        wildcard: Wildcard,
    ) -> String {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => path.push_str(text),
                Part::Expression(expression) => {
                    let value = |variable| match variable {
                        Variable::Target => target,
                        Variable::Ipproto => ipproto,
                    };
                    expression.expand(value, wildcard, &mut path);
                }
            }
        }
        path
    }

    /// The reverse, for a server: the values of `target` and `ipproto` in `path` after one
    /// percent-decoding, or `None` if the path does not match the template.
    ///
    /// Literal text has to be there byte for byte. A value in the path ends at a `/`; the parameters
    /// of a query that has variables may come in any order. `*`, `:` and other characters that a
    /// path segment may hold are taken bare as well as encoded.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::ScopeMalformed`] where the path matches but a value is not
    /// percent-decodable.
    pub fn match_path(&self, path: &str) -> Result<Option<ScopeValues>, crate::WireErrorKind> {
        self.pattern.values(path)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(String),
    Expression(Expression),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Expression {
    operator: Operator,
    variables: Vec<Variable>,
}

/// The operators that RFC 9484 §3 leaves of RFC 6570 §3.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    /// None.
    Simple,
    /// `?`.
    Query,
    /// `&`.
    Continuation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variable {
    Target,
    Ipproto,
}

impl Variable {
    const fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Ipproto => "ipproto",
        }
    }
}

impl Expression {
    fn expand<'a>(
        &self,
        value: impl Fn(Variable) -> Option<&'a str>,
        wildcard: Wildcard,
        out: &mut String,
    ) {
        let (mut before, between) = match self.operator {
            Operator::Simple => ("", ","),
            Operator::Query => ("?", "&"),
            Operator::Continuation => ("&", "&"),
        };
        for &variable in &self.variables {
            let Some(value) = value(variable) else {
                continue;
            };
            out.push_str(before);
            before = between;
            if self.operator != Operator::Simple {
                out.push_str(variable.name());
                out.push('=');
            }
            push_encoded(value, wildcard, out);
        }
    }
}

/// Percent-encodes all but the unreserved characters (RFC 6570 §3.2.2).
fn push_encoded(value: &str, wildcard: Wildcard, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if value == "*" && wildcard == Wildcard::Bare {
        out.push('*');
        return;
    }
    for byte in value.bytes() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 0xf)]));
        }
    }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests;

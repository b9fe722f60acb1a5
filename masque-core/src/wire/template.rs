//! URI templates of level 3 and below (RFC 6570, RFC 9484 §3).

use alloc::string::String;

/// Why a template cannot be used (RFC 9484 §3). These are configuration faults, found before a packet is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// Not `https://authority/path…`.
    #[error("not an absolute https URI with authority and path")]
    NotAbsolute,
    /// A character outside 0x21 to 0x7e.
    #[error("character outside printable ASCII")]
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
    /// A variable outside path and query.
    #[error("variable outside path and query")]
    Position,
    /// An empty or malformed variable name, or one other than `target` and `ipproto`.
    #[error("variable name malformed")]
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

/// A template that RFC 9484 §3 allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UriTemplate {
    _todo: (),
}

impl UriTemplate {
    /// Judges a template.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        let _ = template;
        unimplemented!()
    }

    /// `authority` as the template has it, port included if given.
    #[must_use]
    pub fn authority(&self) -> &str {
        unimplemented!()
    }

    /// The host without brackets or port.
    #[must_use]
    pub fn host(&self) -> &str {
        unimplemented!()
    }

    /// The port; 443 where none is given.
    #[must_use]
    pub fn port(&self) -> u16 {
        unimplemented!()
    }

    /// The `:path` (path and query) with `target` and `ipproto` filled in; `None` leaves a variable
    /// undefined.
    #[must_use]
    pub fn expand(
        &self,
        target: Option<&str>,
        ipproto: Option<&str>,
        wildcard: Wildcard,
    ) -> String {
        let _ = (target, ipproto, wildcard);
        unimplemented!()
    }

    /// The reverse, for a server: the values of `target` and `ipproto` in `path` after one
    /// percent-decoding, or `None` if the path does not match the template.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::ScopeMalformed`] where the path matches but a value is not
    /// percent-decodable.
    pub fn match_path(
        &self,
        path: &str,
    ) -> Result<Option<(Option<String>, Option<String>)>, crate::WireErrorKind> {
        let _ = path;
        unimplemented!()
    }
}

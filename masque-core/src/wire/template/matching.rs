//! From a path back to the values of the variables.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::{Expression, Operator, Part, ScopeValues, TemplateError, Variable, is_unreserved};
use crate::error::WireErrorKind;

/// What a path looks like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    path: Sequence,
    query: Query,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Query {
    None,
    /// Without variables.
    Exact(String),
    /// `begun`: the `?` is literal, so it is there even without parameters.
    Parameters {
        begun: bool,
        parameters: Vec<Parameter>,
    },
}

/// What stands between two `&`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Parameter {
    sequence: Sequence,
    /// From `{?…}` or `{&…}`, where an undefined variable vanishes.
    optional: bool,
}

/// Text with variables in it, at most two: `literals` has one more than `variables`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sequence {
    literals: Vec<String>,
    variables: Vec<Variable>,
    /// From `{target,ipproto}`: the comma vanishes with one of them, and which is then unknown.
    list: bool,
}

/// The values found, still percent-encoded.
#[derive(Clone, Copy, Default)]
struct Values<'a> {
    target: Option<&'a str>,
    ipproto: Option<&'a str>,
}

impl Pattern {
    /// The pattern of a template's path and query.
    pub(super) fn new(parts: &[Part]) -> Result<Self, TemplateError> {
        let mut path = Sequence::default();
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Literal(text) => match text.split_once('?') {
                    Some((before, after)) => {
                        path.push_literal(before);
                        let query = Query::after_mark(after, &parts[index + 1..])?;
                        return Ok(Self { path, query });
                    }
                    None => path.push_literal(text),
                },
                Part::Expression(expression) => match expression.operator {
                    Operator::Simple => path.push_variables(&expression.variables),
                    Operator::Continuation => return Err(TemplateError::Position),
                    Operator::Query => {
                        let parameters = parameters(None, &parts[index..])?;
                        let begun = false;
                        let query = Query::Parameters { begun, parameters };
                        return Ok(Self { path, query });
                    }
                },
            }
        }
        let query = Query::None;
        Ok(Self { path, query })
    }

    /// `target` and `ipproto`, percent-decoded.
    pub(super) fn values(&self, path: &str) -> Result<Option<ScopeValues>, WireErrorKind> {
        let Some(values) = self.raw_values(path)? else {
            return Ok(None);
        };
        let target = values.target.map(decode).transpose()?;
        let ipproto = values.ipproto.map(decode).transpose()?;
        Ok(Some((target, ipproto)))
    }

    fn raw_values<'a>(&self, path: &'a str) -> Result<Option<Values<'a>>, WireErrorKind> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let mut values = Values::default();
        let found = self.path.find(path, &mut values)?
            && !values.contain('/')
            && self.query.find(query, &mut values)?;
        Ok(found.then_some(values))
    }
}

impl Query {
    /// The query that begins with a literal `?`.
    fn after_mark(text: &str, parts: &[Part]) -> Result<Self, TemplateError> {
        if parts.is_empty() {
            Ok(Self::Exact(text.into()))
        } else {
            Ok(Self::Parameters {
                begun: true,
                parameters: parameters(Some(text), parts)?,
            })
        }
    }

    fn find<'a>(
        &self,
        query: Option<&'a str>,
        values: &mut Values<'a>,
    ) -> Result<bool, WireErrorKind> {
        let (begun, parameters) = match self {
            Self::None => return Ok(query.is_none()),
            Self::Exact(text) => return Ok(query == Some(text)),
            Self::Parameters { begun, parameters } => (*begun, parameters),
        };
        let Some(query) = query else {
            return Ok(!begun);
        };
        let mut left: Vec<_> = parameters.iter().collect();
        for text in query.split('&') {
            let mut matching = None;
            for (index, parameter) in left.iter().enumerate() {
                if parameter.sequence.find(text, values)? {
                    matching = Some(index);
                    break;
                }
            }
            match matching {
                Some(index) => left.remove(index),
                None => return Ok(false),
            };
        }
        Ok(left.iter().all(|parameter| parameter.optional))
    }
}

/// The parameters of a query: `text` after a literal `?`, then `parts`.
fn parameters(text: Option<&str>, parts: &[Part]) -> Result<Vec<Parameter>, TemplateError> {
    let mut builder = Parameters {
        done: Vec::new(),
        open: text.map(|_| Sequence::default()),
    };
    builder.literal(text.unwrap_or_default())?;
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Literal(text) => builder.literal(text)?,
            Part::Expression(expression) => {
                let begins = text.is_none() && index == 0;
                builder.expression(expression, begins)?;
            }
        }
    }
    builder.close();
    Ok(builder.done)
}

struct Parameters {
    done: Vec<Parameter>,
    /// The parameter that more text still belongs to; none after `{?…}` and `{&…}`.
    open: Option<Sequence>,
}

impl Parameters {
    fn literal(&mut self, text: &str) -> Result<(), TemplateError> {
        let mut pieces = text.split('&');
        let first = pieces.next().unwrap_or_default();
        match &mut self.open {
            Some(open) => open.push_literal(first),
            None if first.is_empty() => {}
            None => return Err(TemplateError::Position),
        }
        for piece in pieces {
            self.close();
            let mut open = Sequence::default();
            open.push_literal(piece);
            self.open = Some(open);
        }
        Ok(())
    }

    fn expression(&mut self, expression: &Expression, begins: bool) -> Result<(), TemplateError> {
        match (expression.operator, &mut self.open) {
            (Operator::Simple, Some(open)) => open.push_variables(&expression.variables),
            (Operator::Query, _) if !begins => return Err(TemplateError::Position),
            (Operator::Simple, None) => return Err(TemplateError::Position),
            (Operator::Query | Operator::Continuation, _) => {
                self.close();
                for &variable in &expression.variables {
                    let mut sequence = Sequence::default();
                    sequence.push_literal(variable.name());
                    sequence.push_literal("=");
                    sequence.push_variables(&[variable]);
                    let optional = true;
                    self.done.push(Parameter { sequence, optional });
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(sequence) = self.open.take() {
            let optional = false;
            self.done.push(Parameter { sequence, optional });
        }
    }
}

impl Default for Sequence {
    fn default() -> Self {
        Self {
            literals: vec![String::new()],
            variables: Vec::new(),
            list: false,
        }
    }
}

impl Sequence {
    fn push_literal(&mut self, text: &str) {
        if let Some(last) = self.literals.last_mut() {
            last.push_str(text);
        }
    }

    fn push_variables(&mut self, variables: &[Variable]) {
        for (index, &variable) in variables.iter().enumerate() {
            if index > 0 {
                self.push_literal(",");
                self.list = true;
            }
            self.variables.push(variable);
            self.literals.push(String::new());
        }
    }

    /// Whether `text` is of this form; if so, its values are set.
    fn find<'a>(&self, text: &'a str, values: &mut Values<'a>) -> Result<bool, WireErrorKind> {
        let (Some(first), Some(last)) = (self.literals.first(), self.literals.last()) else {
            return Ok(false);
        };
        if self.variables.is_empty() {
            return Ok(text == first);
        }
        let Some(inner) = text
            .strip_prefix(first.as_str())
            .and_then(|text| text.strip_suffix(last.as_str()))
        else {
            return Ok(false);
        };
        match *self.variables {
            [variable] => values.set(variable, inner),
            [variable, second] => {
                let between = self.literals[1].as_str();
                // A protocol is a short number: a target that contains the text between the two
                // keeps all of it.
                let split = match variable {
                    Variable::Target => inner.rsplit_once(between),
                    Variable::Ipproto => inner.split_once(between),
                };
                match split {
                    Some((before, after)) => {
                        values.set(variable, before);
                        values.set(second, after);
                    }
                    None if self.list => return Err(WireErrorKind::ScopeMalformed),
                    None => return Ok(false),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl<'a> Values<'a> {
    fn set(&mut self, variable: Variable, value: &'a str) {
        match variable {
            Variable::Target => self.target = Some(value),
            Variable::Ipproto => self.ipproto = Some(value),
        }
    }

    fn contain(&self, character: char) -> bool {
        [self.target, self.ipproto]
            .into_iter()
            .flatten()
            .any(|value| value.contains(character))
    }
}

/// Undoes percent-encoding once. Bare characters have to be such as a path segment may hold
/// (`pchar`, RFC 3986 §3.3).
fn decode(value: &str) -> Result<String, WireErrorKind> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = hex(bytes.next())?;
                high << 4 | hex(bytes.next())?
            }
            byte if is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte) => byte,
            _ => return Err(WireErrorKind::ScopeMalformed),
        });
    }
    String::from_utf8(decoded).map_err(|_| WireErrorKind::ScopeMalformed)
}

fn hex(digit: Option<u8>) -> Result<u8, WireErrorKind> {
    digit
        .and_then(|digit| char::from(digit).to_digit(16))
        .and_then(|digit| u8::try_from(digit).ok())
        .ok_or(WireErrorKind::ScopeMalformed)
}

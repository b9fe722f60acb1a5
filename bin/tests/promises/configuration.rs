//! What holds for every text that is given as a configuration: the body of the fuzz target
//! `configuration`, and what its corpus is replayed with.

use std::fmt::Debug;
use std::path::Path;
use std::sync::OnceLock;

use masque::config::{
    BitRate, ByteSize, ClientFile, Pem, Prefix, ServerFile, Source, Span, Template,
};
use masque::exit::{Exit, Failure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use toml::Spanned;

/// What a text is: nothing reads it.
const NAME: &str = "vpn.toml";

/// The least a file must say; the bytes go on from there, or say it all themselves.
const CLIENT: &str = "url = 'https://vpn.example/masque/{target}/{ipproto}/'\nca = 'ca.pem'\n";
const SERVER: &str =
    "certificate = 'server.pem'\nkey = 'server.key'\nca = 'ca.pem'\npools = ['10.8.0.0/24']\n";

/// No text panics; an error points into the text; what is accepted means the same when it is written
/// again.
pub(crate) fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    values(text);
    for text in [text, &[CLIENT, text].concat(), &[SERVER, text].concat()] {
        let source = Source::from_text(Path::new(NAME), text);
        if let Err(failure) = source.schema() {
            points_inside(&failure, text);
        }
        means_the_same_again(text, client);
        means_the_same_again(text, server);
    }
}

fn client(source: &Source) -> Result<String, Failure> {
    let mut file: ClientFile = source.parse()?;
    given(&mut file.ca, &certificate().0);
    if let Some(certificate) = &mut file.certificate {
        given(certificate, &self::certificate().0);
    }
    if let Some(key) = &mut file.key {
        given(key, &certificate().1);
    }
    file.validate(source).map(|settings| shown(&settings))
}

fn server(source: &Source) -> Result<String, Failure> {
    let mut file: ServerFile = source.parse()?;
    given(&mut file.ca, &certificate().0);
    given(&mut file.certificate, &certificate().0);
    given(&mut file.key, &certificate().1);
    file.validate(source).map(|settings| shown(&settings))
}

/// No file is opened: whatever is named has this in it.
fn given(pem: &mut Spanned<Pem>, content: &str) {
    if matches!(pem.get_ref(), Pem::File(_)) {
        *pem.get_mut() = Pem::Inline(content.to_owned());
    }
}

/// A certificate, which is its own CA's, and its key.
fn certificate() -> &'static (String, String) {
    static CERTIFICATE: OnceLock<(String, String)> = OnceLock::new();
    CERTIFICATE.get_or_init(|| {
        let mut params =
            CertificateParams::new(vec!["vpn.example".to_owned()]).expect("a good name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("the system has randomness");
        let certificate = params.self_signed(&key).expect("good parameters");
        (certificate.pem(), key.serialize_pem())
    })
}

/// All of a configuration but where in its file it stood.
fn shown(settings: &impl Debug) -> String {
    let text = format!("{settings:?}");
    let mut parts = text.split("span: ");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'));
    }
    kept
}

fn means_the_same_again(text: &str, load: fn(&Source) -> Result<String, Failure>) {
    let source = |text: &str| Source::from_text(Path::new(NAME), text);
    let settings = match load(&source(text)) {
        Ok(settings) => settings,
        Err(failure) => {
            assert_eq!(failure.code, Exit::Config, "{failure}");
            return points_inside(&failure, text);
        }
    };
    let table: toml::Table = text.parse().expect("it has been read before");
    assert_eq!(load(&source(&table.to_string())), Ok(settings));
}

/// `name:line:column` is a place in the text, or just behind it, and the marks stay within the line.
fn points_inside(failure: &Failure, text: &str) {
    let place = failure.message.strip_prefix(NAME).expect("names its file");
    let place = place.strip_prefix(':').expect("a colon");
    if place.starts_with(' ') {
        return;
    }
    let mut numbers = place.splitn(3, ':');
    let mut number = || -> usize {
        let number = numbers.next().and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no place in {place:?}"))
    };
    let (line, column) = (number(), number());
    let lines: Vec<&str> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(&line), "{place:?}");
    let length = lines[line - 1].chars().count();
    assert!((1..=length + 1).contains(&column), "{place:?}");
    let marks = failure.message.chars().rev().take_while(|c| *c == '^');
    let marks = marks.count();
    assert!(marks >= 1 && column + marks <= length + 2, "{place:?}");
}

/// A value written plainly is the same value.
fn values(text: &str) {
    if let Ok(prefix) = Prefix::parse(text) {
        assert_eq!(Prefix::parse(&prefix.to_string()), Ok(prefix));
    }
    if let Ok(span) = Span::parse(text) {
        let plain = format!("{}ms", span.0.as_millis());
        assert_eq!(Span::parse(&plain), Ok(span));
    }
    if let Ok(size) = ByteSize::parse(text) {
        assert_eq!(ByteSize::parse(&size.0.to_string()), Ok(size));
    }
    if let Ok(rate) = BitRate::parse(text) {
        assert_eq!(BitRate::parse(&format!("{}bit/s", rate.0)), Ok(rate));
    }
    if let Ok(template) = Template::parse(text) {
        assert_eq!(template.text, text);
    }
}

//! Where two traces part.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::LabError;

/// What is compared.
#[derive(Args, Clone, Debug)]
pub struct Comparing {
    /// A trace, as lines or as JSON.
    pub a: PathBuf,
    /// Another.
    pub b: PathBuf,
    /// How many lines are shown before and after.
    #[arg(long, default_value_t = 5)]
    pub context: usize,
}

/// Shows the first line in which two traces differ, with its surroundings.
///
/// # Errors
/// [`LabError::Differ`] when they do, [`LabError::Io`].
pub fn diff(what: &Comparing, out: &mut impl Write) -> Result<(), LabError> {
    let (a, b) = (fs::read_to_string(&what.a)?, fs::read_to_string(&what.b)?);
    match compare(&a, &b, what.context) {
        None => {
            writeln!(out, "the same, {} lines", a.lines().count())?;
            Ok(())
        }
        Some((line, text)) => {
            out.write_all(text.as_bytes())?;
            Err(LabError::Differ(line))
        }
    }
}

/// The number of the first line that differs, counted from 1, and the surroundings of it.
fn compare(a: &str, b: &str, context: usize) -> Option<(usize, String)> {
    let (a, b): (Vec<_>, Vec<_>) = (a.lines().collect(), b.lines().collect());
    let longest = a.len().max(b.len());
    let first = (0..longest).find(|&at| a.get(at) != b.get(at))?;
    let mut text = format!("the same up to line {first}\n");
    let before = first.saturating_sub(context);
    for (at, line) in a.iter().enumerate().take(first).skip(before) {
        text.push_str(&format!("  {:>6} {line}\n", at + 1));
    }
    for (mark, lines) in [('-', &a), ('+', &b)] {
        for at in first..=first.saturating_add(context) {
            match lines.get(at) {
                Some(line) => text.push_str(&format!("{mark} {:>6} {line}\n", at + 1)),
                None => {
                    text.push_str(&format!("{mark} {:>6} (the end)\n", at + 1));
                    break;
                }
            }
        }
    }
    Some((first + 1, text))
}

#[cfg(test)]
mod tests {
    use super::compare;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_changed_line_is_the_one_that_is_named(lines in proptest::collection::vec("[a-z]{1,5}", 1..30), at: prop::sample::Index) {
            let at = at.index(lines.len());
            let mut other = lines.clone();
            other[at].push('!');
            let (one, two) = (lines.join("\n"), other.join("\n"));
            prop_assert_eq!(compare(&one, &one, 3), None);
            let (line, text) = compare(&one, &two, 3).expect("they differ");
            prop_assert_eq!(line, at + 1);
            let expected = format!("+ {:>6} {}", at + 1, other[at]);
            prop_assert!(text.contains(&expected));
        }
    }

    #[test]
    fn a_trace_that_ends_earlier_differs_at_its_end() {
        let (line, text) = compare("a\nb\n", "a\n", 2).expect("they differ");
        assert_eq!(line, 2);
        assert!(text.contains("(the end)"));
    }
}

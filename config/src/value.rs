//! Text values with their bounds, and the error for a value outside them.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A value that the format does not allow: what was found, what was expected, and a hint where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    /// What was found, quoted and shortened to be printed on one line.
    pub found: String,
    /// What would have been valid.
    pub expected: String,
    /// How to mend it, for instance the nearest known name.
    pub help: Option<String>,
    /// The bytes of the value that are meant; `None` means all of it.
    pub(crate) range: Option<Range<usize>>,
}

impl InvalidValue {
    /// `value` was found where `expected` describes what may stand.
    pub(crate) fn new(value: &str, expected: impl Into<String>) -> Self {
        Self::described(quote(value), expected)
    }

    /// Like [`InvalidValue::new`] with `found` in words instead of a value to quote.
    pub(crate) fn described(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { found: found.into(), expected: expected.into(), help: None, range: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the nearest of the `known` names as a hint, if one is near `value`.
    pub(crate) fn suggest<'a>(mut self, value: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        if let Some(name) = nearest(value, known) {
            self.help = Some(format!("did you mean {}?", quote(name)));
        }
        self
    }

    pub(crate) fn at(mut self, range: Range<usize>) -> Self {
        self.range = Some(range);
        self
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {}, expected {}", self.found, self.expected)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

impl std::error::Error for InvalidValue {}

/// Puts `value` in quotes, on one line and at most 40 characters long: it comes from a file that may hold anything.
pub(crate) fn quote(value: &str) -> String {
    const SHOWN: usize = 40;
    let shown = |c: char| match c {
        '\'' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    let mut quoted: String = value.chars().take(SHOWN).map(shown).collect();
    if value.chars().nth(SHOWN).is_some() {
        quoted.push('…');
    }
    format!("\"{quoted}\"")
}

/// Joins names as prose does: `a, b or c`.
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// The known name that `value` may stand for: at most two edits in five characters away, whatever the case.
pub(crate) fn nearest<'a>(value: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = value.chars().take(Name::MAX_CHARS + 1).count();
    if length > Name::MAX_CHARS {
        return None;
    }
    let value = value.to_lowercase();
    known
        .into_iter()
        .filter_map(|name| {
            let distance = strsim::osa_distance(&value, &name.to_lowercase());
            let allowed = (length.max(name.chars().count()) * 2 / 5).max(1);
            (distance <= allowed).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The characters of `text` in lower case.
pub(crate) fn folded(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Whether one slip of the pen makes `a` of `b`: a character too many, too few, another, two swapped, or only the case.
///
/// The same as a distance of at most 1, in linear time: this is asked of every pair of names in a file. Both are [`folded`].
pub(crate) fn is_slip(a: &[char], b: &[char]) -> bool {
    let same = |(x, y): &(&char, &char)| x == y;
    let prefix = a.iter().zip(b).take_while(same).count();
    let (a, b) = (&a[prefix..], &b[prefix..]);
    let suffix = a.iter().rev().zip(b.iter().rev()).take_while(same).count();
    match (&a[..a.len() - suffix], &b[..b.len() - suffix]) {
        ([] | [_], [] | [_]) => true,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

/// XML 1.0 (fifth edition), production 2, `Char`.
pub(crate) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// XML 1.0, production 3, `S`.
pub(crate) fn is_xml_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

macro_rules! text_type {
    ($(#[$doc:meta])* $type:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidValue;

            fn from_str(value: &str) -> Result<Self, InvalidValue> {
                let valid: fn(&str) -> bool = $valid;
                if valid(value) { Ok(Self(value.to_owned())) } else { Err(InvalidValue::new(value, $expected)) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn within(value: &str, max_chars: usize) -> bool {
    !value.is_empty() && value.chars().nth(max_chars).is_none()
}

fn is_plain(value: &str) -> bool {
    value.trim_matches(is_xml_space) == value && value.chars().all(|c| is_xml_char(c) && !c.is_control())
}

text_type!(
    /// The name of a service, a parameter or a flow: 1 to 64 characters, none of them white space, a control character or one of
    /// `, * / \`, the first not a full stop. The excluded ones separate lists, stand for "any" or lead out of a folder.
    Name,
    "a name of 1 to 64 characters without white space, ',', '*', '/' or '\\', not starting with '.'",
    |value| within(value, Name::MAX_CHARS)
        && !value.starts_with('.')
        && value.chars().all(|c| {
            is_xml_char(c) && !c.is_whitespace() && !c.is_control() && !matches!(c, ',' | '*' | '/' | '\\')
        })
);

impl Name {
    pub(crate) const MAX_CHARS: usize = 64;
}

text_type!(
    /// The application that a configuration is for: 1 to 255 characters without control characters and without white space
    /// at either end.
    ApplicationName,
    "the name of an application: 1 to 255 characters, no control characters",
    |value| within(value, 255) && is_plain(value)
);

text_type!(
    /// The value of a parameter: up to 4096 characters of any kind that XML can hold, passed on untouched. The service or protocol
    /// says what it means.
    ParameterValue,
    "at most 4096 characters that XML 1.0 allows",
    |value| value.chars().nth(4096).is_none() && value.chars().all(is_xml_char)
);

text_type!(
    /// The file name of a plug-in, such as `libcrypto.so`: 1 to 255 bytes (`NAME_MAX`) without a folder, since plug-ins are
    /// loaded from the plug-in folders only. `kernel` in any case is not a file name but a [`crate::Library`].
    LibraryFile,
    "the file name of a plug-in without a folder, such as \"libcrypto.so\" (at most 255 bytes; the word \"kernel\" has its own meaning)",
    |value| (1..=255).contains(&value.len())
        && is_plain(value)
        && !value.contains(['/', '\\', ':'])
        && !matches!(value, "." | "..")
        && !value.eq_ignore_ascii_case("kernel")
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoted_values_are_short_and_printable() {
        assert_eq!(quote("a'b\"\n\u{202E}日"), "\"a'b\\\"\\n\\u{202e}日\"");
        assert_eq!(quote(&"x".repeat(41)), format!("\"{}…\"", "x".repeat(40)));
    }

    #[test]
    fn nearest_name() {
        assert_eq!(nearest("upd", ["TCP", "UDP", "SCTP"]), Some("UDP"));
        assert_eq!(nearest("SCPT", ["TCP", "UDP", "SCTP"]), Some("SCTP"));
        assert_eq!(nearest("DCCP", ["UDP"]), None);
        assert_eq!(nearest("", ["UDP"]), None);
    }

    #[test]
    fn file_names_stay_in_the_plug_in_folders() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "/a",
            "a\\b",
            "C:a",
            "kernel",
            "KERNEL",
            "a\0",
            "a\n",
            " a",
            &"a".repeat(256),
        ] {
            assert!(name.parse::<LibraryFile>().is_err(), "{name:?}");
        }
        for name in ["libcrypto.so", "..a", "暗号.so", "a b.dll", &"a".repeat(255)] {
            assert!(name.parse::<LibraryFile>().is_ok(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_slip_is_a_distance_of_one(a in "[abc]{0,6}", b in "[abc]{0,6}") {
            prop_assert_eq!(is_slip(&folded(&a), &folded(&b)), strsim::osa_distance(&a, &b) <= 1);
        }
    }
}

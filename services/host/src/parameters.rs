//! The parameters of a service: its table, and values checked against it.

use crate::error::ParameterError;
use crate::library::string;
use freena_service_api::abi::*;
use std::ffi::CString;

/// Most parameters of a service.
const MAX_PARAMETERS: usize = 64;

/// An entry of a service's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it means.
    pub meaning: String,
    /// Unit of a number.
    pub unit: Option<String>,
    /// Value where none is given; `None` if one must be given.
    pub preset: Option<String>,
    /// What values there are.
    pub kind: ParameterKind,
    /// Whether both ends must have the same value.
    pub agreed: bool,
}

/// What values a parameter has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// A number between these, both included.
    Number(i64, i64),
    /// `true` or `false`.
    Boolean,
    /// One of these; upper and lower case are one.
    Choice(Vec<String>),
    /// The absolute path of a file.
    File,
    /// Text of at most so many bytes.
    Text(usize),
}

impl ParameterKind {
    /// The values in words: `one of AES, ChaCha20`.
    pub fn words(&self) -> String {
        match self {
            Self::Number(least, most) => format!("a number from {least} to {most}"),
            Self::Boolean => "true or false".to_owned(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            Self::File => "the absolute path of a file".to_owned(),
            Self::Text(most) => format!("text of at most {most} bytes"),
        }
    }

    /// The value in its one spelling, if it is one of the kind.
    fn canonical(&self, value: &str) -> Option<String> {
        match self {
            Self::Number(least, most) => {
                let number: i64 = value.parse().ok()?;
                (*least..=*most).contains(&number).then(|| number.to_string())
            }
            Self::Boolean => ["true", "false"].contains(&value).then(|| value.to_owned()),
            Self::Choice(choices) => choices.iter().find(|it| it.eq_ignore_ascii_case(value)).cloned(),
            Self::File => (value.starts_with('/') && !value.contains('\0')).then(|| value.to_owned()),
            Self::Text(most) => (value.len() <= *most && !value.contains('\0')).then(|| value.to_owned()),
        }
    }
}

/// Values that keep to the table: all that are given, and the presets of the others, in the order of the table.
#[derive(Clone, Debug)]
pub struct Checked {
    pub(crate) values: Vec<(CString, CString)>,
    agreed: String,
}

impl Checked {
    /// Checks `given` against the table of the service.
    ///
    /// # Errors
    /// A name that is not in the table or comes twice, a value out of bounds, a value that is missing.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(
        service: &str,
        table: &[Parameter],
        given: &[(N, V)],
    ) -> Result<Self, ParameterError> {
        let wrong = |index, name, what| ParameterError { service: service.to_owned(), index, name, what };
        for (index, (name, _)) in given.iter().enumerate() {
            let name = name.as_ref();
            if !table.iter().any(|it| it.name == name) {
                let names: Vec<&str> = table.iter().map(|it| it.name.as_str()).collect();
                let known = if names.is_empty() { "no parameters".to_owned() } else { names.join(", ") };
                let what = format!("found parameter \"{}\", expected one of: {known}", shown(name));
                return Err(wrong(Some(index), true, what));
            }
            if given[..index].iter().any(|(earlier, _)| earlier.as_ref() == name) {
                return Err(wrong(Some(index), true, format!("parameter \"{name}\" is given twice")));
            }
        }
        let (mut values, mut agreed) = (Vec::new(), String::new());
        for parameter in table {
            let found = given.iter().position(|(name, _)| name.as_ref() == parameter.name);
            let value = match (found, &parameter.preset) {
                (Some(index), _) => {
                    let value = given[index].1.as_ref();
                    parameter.kind.canonical(value).ok_or_else(|| {
                        let (shown, kind) = (shown(value), parameter.kind.words());
                        let unit =
                            parameter.unit.as_deref().map(|unit| format!(" ({unit})")).unwrap_or_default();
                        let what = format!("found {}=\"{shown}\", expected {kind}{unit}", parameter.name);
                        wrong(Some(index), false, what)
                    })?
                }
                (None, Some(preset)) => preset.clone(),
                (None, None) => {
                    let what = format!("parameter \"{}\" is missing: {}", parameter.name, parameter.meaning);
                    return Err(wrong(None, true, what));
                }
            };
            if parameter.agreed {
                agreed.push_str(&format!("{}={value}\n", parameter.name));
            }
            let name = CString::new(parameter.name.as_str()).unwrap_or_default();
            values.push((name, CString::new(value).unwrap_or_default()));
        }
        Ok(Self { values, agreed })
    }

    /// The values on which both ends must agree, as text: `name=value`, a line each.
    pub fn agreed(&self) -> &str {
        &self.agreed
    }

    /// The value of a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(it, _)| it.as_bytes() == name.as_bytes());
        found.and_then(|(_, value)| value.to_str().ok())
    }
}

/// `value` on one line and not too long, since it may come from anywhere.
fn shown(value: &str) -> String {
    let short: String = value.chars().take(40).collect();
    format!("{}{}", short.escape_debug(), if value.chars().nth(40).is_some() { "…" } else { "" })
}

/// The table of a service.
///
/// # Errors
/// The entry that is wrong, and why.
///
/// # Safety
/// What the table points to lives on.
pub(crate) unsafe fn read(service: &FreenaService) -> Result<Vec<Parameter>, (usize, String)> {
    let count = service.parameter_count as usize;
    if count > MAX_PARAMETERS || (count > 0 && service.parameters.is_null()) {
        return Err((0, format!("there are {count} entries, expected a table of at most {MAX_PARAMETERS}")));
    }
    let mut table: Vec<Parameter> = Vec::new();
    for index in 0..count {
        // SAFETY: the library says that there are so many.
        let raw = unsafe { *service.parameters.add(index) };
        // SAFETY: strings of the library.
        let text = |pointer| unsafe { string(pointer) };
        let wrong = |what: &str| (index, what.to_owned());
        let name = text(raw.name).unwrap_or_default();
        let good = (1..=31).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'));
        if !good {
            return Err(wrong("its name is not 1 to 31 of a-z, 0-9, `-` and `_`"));
        }
        if table.iter().any(|it| it.name == name) {
            return Err((index, format!("a second `{name}`")));
        }
        let kind = match raw.kind {
            FREENA_SERVICE_NUMBER if raw.minimum <= raw.maximum => {
                ParameterKind::Number(raw.minimum, raw.maximum)
            }
            FREENA_SERVICE_BOOLEAN => ParameterKind::Boolean,
            FREENA_SERVICE_CHOICE => {
                let choices = text(raw.choices).ok_or_else(|| wrong("a choice without choices"))?;
                ParameterKind::Choice(choices.split('|').map(str::to_owned).collect())
            }
            FREENA_SERVICE_FILE => ParameterKind::File,
            FREENA_SERVICE_TEXT => ParameterKind::Text(usize::try_from(raw.maximum).unwrap_or(0)),
            _ => return Err(wrong("its kind is unknown, or its bounds are none")),
        };
        let preset = match text(raw.preset) {
            Some(preset) => Some(
                kind.canonical(&preset)
                    .ok_or_else(|| (index, format!("its preset `{preset}` is not {}", kind.words())))?,
            ),
            None => None,
        };
        table.push(Parameter {
            name,
            meaning: text(raw.meaning).unwrap_or_default(),
            unit: text(raw.unit),
            preset,
            kind,
            agreed: raw.agreed == 1,
        });
    }
    Ok(table)
}

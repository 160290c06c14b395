//! A condition of a rule: everything, or one of a list.

use std::fmt;
use std::str::FromStr;

use crate::MAX_LIST;
use crate::value::{InvalidValue, is_xml_space};

/// What an attribute such as `port="20,1024-2048"` selects: anything (`*`), or the items of a list of 1 to
/// [`MAX_LIST`] entries separated by commas.
///
/// The default is anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection<T>(Option<Vec<T>>);

impl<T> Selection<T> {
    /// Selects everything: `*`.
    pub const ANY: Self = Self(None);

    /// Selects the given items; `None` when there are none or more than [`MAX_LIST`].
    pub fn of(items: Vec<T>) -> Option<Self> {
        (1..=MAX_LIST).contains(&items.len()).then_some(Self(Some(items)))
    }

    /// The items; `None` means everything.
    pub fn items(&self) -> Option<&[T]> {
        self.0.as_deref()
    }

    /// Whether everything is selected.
    pub fn is_any(&self) -> bool {
        self.0.is_none()
    }

    /// Whether everything is selected, or an item for which `matches` holds.
    pub fn selects(&self, matches: impl FnMut(&T) -> bool) -> bool {
        self.0.as_ref().is_none_or(|items| items.iter().any(matches))
    }
}

impl<T> Default for Selection<T> {
    fn default() -> Self {
        Self::ANY
    }
}

impl<T: FromStr<Err = InvalidValue>> FromStr for Selection<T> {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        if value.trim_matches(is_xml_space) == "*" {
            return Ok(Self::ANY);
        }
        let mut items = Vec::new();
        let mut start = 0;
        for raw in value.split(',') {
            let lead = raw.len() - raw.trim_start_matches(is_xml_space).len();
            let item = raw.trim_matches(is_xml_space);
            let range = start + lead..start + lead + item.len();
            start += raw.len() + 1;
            if items.len() == MAX_LIST {
                let found = format!("more than {MAX_LIST} items");
                return Err(InvalidValue::described(found, format!("a list of at most {MAX_LIST}")).at(range));
            }
            let parsed = match item {
                "" => {
                    Err(InvalidValue::described("an empty list item", "a value on each side of every comma"))
                }
                "*" => Err(InvalidValue::new("*", "'*' alone, without other list items")),
                _ => item.parse(),
            };
            items.push(parsed.map_err(|error| error.at(range))?);
        }
        Ok(Self(Some(items)))
    }
}

impl<T: fmt::Display> fmt::Display for Selection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(items) = &self.0 else { return f.write_str("*") };
        for (index, item) in items.iter().enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

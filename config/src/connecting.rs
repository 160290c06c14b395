//! By which of several protocols the application opens flows.

use std::fmt;
use std::str::FromStr;

use crate::value::InvalidValue;

/// The value of the attribute `connect` of `<protocols>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connecting {
    /// By the default protocol and no other: `default`.
    Default,
    /// By the default protocol, then by the options in their order: the next one when the one before has failed, or has
    /// not answered for so many milliseconds, [`Connecting::MIN`] to [`Connecting::MAX`].
    Options {
        /// The milliseconds.
        stagger: u32,
    },
}

impl Connecting {
    /// Fewer would have all protocols tried at once (RFC 8305 section 8).
    pub const MIN: u32 = 10;
    /// A minute.
    pub const MAX: u32 = 60_000;
    /// The milliseconds where nothing is said (RFC 8305 section 8).
    pub const USUAL: u32 = 250;
}

impl std::default::Default for Connecting {
    fn default() -> Self {
        Self::Options { stagger: Self::USUAL }
    }
}

impl FromStr for Connecting {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        let expected = || format!("\"default\", or milliseconds from {} to {}", Self::MIN, Self::MAX);
        match value {
            "default" => Ok(Self::Default),
            _ if !value.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(InvalidValue::new(value, expected()).suggest(value, ["default"]))
            }
            _ => match value.parse() {
                Ok(stagger) if (Self::MIN..=Self::MAX).contains(&stagger) => Ok(Self::Options { stagger }),
                _ => Err(InvalidValue::new(value, expected())),
            },
        }
    }
}

impl fmt::Display for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Options { stagger } => stagger.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_word_or_a_number_in_bounds() {
        assert_eq!("default".parse(), Ok(Connecting::Default));
        for stagger in [10, 250, 60_000] {
            assert_eq!(stagger.to_string().parse(), Ok(Connecting::Options { stagger }));
        }
        for wrong in ["", "9", "60001", "-1", "+20", "0x10", "99999999999", "defualt"] {
            let error = wrong.parse::<Connecting>().unwrap_err().to_string();
            assert!(error.contains("milliseconds from 10 to 60000"), "{wrong}: {error}");
        }
    }
}

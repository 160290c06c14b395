//! Where in a file something stands.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;

/// A place in the decoded text of a file. Both numbers count from 1; the column counts characters, not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The line: `\n`, `\r\n` and a lone `\r` end one.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The start tag that a value was read from, for later messages about it.
///
/// The default is "not from a file". Where something stands is no part of what it is: all origins compare equal, so that
/// values that hold one compare by their content.
#[derive(Debug, Clone, Default)]
pub struct Origin(Option<(Position, Range<usize>)>);

impl Origin {
    pub(crate) fn new(position: Position, bytes: Range<usize>) -> Self {
        Self(Some((position, bytes)))
    }

    /// Line and column of the start tag; `None` when the value does not come from a file.
    pub fn position(&self) -> Option<Position> {
        self.0.as_ref().map(|(position, _)| *position)
    }

    /// The bytes of the start tag in the decoded text.
    pub(crate) fn bytes(&self) -> Option<Range<usize>> {
        self.0.as_ref().map(|(_, bytes)| bytes.clone())
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// Turns byte offsets into positions. Offsets that grow cost one pass over the text in all, so a file made of one long
/// line is no burden.
pub(crate) struct Locator<'a> {
    text: &'a str,
    last: Cell<(usize, Position)>,
}

impl<'a> Locator<'a> {
    const START: (usize, Position) = (0, Position { line: 1, column: 1 });

    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, last: Cell::new(Self::START) }
    }

    /// The position of the character at or around byte `offset`.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let (from, mut position) = if offset < self.last.get().0 { Self::START } else { self.last.get() };
        let offset = self.text.floor_char_boundary(offset);
        let mut chars = self.text[from..offset].chars().peekable();
        while let Some(c) = chars.next() {
            // The `\r` of a `\r\n` whose `\n` lies after `offset` must not end the line twice later on.
            let next = chars.peek().copied().or_else(|| self.text[offset..].chars().next());
            if c == '\n' || (c == '\r' && next != Some('\n')) {
                position = Position { line: position.line + 1, column: 1 };
            } else {
                position.column += 1;
            }
        }
        self.last.set((offset, position));
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, offset: usize) -> (u32, u32) {
        let position = Locator::new(text).position(offset);
        (position.line, position.column)
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(at("日本x", 6), (1, 3));
        assert_eq!(at("日本x", 4), (1, 2), "inside a character");
    }

    #[test]
    fn all_line_ends_count_once() {
        let text = "a\r\nb\rc\nd";
        assert_eq!(at(text, text.len() - 1), (4, 1));
        assert_eq!(at(text, text.len() + 9), (4, 2));
    }

    #[test]
    fn order_of_questions_does_not_matter() {
        let text = "a\r\nb\rc\nd\r\n\r\n日本\n";
        let locator = Locator::new(text);
        for first in 0..=text.len() {
            for second in 0..=text.len() {
                let _ = locator.position(first);
                let position = locator.position(second);
                assert_eq!((position.line, position.column), at(text, second), "{first} then {second}");
            }
        }
    }
}

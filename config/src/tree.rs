//! Text to elements and attributes. What is kept is in the tables of [`crate::schema`]; everything else is a problem.

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::errors::{Error, IllFormedError};
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesDecl, BytesStart, Event};

use crate::MAX_DEPTH;
use crate::error::Problems;
use crate::origin::Origin;
use crate::schema::{Attribute, CONFIGURATION, Element, SCHEMA_HINTS};
use crate::value::{InvalidValue, is_xml_char, is_xml_space, one_of, quote};

/// An element with the attributes and children that its table allows, required attributes perhaps missing (reported).
pub(crate) struct Node {
    pub(crate) element: &'static Element,
    pub(crate) attributes: Vec<Value>,
    pub(crate) children: Vec<Node>,
    pub(crate) origin: Origin,
}

/// The value of an attribute.
pub(crate) struct Value {
    pub(crate) attribute: &'static Attribute,
    /// The value after normalisation (XML 1.0, section 3.3.3).
    pub(crate) text: String,
    /// Where it stands, without the quotes.
    pub(crate) span: Range<usize>,
}

impl Node {
    /// The value of the attribute `name`, which must be one of the element's table.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        debug_assert!(
            self.element.attribute(name).is_some(),
            "{name} is not in the table of {}",
            self.element.name
        );
        self.attributes.iter().find(|value| value.attribute.name == name)
    }
}

/// Reads `text`. `None` means a problem was reported; there may be problems with a tree, too.
pub(crate) fn parse<'a>(text: &'a str, problems: &mut Problems<'a>) -> Option<Node> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    reader.config_mut().check_comments = true;
    let mut tree = Tree { text, problems, open: Vec::new(), root: None, seen_root: false };
    loop {
        let start = reader.buffer_position() as usize;
        let event = reader.read_event();
        let span = start..(reader.buffer_position() as usize).max(start);
        let go_on = match event {
            Ok(event) => tree.event(event, span),
            Err(error) => tree.syntax(&error, reader.error_position() as usize, span),
        };
        if !go_on || tree.problems.is_full() {
            return tree.root;
        }
    }
}

/// A start tag whose end tag has not come yet: a node, or an element that is passed over, since it is not allowed.
enum Open {
    Node(Node),
    Foreign,
}

struct Tree<'a, 'p> {
    text: &'a str,
    problems: &'p mut Problems<'a>,
    open: Vec<Open>,
    root: Option<Node>,
    seen_root: bool,
}

impl<'a> Tree<'a, '_> {
    /// Takes one event; false ends the reading.
    fn event(&mut self, event: Event<'_>, span: Range<usize>) -> bool {
        match event {
            Event::Start(tag) => return self.start(&tag, span),
            Event::End(_) => self.end(),
            Event::Text(_) | Event::CData(_) => self.content(span),
            Event::GeneralRef(_) => self.outside_of_attributes(span),
            Event::Decl(declaration) => self.declaration(&declaration, span),
            Event::DocType(_) => {
                let expected = "no DTD: entities and defaults from elsewhere are not read";
                self.problems.report(span, InvalidValue::described("a document type declaration", expected));
                return false;
            }
            Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => {
                self.end_of_file(span);
                return false;
            }
            Event::Empty(_) => unreachable!("expand_empty_elements is set"),
        }
        true
    }

    fn start(&mut self, tag: &BytesStart<'_>, span: Range<usize>) -> bool {
        if self.open.len() == MAX_DEPTH {
            let found = format!("elements nested more than {MAX_DEPTH} deep");
            self.problems.report(span, InvalidValue::described(found, "at most four levels"));
            return false;
        }
        let name = String::from_utf8_lossy(tag.name().into_inner()).into_owned();
        let opened = match self.allowed(&name, span.clone()) {
            Some(element) => Open::Node(self.node(element, tag, span)),
            None => Open::Foreign,
        };
        self.seen_root = true;
        self.open.push(opened);
        true
    }

    /// The table of the element `name`, if it may stand here.
    fn allowed(&mut self, name: &str, span: Range<usize>) -> Option<&'static Element> {
        let found = format!("<{}>", quote(name).trim_matches('"'));
        let (allowed, place): (Vec<&'static Element>, _) = match self.open.last() {
            // Reported when its parent was opened.
            Some(Open::Foreign) => return None,
            Some(Open::Node(parent)) => {
                if let Some(child) = parent.element.child(name) {
                    let first = parent.children.iter().find(|node| std::ptr::eq(node.element, child.element));
                    let Some(first) = first.filter(|_| child.once) else { return Some(child.element) };
                    let help =
                        first.origin.position().map(|at| format!("the first is at {at}")).unwrap_or_default();
                    let invalid = InvalidValue::described(format!("a second {found}"), "only one").help(help);
                    self.problems.report(span, invalid);
                    return None;
                }
                (parent.element.children.iter().map(|child| child.element).collect(), parent.element.name)
            }
            None if self.seen_root => {
                let expected = "the end of the file after </configuration>";
                self.problems.report(span, InvalidValue::described(found, expected));
                return None;
            }
            None if name == CONFIGURATION.name => return Some(&CONFIGURATION),
            None => (vec![&CONFIGURATION], "the file"),
        };
        let tags: Vec<_> = allowed.iter().map(|element| format!("<{}>", element.name)).collect();
        let expected = match tags.len() {
            0 => format!("nothing inside <{place}>"),
            _ => format!("{} inside {place}", one_of(tags.iter().map(String::as_str))),
        };
        let names = allowed.iter().map(|element| element.name);
        self.problems.report(span, InvalidValue::described(found, expected).suggest(name, names));
        None
    }

    fn end(&mut self) {
        if let Some(Open::Node(node)) = self.open.pop() {
            match self.open.last_mut() {
                Some(Open::Node(parent)) => parent.children.push(node),
                // The children of a foreign element are foreign.
                Some(Open::Foreign) => {}
                None => self.root = Some(node),
            }
        }
    }

    fn node(&mut self, element: &'static Element, tag: &BytesStart<'_>, span: Range<usize>) -> Node {
        let origin = Origin::new(self.problems.locator.position(span.start), span.clone());
        let mut node = Node { element, attributes: Vec::new(), children: Vec::new(), origin };
        let mut complete = true;
        // The tag's bytes start after the "<". Its duplicates are found below: quick-xml would compare all pairs.
        let base = span.start + 1;
        for attribute in tag.attributes().with_checks(false) {
            let attribute = match attribute {
                Ok(attribute) => attribute,
                Err(error) => {
                    self.attribute_syntax(&error, base, &span);
                    complete = false;
                    break;
                }
            };
            let within = |part: &[u8]| {
                let at = base + (part.as_ptr().addr() - tag.as_ptr().addr());
                at..at + part.len()
            };
            let key = within(attribute.key.into_inner());
            let value = match &attribute.value {
                std::borrow::Cow::Borrowed(value) => within(value),
                // Does not happen: quick-xml copies a value only when it unescapes it.
                std::borrow::Cow::Owned(_) => key.clone(),
            };
            complete &= self.attribute(&mut node, key, value);
            if self.problems.is_full() {
                break;
            }
        }
        if complete {
            self.required(&node, span);
        }
        node
    }

    /// Adds an attribute to `node`; false when it is not one of the element's, so that a missing one may be it, misspelt.
    fn attribute(&mut self, node: &mut Node, key: Range<usize>, value: Range<usize>) -> bool {
        let element = node.element;
        let name = &self.text[key.clone()];
        let Some(attribute) = element.attribute(name) else {
            if std::ptr::eq(element, &CONFIGURATION) && SCHEMA_HINTS.contains(&name) {
                return true;
            }
            let names = || element.attributes.iter().map(|attribute| attribute.name);
            let expected = match element.attributes {
                [] => format!("no attribute in <{}>", element.name),
                _ => format!("{} in <{}>", one_of(names()), element.name),
            };
            let found = format!("the attribute {}", quote(name));
            self.problems.report(key, InvalidValue::described(found, expected).suggest(name, names()));
            return false;
        };
        if node.value(attribute.name).is_some() {
            let found = format!("a second attribute {}", quote(name));
            self.problems.report(key, InvalidValue::described(found, "each attribute once"));
            return true;
        }
        match normalise(&self.text[value.clone()]) {
            Ok(text) => node.attributes.push(Value { attribute, text, span: value }),
            Err((range, invalid)) => {
                self.problems.report(value.start + range.start..value.start + range.end, invalid);
                return false;
            }
        }
        true
    }

    fn required(&mut self, node: &Node, span: Range<usize>) {
        for attribute in node.element.attributes {
            if attribute.required && node.value(attribute.name).is_none() {
                let found = format!("<{}> without {}", node.element.name, attribute.name);
                let invalid = InvalidValue::described(found, format!("{}=\"...\"", attribute.name));
                self.problems.report(span.clone(), invalid.help(attribute.doc));
            }
        }
    }

    /// Text or CDATA: only white space may stand between elements.
    fn content(&mut self, span: Range<usize>) {
        let text = &self.text[span.clone()];
        let trimmed = text.trim_matches(is_xml_space);
        if !trimmed.is_empty() && !matches!(self.open.last(), Some(Open::Foreign)) {
            let start = span.start + text.len() - text.trim_start_matches(is_xml_space).len();
            let invalid = InvalidValue::described(format!("the text {}", quote(trimmed)), "elements only");
            self.problems
                .report(start..start + trimmed.len(), invalid.help("comments are written <!-- so -->"));
        }
    }

    fn outside_of_attributes(&mut self, span: Range<usize>) {
        let found = format!("the reference {}", quote(&self.text[span.clone()]));
        self.problems.report(span, InvalidValue::described(found, "references in attribute values only"));
    }

    fn declaration(&mut self, declaration: &BytesDecl<'_>, span: Range<usize>) {
        let expected = "<?xml version=\"1.0\" encoding=\"...\"?> at the start of the file";
        if span.start != 0 {
            self.problems.report(span, InvalidValue::described("an XML declaration", expected));
            return;
        }
        let version = declaration.version();
        let encoding = declaration.encoding().transpose();
        if version.as_ref().is_ok_and(|version| **version != *b"1.0") {
            let found = String::from_utf8_lossy(&version.unwrap_or_default()).into_owned();
            self.problems.report(span, InvalidValue::new(&found, "XML version \"1.0\""));
        } else if version.is_err() || encoding.is_err() {
            let found = quote(&self.text[span.clone()]);
            self.problems.report(span, InvalidValue::described(found, expected));
        }
    }

    fn end_of_file(&mut self, span: Range<usize>) {
        let open = self.open.iter().rev().find_map(|open| match open {
            Open::Node(node) => Some(node),
            Open::Foreign => None,
        });
        if let Some(node) = open {
            let opened =
                node.origin.position().map(|at| format!("it was opened at {at}")).unwrap_or_default();
            let invalid = InvalidValue::described("the end of the file", format!("</{}>", node.element.name));
            self.problems.report(span, invalid.help(opened));
        } else if !self.seen_root {
            let invalid = InvalidValue::described("no element", "<configuration application=\"...\">");
            self.problems.report(span, invalid);
        }
    }

    /// An error of the XML syntax, after which there is no sense in reading on.
    fn syntax(&mut self, error: &Error, at: usize, span: Range<usize>) -> bool {
        let at = at.min(self.text.len());
        let end = span.end.clamp(at, self.text.len());
        let invalid = match error {
            Error::IllFormed(IllFormedError::MismatchedEndTag { expected, found }) => {
                InvalidValue::described(
                    format!("</{}>", quote(found).trim_matches('"')),
                    format!("</{}>", quote(expected).trim_matches('"')),
                )
            }
            Error::IllFormed(IllFormedError::UnmatchedEndTag(found)) => InvalidValue::described(
                format!("</{}>", quote(found).trim_matches('"')),
                "a start tag before it",
            ),
            other => {
                let rest = self.text[self.text.floor_char_boundary(at)..].lines().next().unwrap_or_default();
                let found = if rest.is_empty() { "the end of the line".into() } else { quote(rest) };
                InvalidValue::described(found, "well-formed XML").help(other.to_string())
            }
        };
        self.problems.report(at..end, invalid);
        false
    }

    fn attribute_syntax(&mut self, error: &AttrError, base: usize, tag: &Range<usize>) {
        let (at, found, expected) = match error {
            AttrError::ExpectedEq(at) => (*at, "an attribute without value", "name=\"value\""),
            AttrError::ExpectedValue(at) => (*at, "no value", "a value in quotes after the ="),
            AttrError::UnquotedValue(at) => (*at, "a value without quotes", "name=\"value\""),
            AttrError::ExpectedQuote(at, _) => (*at, "a value without its second quote", "name=\"value\""),
            AttrError::Duplicated(at, _) => (*at, "an attribute again", "each attribute once"),
        };
        let at = (base + at).min(tag.end);
        self.problems.report(at..at, InvalidValue::described(found, expected));
    }
}

/// XML 1.0, section 3.3.3: white space becomes a space, references become what they stand for. Only the five
/// predefined entities and character references exist, as there is no DTD, so nothing can grow.
fn normalise(raw: &str) -> Result<String, (Range<usize>, InvalidValue)> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            '<' => {
                let invalid = InvalidValue::described("\"<\" in a value", "\"&lt;\"")
                    .help("is a quote missing before it?");
                return Err((at..at + 1, invalid));
            }
            '&' => {
                // The longest that means anything is a character reference such as &#x0010FFFF;.
                let end =
                    raw[at..].char_indices().take(16).find(|(_, c)| *c == ';').map(|(end, _)| at + end + 1);
                let reference = &raw[at..end.unwrap_or(at + 1)];
                let known = end.and_then(|_| quick_xml::escape::unescape(reference).ok());
                let Some(known) = known.filter(|text| text.chars().all(is_xml_char)) else {
                    let expected = "&amp; &lt; &gt; &quot; &apos; or a character reference such as &#x3042;";
                    return Err((at..at + reference.len(), InvalidValue::new(reference, expected)));
                };
                text.push_str(&known);
                while rest.next_if(|(next, _)| *next < at + reference.len()).is_some() {}
            }
            // A line end is one character, however it is written (section 2.11).
            '\r' if rest.peek().is_some_and(|(_, next)| *next == '\n') => {}
            c if is_xml_space(c) => text.push(' '),
            c => text.push(c),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_values() {
        assert_eq!(normalise("a\r\nb\tc\n&#10;&#x3042;&amp;lt;").unwrap(), "a b c \nあ&lt;");
        for raw in ["<", "&", "&foo;", "&#0;", "&#xD800;", "&#x110000;", "&amp", "& ;", "&#;", "&あ;"] {
            assert!(normalise(raw).is_err(), "{raw}");
        }
    }
}

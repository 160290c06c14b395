//! From words to a filter.

use super::{MAX_FILTER, Side, Term};
use freena_wire::protocol;
use std::fmt;
use std::net::IpAddr;

/// The deepest nesting of parentheses and negations.
const MAX_DEPTH: u32 = 32;

/// Why a filter cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFilter {
    /// Where, counted in characters from 1.
    pub column: usize,
    /// What was found there; empty for the end.
    pub found: String,
    /// What was expected.
    pub expected: &'static str,
}

impl fmt::Display for BadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadFilter { column, found, expected } = self;
        write!(f, "filter, column {column}: found ")?;
        if found.is_empty() {
            f.write_str("the end")?
        } else {
            write!(f, "`{found}`")?
        }
        write!(f, ", expected {expected}")
    }
}

impl std::error::Error for BadFilter {}

const PRIMITIVE: &str =
    "host, net, port, portrange, src, dst, ip, ip6, tcp, udp, sctp, icmp, icmp6, inbound, outbound, not or (";

/// A word and the column where it starts.
type Word<'t> = (usize, &'t str);

pub(super) fn parse(text: &str) -> Result<Option<Term>, BadFilter> {
    if text.len() > MAX_FILTER {
        let found = format!("{} bytes", text.len());
        return Err(BadFilter { column: 1, found, expected: "at most 1024 bytes" });
    }
    let words = words(text);
    if words.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { words: &words, end: text.chars().count() + 1, next: 0, depth: 0 };
    let term = parser.any()?;
    match parser.peek() {
        None => Ok(Some(term)),
        Some(_) => Err(parser.unexpected("and, or, or the end")),
    }
}

/// Splits at spaces; parentheses, `!`, `&&` and `||` are words of their own.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word<'_>> = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    let mut skip = 0;
    for (column, (at, letter)) in text.char_indices().enumerate() {
        if skip > 0 {
            skip -= 1;
            continue;
        }
        let rest = &text[at..];
        let sign = match letter {
            '(' | ')' | '!' => 1,
            '&' if rest.starts_with("&&") => 2,
            '|' if rest.starts_with("||") => 2,
            _ => 0,
        };
        if (sign > 0 || letter.is_whitespace())
            && let Some((start, from)) = open.take()
        {
            words.push((start, &text[from..at]));
        }
        if sign > 0 {
            words.push((column + 1, &rest[..sign]));
            skip = sign - 1;
        } else if !letter.is_whitespace() && open.is_none() {
            open = Some((column + 1, at));
        }
    }
    if let Some((start, from)) = open {
        words.push((start, &text[from..]));
    }
    words
}

struct Parser<'p, 't> {
    words: &'p [Word<'t>],
    /// Column behind the last character.
    end: usize,
    next: usize,
    depth: u32,
}

impl<'t> Parser<'_, 't> {
    fn peek(&self) -> Option<&'t str> {
        self.words.get(self.next).map(|(_, word)| *word)
    }

    fn take(&mut self, wanted: &[&str]) -> bool {
        let is = self.peek().is_some_and(|word| wanted.contains(&word));
        self.next += usize::from(is);
        is
    }

    /// An error about the next word.
    fn unexpected(&self, expected: &'static str) -> BadFilter {
        let (column, found) = self.words.get(self.next).copied().unwrap_or((self.end, ""));
        BadFilter { column, found: found.to_owned(), expected }
    }

    fn any(&mut self) -> Result<Term, BadFilter> {
        let mut terms = vec![self.all()?];
        while self.take(&["or", "||"]) {
            terms.push(self.all()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Term::Or(terms) })
    }

    fn all(&mut self) -> Result<Term, BadFilter> {
        let mut terms = vec![self.one()?];
        while self.take(&["and", "&&"]) {
            terms.push(self.one()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Term::And(terms) })
    }

    fn one(&mut self) -> Result<Term, BadFilter> {
        if self.depth == MAX_DEPTH {
            return Err(self.unexpected("at most 32 levels of parentheses and negations"));
        }
        self.depth += 1;
        let term = if self.take(&["not", "!"]) {
            Term::Not(Box::new(self.one()?))
        } else if self.take(&["("]) {
            let term = self.any()?;
            if !self.take(&[")"]) {
                return Err(self.unexpected("and, or, or )"));
            }
            term
        } else {
            self.primitive()?
        };
        self.depth -= 1;
        Ok(term)
    }

    fn primitive(&mut self) -> Result<Term, BadFilter> {
        let Some(word) = self.peek() else { return Err(self.unexpected(PRIMITIVE)) };
        let term = match word {
            "ip" => Term::Version(4),
            "ip6" => Term::Version(6),
            "tcp" => Term::Protocol(protocol::TCP),
            "udp" => Term::Protocol(protocol::UDP),
            "sctp" => Term::Protocol(protocol::SCTP),
            "icmp" => Term::Protocol(protocol::ICMP),
            "icmp6" => Term::Protocol(protocol::ICMPV6),
            "inbound" => Term::Outbound(false),
            "outbound" => Term::Outbound(true),
            _ => return self.endpoint(),
        };
        self.next += 1;
        // `udp port 53`, as tcpdump understands it.
        let followed = matches!(self.peek(), Some("src" | "dst" | "host" | "net" | "port" | "portrange"));
        if followed && !matches!(word, "inbound" | "outbound") {
            return Ok(Term::And(vec![term, self.endpoint()?]));
        }
        Ok(term)
    }

    fn endpoint(&mut self) -> Result<Term, BadFilter> {
        let (side, expected) = if self.take(&["src"]) {
            (Side::Source, "host, net, port or portrange")
        } else if self.take(&["dst"]) {
            (Side::Destination, "host, net, port or portrange")
        } else {
            (Side::Either, PRIMITIVE)
        };
        let Some(word) = self.peek() else { return Err(self.unexpected(expected)) };
        if !matches!(word, "host" | "net" | "port" | "portrange") {
            return Err(self.unexpected(expected));
        }
        self.next += 1;
        let value = self.peek().unwrap_or_default();
        let (term, expected) = match word {
            "host" => (host(side, value), "an IPv4 or IPv6 address"),
            "net" => (net(side, value), "a network such as 10.0.0.0/8 or fd00::/8"),
            "port" => (port(value).map(|port| Term::Ports(side, port, port)), "a port from 0 to 65535"),
            _ => (ports(side, value), "a range of ports such as 8000-8080"),
        };
        let term = term.ok_or_else(|| self.unexpected(expected))?;
        self.next += 1;
        Ok(term)
    }
}

fn host(side: Side, word: &str) -> Option<Term> {
    let address: IpAddr = word.parse().ok()?;
    Some(Term::Net(side, address, if address.is_ipv4() { 32 } else { 128 }))
}

fn net(side: Side, word: &str) -> Option<Term> {
    let (address, bits) = word.split_once('/')?;
    let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Term::Net(side, address, bits))
}

fn port(word: &str) -> Option<u16> {
    word.parse().ok()
}

fn ports(side: Side, word: &str) -> Option<Term> {
    let (first, last) = word.split_once('-')?;
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(Term::Ports(side, first, last))
}

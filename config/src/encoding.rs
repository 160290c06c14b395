//! Bytes to text, by the encoding that the XML declaration names.

use std::borrow::Cow;
use std::ops::Range;

use encoding_rs::{DecoderResult, EUC_JP, Encoding, SHIFT_JIS, UTF_8};
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::MAX_FILE_SIZE;
use crate::value::{InvalidValue, is_xml_char, one_of};

/// Bytes that are not text: the text as far as it can be shown, the place in it, and what is wrong.
pub(crate) type Undecodable = (String, Range<usize>, InvalidValue);

const NAMES: [&str; 3] = ["UTF-8", "Shift_JIS", "EUC-JP"];
const UTF_8_BOM: &[u8] = b"\xEF\xBB\xBF";

/// Decodes a file. A byte order mark is not part of the text.
pub(crate) fn decode(bytes: &[u8]) -> Result<String, Box<Undecodable>> {
    if bytes.len() > MAX_FILE_SIZE {
        let found = format!("a file of more than {MAX_FILE_SIZE} bytes");
        let invalid = InvalidValue::described(found, format!("at most {MAX_FILE_SIZE} bytes"));
        return Err(Box::new((String::new(), 0..0, invalid)));
    }
    let (bytes, has_bom) = match bytes.strip_prefix(UTF_8_BOM) {
        Some(rest) => (rest, true),
        None => (bytes, false),
    };
    let encoding = declared(bytes)?.unwrap_or(UTF_8);
    if has_bom && encoding != UTF_8 {
        let found = format!("the encoding {} after a byte order mark of UTF-8", encoding.name());
        return Err(undecodable(bytes, 0, InvalidValue::described(found, "one of the two")));
    }
    let text = decode_as(encoding, bytes)?;
    // A second byte order mark is an ordinary character, and none may stand before the root element.
    let forbidden = |(at, c): &(usize, char)| !is_xml_char(*c) || (*at == 0 && *c == '\u{FEFF}');
    match text.char_indices().find(forbidden) {
        None => Ok(text),
        Some((at, c)) => {
            let found = format!("the character U+{:04X}", u32::from(c));
            let invalid = InvalidValue::described(found, "a character that XML 1.0 allows there");
            Err(Box::new((text, at..at + c.len_utf8(), invalid)))
        }
    }
}

/// The encoding that the XML declaration names, if there is one that does. A declaration is written in ASCII, which is the
/// same bytes in all encodings read here.
fn declared(bytes: &[u8]) -> Result<Option<&'static Encoding>, Box<Undecodable>> {
    if [&b"\xFE\xFF"[..], b"\xFF\xFE", b"\0<", b"<\0"].iter().any(|utf_16| bytes.starts_with(utf_16)) {
        return Err(undecodable(bytes, 0, InvalidValue::described("UTF-16 text", one_of(NAMES))));
    }
    let Ok(Event::Decl(declaration)) = Reader::from_reader(bytes).read_event() else { return Ok(None) };
    // A broken declaration is reported with its position by the XML reader, in UTF-8.
    let Some(Ok(Cow::Borrowed(label))) = declaration.encoding() else { return Ok(None) };
    let supported = [UTF_8, SHIFT_JIS, EUC_JP];
    match Encoding::for_label_no_replacement(label).filter(|encoding| supported.contains(encoding)) {
        Some(encoding) => Ok(Some(encoding)),
        None => {
            // Both are parts of `declaration`, which starts two bytes into the file, after "<?".
            let at = 2 + label.as_ptr().addr() - declaration.as_ptr().addr();
            let label = String::from_utf8_lossy(label);
            let invalid = InvalidValue::new(&label, format!("the encoding {}", one_of(NAMES)));
            Err(undecodable(bytes, at, invalid.suggest(&label, NAMES)))
        }
    }
}

fn undecodable(bytes: &[u8], at: usize, invalid: InvalidValue) -> Box<Undecodable> {
    let at = String::from_utf8_lossy(&bytes[..at]).len();
    Box::new((String::from_utf8_lossy(bytes).into_owned(), at..at, invalid))
}

fn decode_as(encoding: &'static Encoding, bytes: &[u8]) -> Result<String, Box<Undecodable>> {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::new();
    let mut read = 0;
    loop {
        text.reserve(decoder.max_utf8_buffer_length_without_replacement(bytes.len() - read).unwrap_or(16));
        let (result, taken) = decoder.decode_to_string_without_replacement(&bytes[read..], &mut text, true);
        read += taken;
        match result {
            DecoderResult::InputEmpty => return Ok(text),
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(length, after) => {
                let end = read.saturating_sub(usize::from(after));
                let malformed = &bytes[end.saturating_sub(usize::from(length))..end];
                let hex: Vec<_> = malformed.iter().map(|byte| format!("0x{byte:02X}")).collect();
                let found = format!("the bytes {}", hex.join(" "));
                let invalid = InvalidValue::described(found, format!("text in {}", encoding.name()))
                    .help("the encoding attribute of the XML declaration must name the encoding of the file");
                let shown = encoding.decode_without_bom_handling(bytes).0.into_owned();
                return Err(Box::new((shown, text.len()..text.len(), invalid)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared_as(label: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = format!("<?xml version=\"1.0\" encoding=\"{label}\"?>\n").into_bytes();
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn decodes_each_encoding() {
        for (label, encoding) in [("Shift_JIS", SHIFT_JIS), ("euc-jp", EUC_JP), ("utf8", UTF_8)] {
            let text = decode(&declared_as(label, &encoding.encode("<日本語/>").0)).unwrap();
            assert!(text.ends_with("\n<日本語/>"), "{label}: {text}");
        }
        assert_eq!(decode("<日本/>".as_bytes()).unwrap(), "<日本/>");
        assert_eq!(decode(b"\xEF\xBB\xBF<a/>").unwrap(), "<a/>");
    }

    #[test]
    fn tells_where_bytes_are_invalid() {
        let mut content = SHIFT_JIS.encode("<日").0.into_owned();
        content.push(0xFF);
        let (text, span, invalid) = *decode(&declared_as("Shift_JIS", &content)).unwrap_err();
        assert!(text[..span.start].ends_with("\n<日"));
        assert_eq!(
            (invalid.found.as_str(), invalid.expected.as_str()),
            ("the bytes 0xFF", "text in Shift_JIS")
        );
        let (_, span, invalid) = *decode(b"<a>\xE3\x81").unwrap_err();
        assert_eq!((span.start, invalid.found.as_str()), (3, "the bytes 0xE3 0x81"));
    }

    #[test]
    fn refuses_other_encodings() {
        let (text, span, invalid) = *decode(&declared_as("ShiftJIS", b"<a/>")).unwrap_err();
        assert!(text[span.start..].starts_with("ShiftJIS"));
        assert_eq!(invalid.help.as_deref(), Some("did you mean \"Shift_JIS\"?"));
        for bytes in [
            &declared_as("ISO-2022-JP", b"")[..],
            b"\xFF\xFE<\0",
            b"\0<\0a",
            b"\xEF\xBB\xBF<?xml version='1.0' encoding='EUC-JP'?>",
            b"<a>\0",
            b"\xEF\xBB\xBF\xEF\xBB\xBF<a/>",
        ] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }
}

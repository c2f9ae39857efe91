//! HPACK against the examples of RFC 7541 appendix C, a naive model, and peers that mean ill.

mod examples;
mod model;

use proptest::prelude::*;

use super::encode::*;
use super::*;

/// What a block says, in our own memory.
type Owned = (Name, Vec<u8>, Vec<u8>);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Owned>, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| fields.push((field.name, field.text.to_vec(), field.value.to_vec())))?;
    Ok(fields)
}

fn fresh(block: &[u8]) -> Result<Vec<Owned>, HpackError> {
    decode(&mut Decoder::new(4096), block)
}

fn field(name: Name, text: &str, value: &str) -> Owned {
    (name, text.into(), value.into())
}

/// A string with the Huffman code or without.
fn string(text: &[u8], is_coded: bool) -> Vec<u8> {
    let mut coded = Vec::new();
    if is_coded {
        huffman::encode(text, &mut coded);
    }
    let text = if is_coded { &coded } else { text };
    let mut out = Vec::new();
    put_integer(&mut out, u8::from(is_coded) << 7, 0x7f, text.len());
    out.extend_from_slice(text);
    out
}

#[test]
fn integers_have_a_bound() {
    let read = |first, mask, rest: &[u8]| integer(first, mask, rest).map(|(value, rest)| (value, rest.len()));
    // RFC 7541 appendix C.1.
    assert_eq!(read(0b1110_1010, 0x1f, &[]), Ok((10, 0)));
    assert_eq!(read(0x1f, 0x1f, &[0x9a, 0x0a, 0]), Ok((1337, 1)));
    assert_eq!(read(42, 0xff, &[]), Ok((42, 0)));
    assert_eq!(read(0xff, 0x7f, &[0xff, 0xff, 0xff, 0x7f]), Ok(((1 << 28) - 1 + 127, 0)));
    assert_eq!(read(0xff, 0x7f, &[0x80, 0x80, 0x80, 0x80, 0x00]), Err(HpackError::IntegerTooLarge));
    assert_eq!(read(0xff, 0x7f, &[0x80, 0x80]), Err(HpackError::Truncated));
}

#[test]
fn what_breaks_a_rule_of_the_encoding() {
    let long = string(&vec![b'a'; MAX_STRING + 1], false);
    let long_when_decoded = string(&vec![b'0'; MAX_STRING + 1], true);
    let cases: &[(&[u8], HpackError)] = &[
        (&[0x80], HpackError::NoEntry(0)),
        (&[0xbe], HpackError::NoEntry(62)),
        (&[0xff, 0x00], HpackError::NoEntry(127)),
        (&[0xff, 0xff, 0xff, 0xff, 0x7f], HpackError::NoEntry((1 << 28) + 126)),
        (&[0x7e, 0x00], HpackError::NoEntry(62)),
        (&[0x0f, 0x2f, 0x00], HpackError::NoEntry(62)),
        (&[0xff], HpackError::Truncated),
        (&[0x40], HpackError::Truncated),
        (&[0x40, 0x01], HpackError::Truncated),
        (&[0x40, 0x01, b'a'], HpackError::Truncated),
        (&[0x40, 0x01, b'a', 0x02, b'b'], HpackError::Truncated),
        (&[0x44], HpackError::Truncated),
        (&[0x0f], HpackError::Truncated),
        (&[0x3f, 0x80], HpackError::Truncated),
        (&[0x82, 0x20], HpackError::LateSizeUpdate),
        (&[0x82, 0x3f, 0x00], HpackError::LateSizeUpdate),
        (&[0x20, 0x21, 0x22], HpackError::ManySizeUpdates),
        (&[0x3f, 0xe2, 0x1f], HpackError::TableTooLarge(4097)),
        (&[0x3f, 0x80, 0x80, 0x80, 0x80, 0x01], HpackError::IntegerTooLarge),
        (&[0x04, 0x7f, 0x80, 0x80, 0x80, 0x80, 0x00], HpackError::IntegerTooLarge),
        // 64 KiB and one byte, said and not there.
        (&[0x04, 0x7f, 0x82, 0xff, 0x03], HpackError::StringTooLong),
        // `a` and eight, a symbol of more than eight, or zero bits of padding.
        (&[0x04, 0x82, 0x1f, 0xff], HpackError::Padding),
        (&[0x04, 0x81, 0xff], HpackError::Padding),
        (&[0x04, 0x83, 0xff, 0xff, 0xff], HpackError::Padding),
        (&[0x04, 0x81, 0x18], HpackError::Padding),
        (&[0x04, 0x81, 0x1e], HpackError::Padding),
        (&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff], HpackError::EndOfString),
        (&[0x04, 0x85, 0x1f, 0xff, 0xff, 0xff, 0xff], HpackError::EndOfString),
    ];
    for (block, error) in cases {
        assert_eq!(fresh(block), Err(*error), "{block:02x?}");
    }
    for text in [long, long_when_decoded] {
        assert_eq!(fresh(&[&[0x04][..], &text].concat()), Err(HpackError::StringTooLong));
        assert_eq!(fresh(&[&[0x00][..], &text, &[0]].concat()), Err(HpackError::StringTooLong));
    }
    for is_coded in [false, true] {
        let text = vec![b'0'; MAX_STRING];
        let block = [&[0x04][..], &string(&text, is_coded)].concat();
        assert_eq!(fresh(&block), Ok(vec![(Name::Path, b":path".to_vec(), text)]));
    }
    assert_eq!(fresh(&[0x04, 0x81, 0x1f]), Ok(vec![field(Name::Path, ":path", "a")]));
    assert_eq!(fresh(&[]), Ok(vec![]));
    assert_eq!(fresh(&[0x20, 0x3f, 0xe1, 0x1f]), Ok(vec![]), "none and all of it again");
}

#[test]
fn every_malformed_field_is_told_and_the_rest_goes_on() {
    let other = Name::Regular(Known::Other);
    for (name, value, expected) in [
        ("", "a", Name::Malformed),
        ("Name", "a", Name::Malformed),
        ("a-name-of-more-than-sixteen-Bytes", "a", Name::Malformed),
        ("na me", "a", Name::Malformed),
        ("name\0", "a", Name::Malformed),
        ("name:", "a", Name::Malformed),
        ("n\u{e9}", "a", Name::Malformed),
        ("name", "a\0", Name::Malformed),
        ("name", "a\rb", Name::Malformed),
        ("name", "\n", Name::Malformed),
        ("name", "a\x01", Name::Malformed),
        ("name", "a\x7f", Name::Malformed),
        ("name", "a value of more than sixteen bytes\n", Name::Malformed),
        ("name", " a\tb \u{e9}\t", other),
        ("name", "", other),
        ("n_a.m1e!#$%&'*+^`|~", "a", other),
        ("te", "trailers", Name::Regular(Known::Te)),
        ("leno-reason", "a", Name::Regular(Known::Internal)),
        ("x-forwarded-client-cert", "a", Name::Regular(Known::Internal)),
        (":method", "PUT", Name::Method),
        (":scheme", "ftp", Name::Scheme),
        (":path", "", Name::Path),
        (":path", "/\n", Name::Malformed),
        (":authority", "a", Name::Authority),
        (":status", "101", Name::Status),
        (":protocol", "websocket", Name::Protocol),
        (":Method", "GET", Name::OtherPseudo),
        (":", "", Name::OtherPseudo),
    ] {
        for is_coded in [false, true] {
            let (text, value) = (name.as_bytes(), value.as_bytes());
            // Written out, from the table, and with the name of the table and another value, also after the entry is gone.
            let literal = [&[0x40][..], &string(text, is_coded), &string(value, is_coded)].concat();
            let block = [&literal[..], &[0xbe, 0x82, 0x0f, 0x2f], &string(b"fine", is_coded)].concat();
            let get = field(Name::Method, ":method", "GET");
            let (said, fine) = ((expected, text.into(), value.into()), (Name::of(text), text.into(), b"fine".to_vec()));
            assert_eq!(fresh(&block).unwrap(), [said.clone(), said, get, fine], "{name:?}");
        }
    }
}

#[test]
fn a_name_outlives_its_entry() {
    // RFC 7541 section 4.4: the new entry refers to the name of the one that it displaces.
    let mut decoder = Decoder::new(64);
    for turn in 0..1000 {
        let first = [&[0x40][..], &string(b"name", false), &string(b"first", false)].concat();
        let value = format!("{turn:>24}");
        let block = [&first, &[0x7e][..], &string(value.as_bytes(), false), &[0xbe]].concat();
        let other = Name::Regular(Known::Other);
        let second = field(other, "name", &value);
        assert_eq!(decode(&mut decoder, &block).unwrap(), [field(other, "name", "first"), second.clone(), second]);
    }
    assert!(decoder.heap() < 512, "{}", decoder.heap());
}

#[test]
fn a_bomb_costs_neither_copies_nor_memory() {
    let mut decoder = Decoder::new(4096);
    assert_eq!(decoder.heap(), 0);
    let value = vec![b'b'; 4096 - 32 - 1];
    decode(&mut decoder, &[&[0x40][..], &string(b"a", false), &string(&value, true)].concat()).unwrap();
    let heap = decoder.heap();
    assert!(heap <= 8192 + 8 * 16, "{heap}");
    let (mut count, mut place) = (0, None);
    decoder
        .decode(&vec![0xbe; 64 * 1024], |field| {
            count += 1;
            assert_eq!((field.text, field.value.len()), (&b"a"[..], value.len()));
            assert_eq!(*place.get_or_insert(field.value.as_ptr()), field.value.as_ptr());
        })
        .unwrap();
    assert_eq!((count, decoder.heap()), (64 * 1024, heap));
    // An entry larger than the table empties it; a table of no size gives its memory back.
    decode(&mut decoder, &[&[0x40][..], &string(b"ab", false), &string(&value, false)].concat()).unwrap();
    assert_eq!(decode(&mut decoder, &[0xbe]), Err(HpackError::NoEntry(62)));
    decode(&mut decoder, &[0x20]).unwrap();
    assert_eq!(decoder.heap(), 0);
}

#[test]
fn the_code_holds_every_byte() {
    let all: Vec<u8> = (0..=255).collect();
    for text in [&all[..], &[], &all[..1], b"www.example.com"] {
        let mut coded = Vec::new();
        huffman::encode(text, &mut coded);
        let mut out = vec![0; huffman::decoded_bound(coded.len())];
        let len = huffman::decode(&coded, &mut out).unwrap();
        assert_eq!(&out[..len], text);
    }
}

#[test]
fn the_forms_that_are_written() {
    let written = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        put(&mut out);
        out
    };
    assert_eq!(written(&put_no_table), [0x20]);
    assert_eq!(written(&|out| put_method(out, "POST")), [0x83]);
    assert_eq!(written(&|out| put_method(out, "PUT")), b"\x02\x03PUT");
    assert_eq!(written(&|out| put_scheme(out, "http")), [0x86]);
    assert_eq!(written(&|out| put_path(out, b"/")), [0x84]);
    assert_eq!(written(&|out| put_status(out, 200)), [0x88]);
    assert_eq!(written(&|out| put_status(out, 503)), b"\x08\x03503");
    for (name, value, expected) in [
        ("Authorization", "x", &b"\x1f\x08\x01x"[..]),
        ("cookie", "x", b"\x1f\x11\x01x"),
        ("Set-Cookie", "x", b"\x1f\x28\x01x"),
        ("proxy-authorization", "x", b"\x1f\x22\x01x"),
        ("Content-Type", "x", b"\x0f\x10\x01x"),
        ("accept", "x", b"\x0f\x04\x01x"),
        ("www-authenticate", "x", b"\x0f\x2e\x01x"),
        ("X-A", "Value", b"\x00\x03x-a\x05Value"),
        ("TE", "trailers", b"\x00\x02te\x08trailers"),
    ] {
        let known = Known::of(name.as_bytes());
        assert_eq!(written(&|out| put_field(out, known, name.as_bytes(), value.as_bytes())), expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_written_is_read(
        names in prop::collection::vec(("[a-zA-Z0-9_.-]{1,40}|[a-zA-Z]{1,3}", "[ -~]{0,200}"), 0..10),
        fixed in prop::collection::vec((0..61_usize, "[ -~]{0,20}"), 0..10),
        method in "[A-Z]{1,8}|GET|POST",
        scheme in "https?|[a-z]{1,6}",
        path in "/[!-~]{0,300}",
        authority in "[a-z.]{0,30}",
        status in 100_u16..1000,
    ) {
        let mut out = Vec::new();
        put_no_table(&mut out);
        put_method(&mut out, &method);
        put_scheme(&mut out, &scheme);
        put_path(&mut out, path.as_bytes());
        put_authority(&mut out, authority.as_bytes());
        put_status(&mut out, status);
        let mut expected = vec![
            field(Name::Method, ":method", &method),
            field(Name::Scheme, ":scheme", &scheme),
            field(Name::Path, ":path", &path),
            field(Name::Authority, ":authority", &authority),
            field(Name::Status, ":status", &status.to_string()),
        ];
        let fixed = fixed.into_iter().map(|(at, value)| (String::from_utf8(FIXED[at].text.to_vec()).unwrap(), value));
        for (name, value) in names.into_iter().chain(fixed.filter(|(name, _)| !name.starts_with(':'))) {
            let known = Known::of(name.as_bytes());
            put_field(&mut out, known, name.as_bytes(), value.as_bytes());
            expected.push(field(Name::Regular(known), &name.to_ascii_lowercase(), &value));
        }
        let mut decoder = Decoder::new(4096);
        prop_assert_eq!(decode(&mut decoder, &out).unwrap(), expected);
        prop_assert_eq!(decoder.heap(), 0, "nothing is said for the table");
    }

    #[test]
    fn the_code_is_read_as_it_is_written(text in prop::collection::vec(prop_oneof![any::<u8>(), b' '..b'~'], 0..200)) {
        let coded = string(&text, true);
        let mut scratch = Scratch::new();
        prop_assert_eq!(string::read(&coded, &mut scratch.value), Ok((&text[..], &[][..])));
    }

    #[test]
    fn any_bits_of_the_code_are_read_or_refused(coded in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..60)) {
        let mut out = vec![0; huffman::decoded_bound(coded.len())];
        if let Ok(len) = huffman::decode(&coded, &mut out) {
            let mut again = Vec::new();
            huffman::encode(&out[..len], &mut again);
            prop_assert_eq!(again, coded, "one text has one code");
        }
    }
}

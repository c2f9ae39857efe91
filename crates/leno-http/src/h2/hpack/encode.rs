//! Writes fields without any state: what is in the static table is referred to, the rest is written out as it is.
//!
//! A table towards the peer would save bytes on a network inside a cluster and cost memory per connection, a search per field and
//! a hold of the connection while a head is written. The Huffman code would save a fifth of the bytes and cost a look-up each.

use super::fixed::FIXED;
use super::{Field, Name};
use crate::known::Known;

/// RFC 7541 section 6.2.2.
const WITHOUT_INDEXING: u8 = 0x00;
/// RFC 7541 section 6.2.3: also no proxy behind the peer puts it into a table, where guesses could be compared with it.
const NEVER_INDEXED: u8 = 0x10;

/// Says once, before the first block, that we use no table: the peer need not hold one (RFC 7541 section 6.3).
pub(in super::super) fn put_no_table(out: &mut Vec<u8>) {
    out.push(0x20);
}

pub(in super::super) fn put_method(out: &mut Vec<u8>, method: &str) {
    match method {
        "GET" => out.push(0x82),
        "POST" => out.push(0x83),
        other => put_literal(out, WITHOUT_INDEXING, 2, other.as_bytes()),
    }
}

pub(in super::super) fn put_scheme(out: &mut Vec<u8>, scheme: &str) {
    match scheme {
        "http" => out.push(0x86),
        "https" => out.push(0x87),
        other => put_literal(out, WITHOUT_INDEXING, 6, other.as_bytes()),
    }
}

pub(in super::super) fn put_path(out: &mut Vec<u8>, path: &[u8]) {
    if path == b"/" { out.push(0x84) } else { put_literal(out, WITHOUT_INDEXING, 4, path) }
}

pub(in super::super) fn put_authority(out: &mut Vec<u8>, authority: &[u8]) {
    put_literal(out, WITHOUT_INDEXING, 1, authority);
}

/// A status of three digits.
pub(in super::super) fn put_status(out: &mut Vec<u8>, status: u16) {
    debug_assert!((100..1000).contains(&status), "no status: {status}");
    match status {
        200 => out.push(0x88),
        204 => out.push(0x89),
        206 => out.push(0x8a),
        304 => out.push(0x8b),
        400 => out.push(0x8c),
        404 => out.push(0x8d),
        500 => out.push(0x8e),
        _ => {
            let digit = |n: u16| b'0' + (n % 10) as u8;
            put_literal(out, WITHOUT_INDEXING, 8, &[digit(status / 100), digit(status / 10), digit(status)]);
        }
    }
}

/// A field. `known` is what [`Known::of`] says of `name`, which may be in any case and is written in small letters.
pub(in super::super) fn put_field(out: &mut Vec<u8>, known: Known, name: &[u8], value: &[u8]) {
    debug_assert!(known == Known::of(name), "{known:?} is not {}", name.escape_ascii());
    out.reserve(name.len() + value.len() + 2 * MAX_INTEGER + 1);
    let form = match known {
        Known::Authorization | Known::Cookie | Known::SetCookie | Known::ProxyAuthorization => NEVER_INDEXED,
        _ => WITHOUT_INDEXING,
    };
    let index = index_of(known, name);
    if index != 0 {
        return put_literal(out, form, index, value);
    }
    out.push(form);
    put_integer(out, 0, 0x7f, name.len());
    let start = out.len();
    out.extend_from_slice(name);
    out[start..].make_ascii_lowercase();
    put_string(out, value);
}

/// A string (RFC 7541 section 5.2), as it is.
fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 0x7f, text.len());
    out.extend_from_slice(text);
}

/// A field whose name is that of an entry in the static table.
fn put_literal(out: &mut Vec<u8>, form: u8, index: u8, value: &[u8]) {
    out.reserve(value.len() + 2 * MAX_INTEGER);
    put_integer(out, form, 0x0f, usize::from(index));
    put_string(out, value);
}

/// Bytes of the longest integer: what fits the first byte, and seven bits in each of the others.
const MAX_INTEGER: usize = 1 + usize::BITS.div_ceil(7) as usize;

/// An integer in the bits `mask` of its first byte, whose other bits are `form` (RFC 7541 section 5.1).
#[inline]
pub(super) fn put_integer(out: &mut Vec<u8>, form: u8, mask: u8, value: usize) {
    if value < usize::from(mask) {
        return out.push(form | value as u8);
    }
    out.push(form | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The kinds of names that [`KINDS`] has a place for: all of them.
const KIND_COUNT: usize = Known::ProxyAuthorization as usize + 1;
/// Bytes of the longest name in the static table.
const LONGEST: usize = "access-control-allow-origin".len();

/// For each kind of name, its index in the static table, or zero.
static KINDS: [u8; KIND_COUNT] = {
    let mut indices = [0; KIND_COUNT];
    let mut at = 0;
    while at < FIXED.len() {
        if let Name::Regular(known) = FIXED[at].name
            && !matches!(known, Known::Other)
        {
            indices[known as usize] = at as u8 + 1;
        }
        at += 1;
    }
    indices
};

/// For names of no kind by length and last letter, the index of the only one that it may be. `content-language` and
/// `www-authenticate` have both in common, and the former is not here.
static OTHERS: [[u8; 32]; LONGEST + 1] = {
    let mut indices = [[0; 32]; LONGEST + 1];
    let mut at = 0;
    while at < FIXED.len() {
        if let Field { name: Name::Regular(Known::Other), text: text @ [.., last], .. } = FIXED[at] {
            indices[text.len()][letter(*last)] = at as u8 + 1;
        }
        at += 1;
    }
    indices
};

/// A letter without its case; what is no letter may be taken for one here.
const fn letter(byte: u8) -> usize {
    (byte & 31) as usize
}

/// The index of a name in the static table, or zero.
#[inline]
fn index_of(known: Known, name: &[u8]) -> u8 {
    if known != Known::Other {
        return KINDS[known as usize];
    }
    let [.., last] = name else { return 0 };
    let index = OTHERS.get(name.len()).map_or(0, |row| row[letter(*last)]);
    let is_it = index != 0 && FIXED[usize::from(index) - 1].text.eq_ignore_ascii_case(name);
    if is_it { index } else { 0 }
}

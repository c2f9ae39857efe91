//! Header and trailer fields, kept as the bytes they arrived in.
//!
//! A head is looked at, changed a little and written out again. So fields stay in the block they came in, with an index
//! beside it; an untouched run of lines is copied out in one piece. Names keep their case and are compared without it.

use std::fmt;

use bytes::Bytes;

use crate::head::HeadError;
use crate::known::{Known, NameSet};
use crate::lines::{self, Line, Stop, is_token};
use crate::spare::{SpareVec, stock};
use crate::{MAX_FIELDS, MAX_HEAD};

/// Where one field lies in its block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    name_at: u32,
    value_at: u32,
    value_len: u32,
    /// Past the line's CRLF, so that neighbours can be copied together; `0` if the block is not in line form.
    line_end: u32,
    name_len: u16,
    pub known: Known,
    /// In `added`, not in `block`.
    is_added: bool,
}

stock!(SLOTS: Vec<Slot>);

impl Slot {
    /// The name's place in the block.
    pub fn name(&self) -> std::ops::Range<usize> {
        self.name_at as usize..self.name_at as usize + usize::from(self.name_len)
    }

    /// The value's place in the block.
    pub fn value(&self) -> std::ops::Range<usize> {
        self.value_at as usize..self.value_at as usize + self.value_len as usize
    }
}

/// Which fields there are and where they lie.
#[derive(Clone, Default)]
pub(crate) struct Index {
    slots: SpareVec<Slot>,
    /// Exactly the kinds of names that occur.
    names: NameSet,
}

impl Index {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Adds the field of a line of `block`, which must end within the first 4 GiB, and whose name must be shorter than 64 KiB: heads
    /// are bounded far below the one, and to the other.
    #[inline(always)]
    pub fn push_line(&mut self, block: &[u8], line: Line) {
        self.push_known(Known::of(&block[line.at..line.name_end]), line);
    }

    /// The same of a line whose name was recognised already.
    #[inline(always)]
    pub fn push_known(&mut self, known: Known, line: Line) {
        self.push(Slot {
            name_at: line.at as u32,
            value_at: line.value_at as u32,
            value_len: (line.value_end - line.value_at) as u32,
            line_end: line.end as u32,
            name_len: (line.name_end - line.at) as u16,
            known,
            is_added: false,
        });
    }

    /// Before the first line: memory that was used before.
    pub fn prepare(&mut self) {
        self.slots.prepare();
    }

    #[inline(always)]
    fn push(&mut self, slot: Slot) {
        self.names = self.names.with(slot.known);
        self.slots.push(slot);
    }

    /// Forgets the slots that `unwanted` points at; how many there were.
    pub fn forget(&mut self, mut unwanted: impl FnMut(&Slot) -> bool) -> usize {
        let before = self.slots.len();
        let mut names = NameSet::default();
        self.slots.retain(|slot| {
            let is_wanted = !unwanted(slot);
            if is_wanted {
                names = names.with(slot.known);
            }
            is_wanted
        });
        self.names = names;
        before - self.slots.len()
    }

    /// Forgets every field of these kinds; how many there were.
    pub fn forget_all(&mut self, unwanted: NameSet) -> usize {
        // Most heads have nothing of what is to be removed.
        if !self.names.meets(unwanted) {
            return 0;
        }
        let before = self.slots.len();
        self.slots.retain(|slot| !unwanted.has(slot.known));
        self.names = self.names.without(unwanted);
        before - self.slots.len()
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fields", self.len())
    }
}

/// Header or trailer fields: the block they arrived in, an index, and what was added.
///
/// Order is kept: arrived fields first, added ones after them. Removing is forgetting the index entry.
#[derive(Clone, Default)]
pub struct Fields {
    block: Bytes,
    index: Index,
    added: SpareVec<u8>,
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn offset(block: &[u8], part: &[u8]) -> usize {
    let at = part.as_ptr().addr().checked_sub(block.as_ptr().addr()).filter(|at| at + part.len() <= block.len());
    assert!(block.len() <= MAX_HEAD, "a block has at most 64 KiB");
    at.expect("a field lies inside its block")
}

impl Fields {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fields that a reader of lines found in `block`.
    pub(crate) fn of_index(block: Bytes, index: Index) -> Self {
        Self { block, index, added: SpareVec::default() }
    }

    /// Takes fields that another parser found in `block`: `(name, value)` slices *of that block*, already checked.
    ///
    /// Each field's line must be `name ":" OWS value OWS CRLF`.
    #[must_use]
    pub fn from_parsed<'a>(block: &Bytes, parsed: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut index = Index::default();
        index.prepare();
        for (name, value) in parsed {
            let at = offset(block, name);
            let name_end = at + name.len();
            let value_at = if value.is_empty() { name_end } else { offset(block, value) };
            let value_end = value_at + value.len();
            let end = memchr::memchr(b'\n', &block[value_end..]).map_or(0, |n| value_end + n + 1);
            index.push_line(block, Line { at, name_end, value_at, value_end, end });
        }
        Self::of_index(block.clone(), index)
    }

    /// Parses lines of `name: value CRLF`, strictly: no folding, no bare CR or LF, no space before the colon.
    ///
    /// # Errors
    /// The kind of the first rule that is broken.
    pub fn parse(block: Bytes) -> Result<Self, HeadError> {
        Self::parse_from(block, 0)
    }

    /// The same of a text that has something else before `at`.
    pub(crate) fn parse_from(text: Bytes, mut at: usize) -> Result<Self, HeadError> {
        if text.len() - at > MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        let mut index = Index::default();
        index.prepare();
        while at < text.len() {
            let line = lines::field(&text, at).map_err(|stop| match stop {
                Stop::Value | Stop::Nul | Stop::BareCr => HeadError::Value,
                _ => HeadError::Line,
            })?;
            if index.len() == MAX_FIELDS {
                return Err(HeadError::TooManyFields);
            }
            index.push_line(&text, line);
            at = line.end;
        }
        Ok(Self::of_index(text, index))
    }

    fn source(&self, slot: &Slot) -> &[u8] {
        if slot.is_added { &self.added } else { &self.block }
    }

    fn name_of(&self, slot: &Slot) -> &[u8] {
        &self.source(slot)[slot.name()]
    }

    fn value_of(&self, slot: &Slot) -> &[u8] {
        &self.source(slot)[slot.value()]
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kinds of names that occur.
    #[must_use]
    pub fn names(&self) -> NameSet {
        self.index.names
    }

    /// All `(name, value)` in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.index.slots.iter().map(|s| (self.name_of(s), self.value_of(s)))
    }

    /// All `(kind of name, name, value)` in order.
    pub(crate) fn iter_known(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.index.slots.iter().map(|s| (s.known, self.name_of(s), self.value_of(s)))
    }

    fn slots_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Slot> {
        let known = Known::of(name.as_bytes());
        let slots = if self.index.names.has(known) { self.index.slots() } else { &[] };
        slots.iter().filter(move |s| s.known == known && self.is_named(s, name))
    }

    /// Whether a slot of the kind of `name` has that name.
    fn is_named(&self, slot: &Slot, name: &str) -> bool {
        slot.known.is_one_name()
            || (usize::from(slot.name_len) == name.len() && self.name_of(slot).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.slots_of(name).next().map(|slot| self.value_of(slot))
    }

    /// The first value of the fields of one kind.
    #[must_use]
    pub fn value(&self, known: Known) -> Option<&[u8]> {
        self.values(known).next()
    }

    /// Every value of the fields of one kind, in order.
    pub fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let slots = if self.index.names.has(known) { self.index.slots() } else { &[] };
        slots.iter().filter(move |s| s.known == known).map(|s| self.value_of(s))
    }

    /// The first value of `name` as text, if it is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// The first value of `name`, shared with the block where it arrived.
    #[must_use]
    pub fn get_bytes(&self, name: &str) -> Option<Bytes> {
        let slot = self.slots_of(name).next()?;
        Some(if slot.is_added { Bytes::copy_from_slice(self.value_of(slot)) } else { self.block.slice(slot.value()) })
    }

    /// Every value of `name`, in order. A decision on a header looks at all of them.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.slots_of(name).map(|s| self.value_of(s))
    }

    /// Whether a field of that name exists.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The elements of a comma-separated list over all lines of `name` (RFC 9110 section 5.6.1), empty ones left out.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).flat_map(|v| v.split(|&b| b == b',')).map(trim).filter(|v| !v.is_empty())
    }

    /// Removes every field of that name; how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let known = Known::of(name.as_bytes());
        if known.is_one_name() {
            return self.remove_all(NameSet::of(&[known]));
        }
        self.remove_if(|n, _| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Removes every field of these kinds; how many there were.
    pub fn remove_all(&mut self, unwanted: NameSet) -> usize {
        self.index.forget_all(unwanted)
    }

    /// Removes the fields that `unwanted(name, value)` points at; how many there were.
    pub fn remove_if(&mut self, mut unwanted: impl FnMut(&[u8], &[u8]) -> bool) -> usize {
        let Self { block, index, added } = self;
        index.forget(|slot| {
            let source: &[u8] = if slot.is_added { added } else { block };
            unwanted(&source[slot.name()], &source[slot.value()])
        })
    }

    /// Adds a field at the end. Control characters in the value become spaces (RFC 9110 section 5.5); a name that is no
    /// token is a mistake of the program and is left out.
    pub fn append(&mut self, name: &str, value: &[u8]) {
        self.append_known(Known::of(name.as_bytes()), name, value);
    }

    fn append_known(&mut self, known: Known, name: &str, value: &[u8]) {
        let is_fine = known.is_one_name() || is_token(name.as_bytes());
        debug_assert!(is_fine, "a field name must be a token: {name:?}");
        let Ok(name_len) = u16::try_from(name.len()) else { return };
        if !is_fine {
            return;
        }
        let narrow = |n: usize| u32::try_from(n).expect("added fields come from configuration and are small");
        let value = trim(value);
        self.added.prepare();
        self.index.prepare();
        let name_at = self.added.len();
        self.added.reserve(name.len() + value.len() + 4);
        self.added.extend_from_slice(name.as_bytes());
        self.added.extend_from_slice(b": ");
        let value_at = self.added.len();
        self.added.extend_from_slice(value);
        if !lines::is_field_value(value) {
            for byte in &mut self.added[value_at..] {
                if !lines::is_field_value(&[*byte]) {
                    *byte = b' ';
                }
            }
        }
        self.added.extend_from_slice(b"\r\n");
        self.index.push(Slot {
            name_at: narrow(name_at),
            value_at: narrow(value_at),
            value_len: narrow(value.len()),
            line_end: narrow(self.added.len()),
            name_len,
            known,
            is_added: true,
        });
    }

    /// Replaces every field of that name by one.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let known = Known::of(name.as_bytes());
        if self.index.names.has(known) {
            self.remove(name);
        }
        self.append_known(known, name, value);
    }

    /// Appends the fields as lines of `name: value CRLF`; runs of untouched neighbours in one piece.
    pub fn write_lines(&self, out: &mut Vec<u8>) {
        let mut slots = self.index.slots();
        while let [first, rest @ ..] = slots {
            slots = rest;
            if first.line_end == 0 {
                out.extend_from_slice(self.name_of(first));
                out.extend_from_slice(b": ");
                out.extend_from_slice(self.value_of(first));
                out.extend_from_slice(b"\r\n");
                continue;
            }
            let mut end = first.line_end;
            while let [next, rest @ ..] = slots
                && next.name_at == end
                && next.is_added == first.is_added
                && next.line_end != 0
            {
                (end, slots) = (next.line_end, rest);
            }
            out.extend_from_slice(&self.source(first)[first.name_at as usize..end as usize]);
        }
    }

    /// How many bytes [`Fields::write_lines`] appends at most.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.index
            .slots
            .iter()
            .map(|s| {
                let end = if s.line_end == 0 { s.value_at + s.value_len + 4 } else { s.line_end };
                end.saturating_sub(s.name_at) as usize
            })
            .sum()
    }
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(fields: I) -> Self {
        let mut all = Self::new();
        for (name, value) in fields {
            all.append(name, value);
        }
        all
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets (authorization, cookies): names are enough for a log.
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned())).finish()
    }
}

/// Equal fields in equal order; names without case.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.iter().zip(other.iter()).all(|(a, b)| a.0.eq_ignore_ascii_case(b.0) && a.1 == b.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write_lines(&mut out);
        assert!(out.len() <= fields.wire_len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn untouched_fields_are_written_as_they_came() {
        let block = "Accept:*/*\r\nX-A:  1 \r\nX-Empty:\r\n";
        let fields = Fields::parse(Bytes::from_static(block.as_bytes())).unwrap();
        assert_eq!(lines(&fields), block);
        assert_eq!(fields.get("x-a"), Some(&b"1"[..]));
        assert_eq!(fields.get("X-EMPTY"), Some(&b""[..]));
        assert_eq!(fields.get_bytes("accept").unwrap(), "*/*");
        assert_eq!(fields.len(), 3);
    }

    #[test]
    fn removed_and_added_fields() {
        let mut fields = Fields::parse(Bytes::from_static(b"a: 1\r\nb: 2\r\nA: 3\r\nc: 4, ,5\r\n")).unwrap();
        assert_eq!(fields.get_all("a").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(fields.list("c").collect::<Vec<_>>(), [b"4", b"5"]);
        assert_eq!(fields.remove("a"), 2);
        fields.append("d", b"6\r\nevil: 1");
        fields.set("b", b"7");
        assert_eq!(lines(&fields), "c: 4, ,5\r\nd: 6  evil: 1\r\nb: 7\r\n");
    }

    #[test]
    fn fields_of_another_parser_keep_their_lines() {
        let block = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\nEmpty:\r\nB:  2  \r\n\r\n");
        let mut storage = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut storage);
        request.parse(&block).unwrap();
        let mut fields = Fields::from_parsed(&block, request.headers.iter().map(|h| (h.name.as_bytes(), h.value)));
        assert_eq!(fields.len(), 3);
        fields.remove("host");
        assert_eq!(lines(&fields), "Empty:\r\nB:  2  \r\n");
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for (bad, why) in [
            (&b"a: 1"[..], HeadError::Line),
            (b"a: 1\n", HeadError::Line),
            (b"a : 1\r\n", HeadError::Line),
            (b" a: 1\r\n", HeadError::Line),
            (b": 1\r\n", HeadError::Line),
            (b"a\r\n", HeadError::Line),
            (b"\r\n", HeadError::Line),
            (b"a: 1\r2\r\n", HeadError::Value),
            (b"a: \x00\r\n", HeadError::Value),
            (b"a: 1\r\n b: folded\r\n", HeadError::Line),
        ] {
            assert_eq!(Fields::parse(Bytes::from_static(bad)).unwrap_err(), why, "{bad:?}");
        }
        assert_eq!(Fields::parse("a:1\r\n".repeat(101).into()).unwrap_err(), HeadError::TooManyFields);
        assert_eq!(Fields::parse(vec![b'a'; MAX_HEAD + 1].into()).unwrap_err(), HeadError::TooLarge);
    }

    #[test]
    fn names_are_found_by_kind_and_by_text() {
        let block = "Host: a\r\nLeno-Reason: x\r\nLENO_OTHER: y\r\nX-A: 1\r\nTE: trailers\r\nte: gzip\r\n";
        let mut fields = Fields::parse(Bytes::from_static(block.as_bytes())).unwrap();
        assert_eq!(fields.values(Known::Te).collect::<Vec<_>>(), [&b"trailers"[..], b"gzip"]);
        assert_eq!(fields.get("leno-reason"), Some(&b"x"[..]));
        assert_eq!(fields.get("leno_reason"), None);
        assert_eq!((fields.get("x-b"), fields.value(Known::Expect)), (None, None));
        assert_eq!(fields.remove("leno_other"), 1);
        assert!(fields.names().has(Known::Internal), "the other one is still there");
        assert_eq!(fields.remove_all(NameSet::of(&[Known::Internal, Known::Te, Known::Cookie])), 3);
        assert_eq!(fields.names(), NameSet::of(&[Known::Host, Known::Other]));
        fields.set("TE", b"trailers");
        assert!(fields.contains("te") && fields.remove("te") == 1 && !fields.names().has(Known::Te));
        assert_eq!(lines(&fields), "Host: a\r\nX-A: 1\r\n");
    }
}

//! HPACK (RFC 7541): how HTTP/2 writes header fields.
//!
//! A call of gRPC has some eight fields, and all but one or two are references of one byte to a table. What such a reference
//! costs is what this costs: whatever there is to know about a field, whether it is well-formed and which name it has, is found
//! once, when the field enters the table, and kept there. Nothing is copied on the way from the table or the block to the caller.
//!
//! A peer chooses every byte. What it can make us hold is the table, of which we announce the size, and while a block is decoded
//! one string per thread; what it can make us do is bounded by the length of the block.
//!
//! *Start reading at*: [`Decoder::decode`]; `encode` is the other direction, which needs no state.

pub(super) mod encode;
mod fixed;
mod huffman;
mod string;
mod table;
#[cfg(test)]
mod tests;

use fixed::FIXED;
use string::Scratch;
use table::{Stored, Table};

use crate::known::Known;
use crate::lines;

/// What a name is. Known once per table entry, so that an indexed field costs no comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:path`
    Path,
    /// `:authority`
    Authority,
    /// `:status`
    Status,
    /// `:protocol` (RFC 8441)
    Protocol,
    /// Another name with a colon before it.
    OtherPseudo,
    /// The name of a field.
    Regular(Known),
    /// The name is empty or no token in small letters, or the value has a control character other than tab. RFC 9113
    /// section 8.2.1 names NUL, CR and LF; the rest would be refused by the next reader of the head, see [`lines`].
    Malformed,
}

impl Name {
    fn of(text: &[u8]) -> Self {
        match text {
            [b':', pseudo @ ..] => match pseudo {
                b"method" => Self::Method,
                b"scheme" => Self::Scheme,
                b"path" => Self::Path,
                b"authority" => Self::Authority,
                b"status" => Self::Status,
                b"protocol" => Self::Protocol,
                _ => Self::OtherPseudo,
            },
            _ if lines::is_lower_token(text) => Self::Regular(Known::of(text)),
            _ => Self::Malformed,
        }
    }

    /// What a field with this name and `value` is.
    fn with(self, value: &[u8]) -> Self {
        if lines::is_field_value(value) { self } else { Self::Malformed }
    }
}

/// One field, as it lies in the block or in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// What the name is, or that the field is malformed.
    pub name: Name,
    /// The name; in small letters, unless the field is malformed.
    pub text: &'a [u8],
    /// The value. Whitespace around it, which RFC 9113 section 8.2.1 forbids, is left to the caller.
    pub value: &'a [u8],
}

/// Why a block cannot be decoded. The table is no longer in step with the peer's: the connection ends with
/// `COMPRESSION_ERROR` (RFC 9113 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HpackError {
    /// RFC 9113 section 4.3.
    #[error("header block ends within a field")]
    Truncated,
    /// RFC 7541 section 5.1 leaves the limit to the implementation.
    #[error("HPACK integer of more than four continuation bytes")]
    IntegerTooLarge,
    /// RFC 7541 section 2.3.3.
    #[error("HPACK index {0} is beyond the table")]
    NoEntry(usize),
    /// RFC 7541 section 4.2.
    #[error("HPACK table size update behind a field")]
    LateSizeUpdate,
    /// RFC 7541 section 4.2: the smallest size since the last block, and the present one.
    #[error("more than two HPACK table size updates before a field")]
    ManySizeUpdates,
    /// RFC 7541 section 6.3.
    #[error("HPACK table size {0} exceeds what was announced")]
    TableTooLarge(usize),
    /// Over [`MAX_STRING`].
    #[error("HPACK string over 64 KiB")]
    StringTooLong,
    /// RFC 7541 section 5.2.
    #[error("end-of-string symbol within an HPACK string")]
    EndOfString,
    /// RFC 7541 section 5.2.
    #[error("wrong padding of an HPACK string")]
    Padding,
}

/// Bytes of one name or value: as large as a whole head may be ([`crate::MAX_HEAD`]).
const MAX_STRING: usize = crate::MAX_HEAD;
/// Size that a table has before anything is said about it (RFC 9113 section 6.5.2).
const FIRST_LIMIT: usize = 4096;

/// The receiving side of one connection.
pub(super) struct Decoder {
    table: Table,
    /// What the peer may raise the table's limit to.
    max_table: usize,
}

impl Decoder {
    /// `max_table`: the `SETTINGS_HEADER_TABLE_SIZE` that we announce. With less than 4096, a peer that does not yet know of it
    /// would not be understood; more than [`table::MAX_LIMIT`] is not supported.
    pub(super) fn new(max_table: usize) -> Self {
        debug_assert!(max_table <= table::MAX_LIMIT);
        Self { table: Table::new(max_table.min(FIRST_LIMIT)), max_table: max_table.min(table::MAX_LIMIT) }
    }

    /// Decodes a whole block; `each` is called for each field in order. The whole block is always decoded, whatever `each` thinks
    /// of the fields, so that the table stays in step.
    ///
    /// # Errors
    /// The first rule that is broken. Fields before it have been seen by `each`.
    #[inline]
    pub(super) fn decode(&mut self, block: &[u8], mut each: impl FnMut(Field<'_>)) -> Result<(), HpackError> {
        let mut rest = block;
        if rest.first().is_some_and(|first| is_size_update(*first)) {
            rest = self.resize(rest)?;
        }
        // What is called here gives back what is left: a place that others could write would live in memory.
        while let [first, behind @ ..] = rest {
            rest = match *first {
                0xff => {
                    let (index, behind) = long_integer(0x7f, behind)?;
                    each(self.indexed(index)?);
                    behind
                }
                0x80.. => {
                    each(self.indexed(usize::from(first & 0x7f))?);
                    behind
                }
                _ => self.literal(*first, behind, &mut each)?,
            };
        }
        Ok(())
    }

    #[cfg(test)]
    /// Heap bytes held between blocks, for tests of the memory of a connection.
    pub(super) fn heap(&self) -> usize {
        self.table.heap()
    }

    /// RFC 7541 section 2.3.3: the fixed table and, behind it, our own, the newest entry first. There is no index 0.
    #[inline(always)]
    fn indexed(&self, index: usize) -> Result<Field<'_>, HpackError> {
        match FIXED.get(index.wrapping_sub(1)) {
            Some(field) => Ok(*field),
            None => self.table.get(index.wrapping_sub(FIXED.len() + 1)).ok_or(HpackError::NoEntry(index)),
        }
    }

    /// Reads the size updates before the first field.
    #[cold]
    fn resize<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], HpackError> {
        let mut rest = block;
        let mut count = 0;
        while let [first, behind @ ..] = rest
            && is_size_update(*first)
        {
            let (limit, behind) = integer(*first, 0x1f, behind)?;
            count += 1;
            if count > 2 {
                return Err(HpackError::ManySizeUpdates);
            }
            if limit > self.max_table {
                return Err(HpackError::TableTooLarge(limit));
            }
            self.table.set_limit(limit);
            rest = behind;
        }
        Ok(rest)
    }

    /// Reads a field whose value, if not its name too, is written out (RFC 7541 section 6.2); what is left behind it.
    #[inline(never)]
    fn literal<'a>(
        &mut self,
        first: u8,
        rest: &'a [u8],
        each: &mut impl FnMut(Field<'_>),
    ) -> Result<&'a [u8], HpackError> {
        if is_size_update(first) {
            return Err(HpackError::LateSizeUpdate);
        }
        let enters_table = first & 0x40 != 0;
        // "Never indexed" and "without indexing" differ in what they ask of a proxy that compresses; we do not.
        let mut scratch = Scratch::new();
        let (index, mut rest) = integer(first, if enters_table { 0x3f } else { 0x0f }, rest)?;
        let (kind, name) = if index == 0 {
            let name;
            (name, rest) = string::read(rest, &mut scratch.name)?;
            (Name::of(name), Stored::Elsewhere(name))
        } else if let Some(field) = FIXED.get(index - 1) {
            (field.name, Stored::Elsewhere(field.text))
        } else {
            let (kind, at, len) = self.table.name(index - FIXED.len() - 1).ok_or(HpackError::NoEntry(index))?;
            (kind, Stored::Here(at, len))
        };
        let (value, rest) = string::read(rest, &mut scratch.value)?;
        let field_kind = kind.with(value);
        let text = match name {
            Stored::Elsewhere(text) => text,
            Stored::Here(at, len) => self.table.piece(at, len),
        };
        each(Field { name: field_kind, text, value });
        if enters_table {
            self.table.insert(name, value, kind, field_kind);
        }
        Ok(rest)
    }
}

/// RFC 7541 section 6.3.
fn is_size_update(first: u8) -> bool {
    first & 0xe0 == 0x20
}

/// Reads an integer that begins in the bits `mask` of `first` (RFC 7541 section 5.1); and what is left behind it.
#[inline]
fn integer(first: u8, mask: u8, rest: &[u8]) -> Result<(usize, &[u8]), HpackError> {
    let value = first & mask;
    if value < mask { Ok((usize::from(value), rest)) } else { long_integer(value, rest) }
}

/// Four bytes of seven bits each are more than any length or size that we would take.
fn long_integer(start: u8, mut rest: &[u8]) -> Result<(usize, &[u8]), HpackError> {
    let mut value = usize::from(start);
    for shift in [0, 7, 14, 21] {
        let [byte, behind @ ..] = rest else { return Err(HpackError::Truncated) };
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value, behind));
        }
        rest = behind;
    }
    Err(HpackError::IntegerTooLarge)
}

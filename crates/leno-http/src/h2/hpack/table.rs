//! The dynamic table (RFC 7541 section 2.3.2): what the peer said before and refers to.
//!
//! ```text
//!   bytes    [ evicted ..... | name value | name value | name value | room ... ]
//!                              ^ oldest                  ^ newest
//!   entries  [ evicted ..... | oldest       | newest     | room ... ]      places, lengths and verdicts
//! ```
//!
//! Names and values follow one another, each name with its value in one piece. An entry is added behind the last one, and leaves
//! by being forgotten; when there is no room behind the last one, what is still alive moves to the front. It does so only into
//! memory of which it fills three quarters at most, so that for each byte that is added no more than three are moved. Rings would
//! need no moves, but a question at each look-up, of which there are more.

use super::{Field, Name};

/// What an entry counts beyond its bytes (RFC 7541 section 4.1).
const OVERHEAD: usize = 32;
/// The largest table that places in it, which are `u32`, and memory bear easily.
pub(super) const MAX_LIMIT: usize = 1024 * 1024;
/// Bytes allocated for the first entry: what a client of gRPC says that calls one method.
const FIRST_ROOM: usize = 256;
/// Entries allocated with the first, as many.
const FIRST_ENTRIES: usize = 8;

struct Entry {
    at: u32,
    name_len: u32,
    /// Of name and value.
    len: u32,
    /// What the name is, whatever the value: for fields that refer to the name alone.
    name_kind: Name,
    field_kind: Name,
}

impl Entry {
    fn size(&self) -> usize {
        self.len as usize + OVERHEAD
    }
}

/// A name that is to be stored.
#[derive(Clone, Copy)]
pub(super) enum Stored<'a> {
    Elsewhere(&'a [u8]),
    /// In this table: where, and how many bytes.
    Here(usize, usize),
}

/// Allocates nothing before the first entry.
///
/// Invariant: `size` is the sum of the sizes of all entries and does not exceed `limit`; entries lie one behind another without
/// gaps, and the newest ends where `bytes` ends.
pub(super) struct Table {
    /// The newest last.
    entries: Vec<Entry>,
    /// As many of `entries` as are evicted.
    evicted: usize,
    bytes: Vec<u8>,
    size: usize,
    limit: usize,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), evicted: 0, bytes: Vec::new(), size: 0, limit }
    }

    #[inline]
    fn entry(&self, n: usize) -> Option<&Entry> {
        // What is too large for a table wraps to what is.
        let at = self.entries.len().wrapping_sub(n).wrapping_sub(1);
        if at >= self.evicted { self.entries.get(at) } else { None }
    }

    /// The entry that was added as the `n`th before the last.
    #[inline]
    pub(super) fn get(&self, n: usize) -> Option<Field<'_>> {
        let entry = self.entry(n)?;
        let (text, value) = self.piece(entry.at as usize, entry.len as usize).split_at(entry.name_len as usize);
        Some(Field { name: entry.field_kind, text, value })
    }

    /// The name of that entry: what it is, where it is, and how many bytes.
    pub(super) fn name(&self, n: usize) -> Option<(Name, usize, usize)> {
        let entry = self.entry(n)?;
        Some((entry.name_kind, entry.at as usize, entry.name_len as usize))
    }

    #[inline]
    pub(super) fn piece(&self, at: usize, len: usize) -> &[u8] {
        &self.bytes[at..][..len]
    }

    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// What the table may hold from now on, at most [`MAX_LIMIT`]. With nothing, its memory is given back.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.evict_to(limit);
        if limit == 0 {
            *self = Self::new(0);
        }
    }

    /// Adds an entry, and evicts what it displaces. One that is larger than the table empties it (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, name: Stored<'_>, value: &[u8], name_kind: Name, field_kind: Name) {
        let name_len = match name {
            Stored::Elsewhere(bytes) => bytes.len(),
            Stored::Here(_, len) => len,
        };
        let len = name_len + value.len();
        let Some(others) = self.limit.checked_sub(len + OVERHEAD) else { return self.evict_to(0) };
        // The bytes of an evicted entry stay where they are, so that its name can be taken over.
        self.evict_to(others);
        if self.bytes.capacity() - self.bytes.len() < len {
            return self.insert_elsewhere(name, value, name_kind, field_kind);
        }
        let at = self.bytes.len();
        match name {
            Stored::Elsewhere(bytes) => self.bytes.extend_from_slice(bytes),
            Stored::Here(at, len) => self.bytes.extend_from_within(at..at + len),
        }
        self.bytes.extend_from_slice(value);
        // All are below `MAX_LIMIT` or twice as much.
        let (at, name_len, narrow_len) = (at as u32, name_len as u32, len as u32);
        if self.entries.len() == self.entries.capacity() {
            self.make_place();
        }
        self.entries.push(Entry { at, name_len, len: narrow_len, name_kind, field_kind });
        self.size += len + OVERHEAD;
    }

    /// The same where there is no room behind the last entry.
    #[cold]
    fn insert_elsewhere(&mut self, name: Stored<'_>, value: &[u8], name_kind: Name, field_kind: Name) {
        // What lies here is about to be moved or overwritten.
        let name = match name {
            Stored::Elsewhere(bytes) => bytes.to_vec(),
            Stored::Here(at, len) => self.piece(at, len).to_vec(),
        };
        self.make_room(name.len() + value.len());
        self.insert(Stored::Elsewhere(&name), value, name_kind, field_kind);
    }

    /// Moves what is alive to the front, and into larger memory if it would fill too much of what there is.
    fn make_room(&mut self, len: usize) {
        let start = self.entries.get(self.evicted).map_or(self.bytes.len(), |oldest| oldest.at as usize);
        let wanted = self.bytes.len() - start + len;
        if wanted <= self.bytes.capacity() / 4 * 3 {
            self.bytes.copy_within(start.., 0);
            self.bytes.truncate(wanted - len);
        } else {
            let room = (wanted + wanted / 3 + 4).next_power_of_two().max(FIRST_ROOM);
            let mut bytes = Vec::with_capacity(room);
            bytes.extend_from_slice(&self.bytes[start..]);
            self.bytes = bytes;
        }
        for entry in &mut self.entries[self.evicted..] {
            entry.at -= start as u32;
        }
    }

    /// The same for entries.
    #[cold]
    fn make_place(&mut self) {
        self.entries.drain(..std::mem::take(&mut self.evicted));
        let capacity = self.entries.capacity();
        if self.entries.len() >= capacity / 4 * 3 {
            self.entries.reserve(capacity.max(FIRST_ENTRIES));
        }
    }

    /// Evicts the oldest entries until what remains is no larger than `size`.
    #[inline]
    fn evict_to(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.get(self.evicted)
        {
            self.size -= oldest.size();
            self.evicted += 1;
        }
    }
}

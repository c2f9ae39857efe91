//! Names and values as they are written out: plain, or with the Huffman code.

use std::cell::Cell;
use std::thread::LocalKey;

use super::{HpackError, MAX_STRING, huffman, integer};

/// Bytes for a decoded name, and as many for a value, that a thread keeps. Few are longer than some hundred.
const KEPT: usize = 8 * 1024;

type Spare = LocalKey<Cell<Vec<u8>>>;

thread_local! {
    // For all connections of a thread: a block is decoded at a stretch.
    static NAME: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static VALUE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Memory for the strings of one field.
pub(super) struct Scratch {
    pub name: Room,
    pub value: Room,
}

impl Scratch {
    #[inline]
    pub(super) fn new() -> Self {
        Self { name: Room::new(&NAME), value: Room::new(&VALUE) }
    }
}

/// Memory for one string. It is the thread's, and is asked for when there is something to decode.
pub(super) struct Room {
    /// As long as the longest that was ever decoded here, so that it is not filled with zeros anew each time.
    bytes: Vec<u8>,
    spare: &'static Spare,
}

impl Room {
    #[inline]
    fn new(spare: &'static Spare) -> Self {
        Self { bytes: Vec::new(), spare }
    }

    #[inline(never)]
    fn decode(&mut self, coded: &[u8]) -> Result<&[u8], HpackError> {
        if self.bytes.is_empty() {
            // A thread that ends has none any more.
            self.bytes = self.spare.try_with(Cell::take).unwrap_or_default();
        }
        let bound = huffman::decoded_bound(coded.len());
        if self.bytes.len() < bound {
            self.bytes.resize(bound, 0);
        }
        let len = huffman::decode(coded, &mut self.bytes)?;
        if len > MAX_STRING { Err(HpackError::StringTooLong) } else { Ok(&self.bytes[..len]) }
    }

    #[cold]
    fn give_back(&mut self) {
        if self.bytes.capacity() <= KEPT {
            let bytes = std::mem::take(&mut self.bytes);
            let _ = self.spare.try_with(|spare| spare.set(bytes));
        }
    }
}

impl Drop for Room {
    #[inline]
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.give_back();
        }
    }
}

/// Reads a string (RFC 7541 section 5.2); and what is left behind it.
#[inline]
pub(super) fn read<'a: 'b, 'b>(rest: &'a [u8], room: &'b mut Room) -> Result<(&'b [u8], &'a [u8]), HpackError> {
    let [first, behind @ ..] = rest else { return Err(HpackError::Truncated) };
    let (len, behind) = integer(*first, 0x7f, behind)?;
    if len > MAX_STRING {
        return Err(HpackError::StringTooLong);
    }
    let (text, behind) = behind.split_at_checked(len).ok_or(HpackError::Truncated)?;
    if first & 0x80 == 0 { Ok((text, behind)) } else { Ok((room.decode(text)?, behind)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_little() {
        let kept = || {
            let bytes = VALUE.take();
            let capacity = bytes.capacity();
            VALUE.set(bytes);
            capacity
        };
        let decode = |len: usize| {
            let text = vec![b'~'; len];
            let mut coded = Vec::new();
            huffman::encode(&text, &mut coded);
            let mut room = Room::new(&VALUE);
            assert!(room.decode(&coded).unwrap() == text && room.decode(&coded).unwrap() == text);
        };
        decode(100);
        let small = kept();
        assert!(small > 0);
        decode(100);
        assert_eq!(kept(), small, "the same memory again");
        decode(MAX_STRING);
        assert_eq!(kept(), 0, "neither the large memory nor the one it grew from");
        drop(Room::new(&VALUE));
        assert_eq!(kept(), 0);
    }
}

//! A buffer that is written to in place: its memory is made ready once and not for every use.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Memory is made ready in multiples of this.
const GRAIN: usize = 4096;

/// Bytes, and room behind them that can be written to.
///
/// A vector's room has to be filled before a cipher can write to it, which costs as much as the copy that this saves.
#[derive(Default)]
pub struct Buffer {
    /// All of it is ready; what is behind `len` has no meaning.
    memory: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// An empty one, without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: Vec::new(), len: 0 }
    }

    /// Bytes that it holds or has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Forgets the bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Forgets what is behind `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends `count` bytes that have no meaning yet: whoever asks for them writes all of them.
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        let (at, end) = (self.len, self.len + count);
        if end > self.memory.len() {
            self.grow(end);
        }
        self.len = end;
        &mut self.memory[at..end]
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        let size = end.max(self.memory.len() / 2 * 3).next_multiple_of(GRAIN);
        self.memory.reserve_exact(size - self.memory.len());
        self.memory.resize(size, 0);
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is in it may be a secret.
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_and_memory_is_used_again() {
        let mut buffer = Buffer::new();
        let mut expected = Vec::new();
        for round in 0..3_u8 {
            buffer.clear();
            expected.clear();
            for length in [0, 1, 5000, 3, 40_000] {
                buffer.extend_from_slice(&vec![round; length]);
                expected.extend(vec![round; length]);
                buffer.room(2).copy_from_slice(b"xy");
                expected.extend(b"xy");
            }
            assert_eq!(buffer[..], expected);
        }
        let capacity = buffer.capacity();
        assert!((expected.len()..2 * expected.len()).contains(&capacity), "{capacity}");
        buffer.truncate(7);
        buffer.truncate(100);
        assert_eq!(buffer[..], expected[..7]);
        assert_eq!(format!("{buffer:?}"), "Buffer(7 bytes)");
        buffer.clear();
        assert!(buffer.is_empty() && buffer.capacity() == capacity);
    }
}

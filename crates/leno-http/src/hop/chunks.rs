//! A queue of bytes that keeps large pieces as they are and gathers small ones, so that a peer that sends single bytes
//! costs bytes and not allocations.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::spare;

/// Pieces below this are gathered when they have to wait behind others.
const SMALL: usize = 4096;
/// A gathered piece is closed at this size: one DATA frame.
const GATHERED: usize = 16 * 1024;

/// Bytes in order; no memory while empty.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    /// Usually all there is; empty only if `whole` is.
    first: Bytes,
    whole: VecDeque<Bytes>,
    /// Follows `whole`.
    gathered: Vec<u8>,
    len: usize,
}

impl Chunks {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a piece that is already shared.
    pub(crate) fn push(&mut self, piece: Bytes) {
        let shared = piece.clone();
        self.add(&piece, || shared);
    }

    /// Adds a copy.
    pub(crate) fn push_copy(&mut self, piece: &[u8]) {
        self.add(piece, || spare::copy(piece));
    }

    fn add(&mut self, bytes: &[u8], whole: impl FnOnce() -> Bytes) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        let is_small = len < SMALL && !self.is_empty();
        if !self.gathered.is_empty() && (!is_small || self.gathered.len() + len > GATHERED) {
            let gathered = std::mem::take(&mut self.gathered);
            self.put(gathered.into());
        }
        if is_small {
            self.gathered.extend_from_slice(bytes)
        } else {
            self.put(whole())
        }
        self.len += len;
    }

    fn put(&mut self, piece: Bytes) {
        if self.first.is_empty() { self.first = piece } else { self.whole.push_back(piece) }
    }

    /// Moves up what follows an empty first piece.
    fn settle(&mut self) {
        if self.first.is_empty() {
            self.first = self.whole.pop_front().unwrap_or_else(|| std::mem::take(&mut self.gathered).into());
        }
        if self.is_empty() {
            self.whole = VecDeque::new();
        }
    }

    /// Takes the first piece.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let piece = std::mem::take(&mut self.first);
        self.len -= piece.len();
        self.settle();
        Some(piece)
    }

    /// Moves at most `limit` bytes to the end of `out`; how many.
    pub(crate) fn move_to(&mut self, out: &mut Vec<u8>, limit: usize) -> usize {
        let mut left = limit;
        while left > 0 && !self.is_empty() {
            let part = self.first.split_to(self.first.len().min(left));
            left -= part.len();
            self.len -= part.len();
            out.extend_from_slice(&part);
            self.settle();
        }
        limit - left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_bytes_are_gathered() {
        let mut chunks = Chunks::default();
        for _ in 0..100_000 {
            chunks.push_copy(b"x");
        }
        assert!(chunks.whole.len() < 10, "{}", chunks.whole.len());
        assert_eq!(std::iter::from_fn(|| chunks.pop()).map(|b| b.len()).sum::<usize>(), 100_000);
        assert!(chunks.is_empty() && chunks.whole.capacity() == 0);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(pieces in proptest::collection::vec((0_usize..20_000, any::<bool>()), 0..20), limits in proptest::collection::vec(1_usize..30_000, 1..40)) {
            let (mut chunks, mut expected, mut out) = (Chunks::default(), Vec::new(), Vec::new());
            let mut limits = limits.into_iter().cycle();
            for (n, (len, is_shared)) in pieces.into_iter().enumerate() {
                let piece: Vec<u8> = (0..len).map(|i| (i * 31 + n) as u8).collect();
                expected.extend_from_slice(&piece);
                if is_shared { chunks.push(piece.into()) } else { chunks.push_copy(&piece) }
                if n % 3 == 2 {
                    chunks.move_to(&mut out, limits.next().unwrap());
                }
                prop_assert_eq!(chunks.len() + out.len(), expected.len());
            }
            while !chunks.is_empty() {
                chunks.move_to(&mut out, limits.next().unwrap());
                if let Some(piece) = chunks.pop() { out.extend_from_slice(&piece); }
            }
            prop_assert_eq!(out, expected);
        }
    }
}

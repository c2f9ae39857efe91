//! A queue of bytes that keeps large pieces as they are and gathers small ones, so that a peer that sends single bytes
//! costs bytes and not allocations.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::spare;

/// Pieces below this are gathered when they have to wait behind others.
const SMALL: usize = 4096;
/// A gathered piece is closed at this size: one DATA frame.
const GATHERED: usize = 16 * 1024;

/// Bytes in order; no memory while empty.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    /// Usually all there is; empty only if nothing follows.
    first: Bytes,
    /// What follows: rare, and so not in every stream.
    rest: Option<Box<Rest>>,
    len: usize,
}

#[derive(Debug, Default)]
struct Rest {
    whole: VecDeque<Bytes>,
    /// Follows `whole`.
    gathered: Vec<u8>,
}

impl Rest {
    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.gathered).into());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if self.whole.is_empty() {
            self.close_gathered();
        }
        self.whole.pop_front()
    }
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
        if self.is_empty() {
            self.len = piece.len();
            self.first = piece;
        } else if piece.len() < SMALL {
            self.gather(&piece);
        } else {
            self.put_behind(piece);
        }
    }

    /// Adds a copy.
    pub(crate) fn push_copy(&mut self, piece: &[u8]) {
        if self.is_empty() {
            self.len = piece.len();
            self.first = spare::copy(piece);
        } else if piece.len() < SMALL {
            self.gather(piece);
        } else {
            self.put_behind(spare::copy(piece));
        }
    }

    pub(crate) fn clear(&mut self) {
        if !self.is_empty() {
            *self = Self::default();
        }
    }

    fn gather(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        let rest = self.rest.get_or_insert_default();
        if rest.gathered.len() + piece.len() > GATHERED {
            rest.close_gathered();
        }
        rest.gathered.extend_from_slice(piece);
        self.len += piece.len();
    }

    fn put_behind(&mut self, piece: Bytes) {
        self.len += piece.len();
        let rest = self.rest.get_or_insert_default();
        rest.close_gathered();
        rest.whole.push_back(piece);
    }

    /// Moves up what follows an empty first piece.
    fn settle(&mut self) {
        if self.is_empty() {
            self.rest = None;
        } else if let Some(next) = self.rest.as_mut().and_then(|rest| rest.pop()) {
            self.first = next;
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
            let count = self.first.len().min(left);
            out.extend_from_slice(&self.first[..count]);
            left -= count;
            self.len -= count;
            if count < self.first.len() {
                self.first.advance(count);
            } else {
                self.first = Bytes::new();
                self.settle();
            }
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
        let count = chunks.rest.as_ref().unwrap().whole.len();
        assert!(count < 10, "{count}");
        assert_eq!(std::iter::from_fn(|| chunks.pop()).map(|b| b.len()).sum::<usize>(), 100_000);
        assert!(chunks.is_empty() && chunks.rest.is_none());
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

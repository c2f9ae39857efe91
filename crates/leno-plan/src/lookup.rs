//! A table from texts to positions, made once per plan and asked once per request.
//!
//! Texts are not kept, only their hashes: the positions found for a text are those of all entries that may have it, and
//! perhaps of some others. Whoever asks compares anyway, because a path or a caller is never the only condition.
//!
//! The hash has no key. What is in the table was chosen by whoever configures the mesh, and cannot be changed by asking: a
//! peer's text costs at most the longest run of used slots, which a load of at most two thirds keeps short.

/// The positions of some texts, in ascending order per text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Positions {
    /// Open addressing; a power of two, or none at all.
    slots: Box<[Slot]>,
    members: Box<[u32]>,
}

/// Where the positions of one hash stand in `members`; without any it is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Slot {
    hash: u32,
    start: u32,
    count: u32,
}

impl Positions {
    /// Of pairs of a text's hash and a position.
    pub(crate) fn new(mut pairs: Vec<(u32, u32)>) -> Self {
        pairs.sort_unstable();
        let groups = pairs.chunk_by(|a, b| a.0 == b.0);
        let count = groups.clone().count();
        if count == 0 {
            return Self::default();
        }
        // At least one slot stays free, so that every search ends.
        let mut slots = vec![Slot::default(); (count * 3 / 2 + 1).next_power_of_two()].into_boxed_slice();
        let mut start = 0;
        for group in groups {
            let (hash, count) = (group[0].0, group.len() as u32);
            let mut at = hash as usize & (slots.len() - 1);
            while slots[at].count > 0 {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = Slot { hash, start, count };
            start += count;
        }
        Self { slots, members: pairs.iter().map(|(_, position)| *position).collect() }
    }

    /// The positions of the text with this hash, ascending, and perhaps those of others.
    pub(crate) fn of(&self, hash: u32) -> &[u32] {
        if self.slots.is_empty() {
            return &[];
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at & mask];
            if slot.count == 0 {
                return &[];
            }
            if slot.hash == hash {
                return &self.members[slot.start as usize..][..slot.count as usize];
            }
            at += 1;
        }
    }

    /// Heap bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.members)
    }
}

/// A hash that grows with its text (FNV-1a), so that one walk over a path hashes all its prefixes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextHash(u64);

impl TextHash {
    /// Of the empty text. Texts of different `kind` are different.
    pub(crate) fn new(kind: u8) -> Self {
        Self(0xcbf2_9ce4_8422_2325 ^ u64::from(kind))
    }

    /// The text goes on.
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }

    /// The text goes on.
    pub(crate) fn text(mut self, text: &[u8]) -> Self {
        text.iter().for_each(|b| self.byte(*b));
        self
    }

    /// So far, all bits of it.
    pub(crate) fn wide(self) -> u64 {
        self.0
    }

    /// So far. The low bits of FNV alone are poor: the high ones of a product depend on all.
    pub(crate) fn get(self) -> u32 {
        (self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_position_is_found_by_its_text_in_order(texts in proptest::collection::vec("[ab]{0,4}", 0..60)) {
            let hash = |text: &str| TextHash::new(0).text(text.as_bytes()).get();
            let pairs = texts.iter().enumerate().map(|(at, text)| (hash(text), at as u32)).collect();
            let table = Positions::new(pairs);
            for text in texts.iter().map(String::as_str).chain(["c", "abababab"]) {
                let expected: Vec<u32> = (0..).zip(&texts).filter(|(_, t)| *t == text).map(|(at, _)| at).collect();
                prop_assert_eq!(table.of(hash(text)), expected);
            }
        }

        #[test]
        fn texts_that_hash_alike_are_all_found(hashes in proptest::collection::vec(0_u32..20, 0..60), asked in 0_u32..24) {
            // Multiples of the table's size: they all begin in the same slot.
            let pairs: Vec<_> = hashes.iter().enumerate().map(|(at, h)| (h * 1024, at as u32)).collect();
            let expected: Vec<u32> = (0..).zip(&hashes).filter(|(_, h)| **h == asked).map(|(at, _)| at).collect();
            let table = Positions::new(pairs);
            prop_assert_eq!(table.of(asked * 1024), expected);
        }
    }

    #[test]
    fn kinds_and_boundaries_make_texts_different() {
        assert_ne!(TextHash::new(0).text(b"a").get(), TextHash::new(1).text(b"a").get());
        let mut grown = TextHash::new(0);
        grown.byte(b'a');
        grown.byte(b'b');
        assert_eq!(grown.get(), TextHash::new(0).text(b"ab").get());
    }
}

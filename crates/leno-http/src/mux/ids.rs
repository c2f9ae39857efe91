//! From a stream's id to where it lies.
//!
//! Ids are counted upwards, so the low bits of half an id are a place that is free unless an old stream still lives there.
//! What finds its place taken goes into a hashed table beside it: a peer that skips ids to meet old ones gets what it would
//! get anywhere.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Spreads ids by one multiplication; the high half comes down, because tables look at low bits and ids may share theirs.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u32(u32::from(b));
        }
    }
    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Fewest places; a power of two, like every number of them.
const FEWEST: usize = 16;

/// An id and where its stream lies; id 0 is no stream's.
type Place = (u32, u32);

/// No memory while nothing was ever entered.
#[derive(Debug, Default)]
pub(super) struct Ids {
    places: Vec<Place>,
    /// Those whose place was taken.
    strays: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
    len: usize,
}

impl Ids {
    fn place(&mut self, id: u32) -> Option<&mut Place> {
        let mask = self.places.len().wrapping_sub(1);
        self.places.get_mut((id / 2) as usize & mask)
    }

    pub fn get(&self, id: u32) -> Option<usize> {
        let mask = self.places.len().wrapping_sub(1);
        match self.places.get((id / 2) as usize & mask) {
            // 0 marks a free place, and is no stream's.
            Some(&(found, index)) if found == id && id != 0 => Some(index as usize),
            _ if self.strays.is_empty() => None,
            _ => self.strays.get(&id).map(|&index| index as usize),
        }
    }

    /// Enters an id that is not there.
    pub fn insert(&mut self, id: u32, index: usize) {
        if self.len >= self.places.len() / 2 {
            self.grow();
        }
        self.len += 1;
        self.put(id, u32::try_from(index).expect("as many streams as the protocol allows"));
    }

    fn put(&mut self, id: u32, index: u32) {
        match self.place(id) {
            Some(place) if place.0 == 0 => *place = (id, index),
            _ => {
                self.strays.insert(id, index);
            }
        }
    }

    fn grow(&mut self) {
        let places = vec![(0, 0); (2 * self.places.len()).max(FEWEST)];
        let old = std::mem::replace(&mut self.places, places);
        let strays = std::mem::take(&mut self.strays);
        for (id, index) in old.into_iter().filter(|(id, _)| *id != 0).chain(strays) {
            self.put(id, index);
        }
    }

    /// Takes an id out that is there.
    pub fn remove(&mut self, id: u32) {
        self.len -= 1;
        match self.place(id) {
            Some(place) if place.0 == id => *place = (0, 0),
            _ => {
                self.strays.remove(&id);
            }
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub fn heap(&self) -> usize {
        (self.places.capacity() + self.strays.capacity()) * size_of::<Place>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Like a map, whatever ids come: `stride` makes all of them want the same place.
        #[test]
        fn what_was_entered_is_found(
            stride in prop_oneof![Just(2_u32), Just(32), Just(4096), 2_u32..100],
            steps in prop::collection::vec((any::<bool>(), 0_usize..64), 1..400),
        ) {
            let (mut ids, mut expected, mut next) = (Ids::default(), Vec::<(u32, usize)>::new(), 1_u32);
            for (n, (is_new, which)) in steps.into_iter().enumerate() {
                if is_new || expected.is_empty() {
                    ids.insert(next, n);
                    expected.push((next, n));
                    next += stride / 2 * 2;
                } else {
                    let (id, _) = expected.swap_remove(which % expected.len());
                    ids.remove(id);
                    prop_assert_eq!(ids.get(id), None);
                }
                for &(id, index) in &expected {
                    prop_assert_eq!(ids.get(id), Some(index));
                }
                prop_assert_eq!((ids.get(next), ids.len()), (None, expected.len()));
            }
        }
    }

    #[test]
    fn ids_that_are_counted_meet_nobody() {
        let mut ids = Ids::default();
        for n in 0..100_000_u32 {
            ids.insert(1 + 2 * n, 7);
            if n >= 1000 {
                ids.remove(1 + 2 * (n - 1000));
            }
            assert!(ids.strays.is_empty(), "{n}");
        }
        assert!(ids.places.len() <= 4096);
    }
}

//! A map by address that costs little to ask: once or twice per request.
//!
//! Its hash has no key. The addresses are those of the application and of what the workload itself calls outside the mesh,
//! never a peer's choice: whoever made them collide would slow down its own calls.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;

/// By address.
pub(crate) type ByAddress<V> = HashMap<SocketAddr, V, BuildHasherDefault<AddressHasher>>;

/// One multiplication per number that is hashed.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl AddressHasher {
    fn number(&mut self, number: u64) {
        // The golden ratio spreads neighbours; the rotation lets the high half of one product count in the next.
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        // A table takes its place from the low bits and a tag from the high ones: both must depend on everything.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.number(u64::from_le_bytes(number));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.number(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.number(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.number(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.number(number.cast_unsigned() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    #[test]
    fn neighbouring_addresses_are_spread() {
        let hasher = BuildHasherDefault::<AddressHasher>::default();
        let hosts = (0..64_u8).flat_map(|host| (0..64_u16).map(move |port| SocketAddr::from(([10, 0, 0, host], port))));
        let sixth = (0..64_u16).map(|host| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, host], 80)));
        let low: HashSet<u64> = hosts.map(|a| hasher.hash_one(a) & 0xffff).collect();
        // 4,096 balls into 65,536 bins leave about 3,970 bins used.
        assert!(low.len() > 3_700, "{} places for 4,096 addresses", low.len());
        let low: HashSet<u64> = sixth.map(|a| hasher.hash_one(a) & 0xffff).collect();
        assert!(low.len() > 60, "{} places for 64 addresses", low.len());
    }
}

//! The Huffman code of RFC 7541 appendix B.
//!
//! The code is canonical: codes of one length follow one another in the order of their symbols, and longer ones behind shorter
//! ones. So the lengths say everything, and all tables are computed from them. Of what occurs in heads nearly all has a code of at
//! most eight bits; those are found by one look at the next eight bits. Longer ones are found by comparing the next bits with
//! where the codes of each length end.

use super::HpackError;

/// Bits of the code of each byte, and of the end of a string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

const END_OF_STRING: u16 = 256;
/// Bits of the longest code.
const LONGEST: usize = 30;
/// Bits of the shortest code.
const SHORTEST: usize = 5;
/// Stands in [`SHORT`] for the bits of a code that has more than eight: more than are ever there.
const MORE: u32 = 64;

/// All symbols in the order of their codes.
static ORDER: [u16; 257] = {
    let mut order = [0; 257];
    let (mut place, mut length) = (0, SHORTEST);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < order.len() {
            if LENGTHS[symbol] as usize == length {
                order[place] = symbol as u16;
                place += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    assert!(place == order.len(), "a symbol without a code");
    order
};

/// The codes of one length.
#[derive(Clone, Copy)]
struct Class {
    /// The first code.
    first: u32,
    /// The place of its symbol in [`ORDER`].
    place: usize,
    /// Behind the last code, with as many zeros after it as make 32 bits.
    end: u64,
}

/// By length in bits.
static CLASSES: [Class; LONGEST + 1] = {
    let mut classes = [Class { first: 0, place: 0, end: 0 }; LONGEST + 1];
    let (mut length, mut next, mut place) = (1, 0_u32, 0);
    while length <= LONGEST {
        next <<= 1;
        classes[length].first = next;
        classes[length].place = place;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        classes[length].end = (next as u64) << (32 - length);
        length += 1;
    }
    assert!(next == 1 << LONGEST, "some sequences of bits are no code, or two");
    classes
};

/// By the next eight bits: the symbol, and above it the length of its code or [`MORE`].
static SHORT: [u16; 256] = {
    let mut table = [(MORE as u16) << 8; 256];
    let (mut place, mut bits) = (0, 0);
    while LENGTHS[ORDER[place] as usize] <= 8 {
        let length = LENGTHS[ORDER[place] as usize];
        let mut n = 0;
        while n < 1 << (8 - length) {
            table[bits] = (length as u16) << 8 | ORDER[place];
            bits += 1;
            n += 1;
        }
        place += 1;
    }
    table
};

/// How many bytes a string of `coded` bytes has at most.
pub(super) fn decoded_bound(coded: usize) -> usize {
    coded * 8 / SHORTEST
}

/// Decodes a string into `out`, where [`decoded_bound`] bytes have room; how many it has.
pub(super) fn decode(mut coded: &[u8], out: &mut [u8]) -> Result<usize, HpackError> {
    // The next bits, the very next the highest, and how many of them count.
    let (mut next, mut bits) = (0_u64, 0_u32);
    let mut len = 0;
    loop {
        (next, bits) = refill(next, bits, &mut coded);
        let mut found = SHORT[(next >> 56) as usize];
        while u32::from(found >> 8) <= bits {
            out[len] = found as u8;
            len += 1;
            next <<= found >> 8;
            bits -= u32::from(found >> 8);
            found = SHORT[(next >> 56) as usize];
        }
        if !coded.is_empty() && bits < LONGEST as u32 {
            continue;
        }
        // A long code, or a piece of one at the end.
        let (symbol, length) = long(next);
        if length > bits {
            break;
        }
        if symbol == END_OF_STRING {
            return Err(HpackError::EndOfString);
        }
        out[len] = symbol as u8;
        len += 1;
        next <<= length;
        bits -= length;
    }
    // What is behind the last code is the beginning of the end of a string, which is all ones.
    if bits < 8 && next.leading_ones() >= bits { Ok(len) } else { Err(HpackError::Padding) }
}

/// Takes bytes until no other has room, or there are none.
#[inline(always)]
fn refill(mut next: u64, mut bits: u32, coded: &mut &[u8]) -> (u64, u32) {
    if let Some(word) = coded.first_chunk() {
        // Takes also a part of the byte that has no room. It does not count, and is the same when it comes again.
        next |= u64::from_be_bytes(*word) >> bits;
        let taken = (63 - bits) / 8;
        *coded = &coded[taken as usize..];
        return (next, bits + taken * 8);
    }
    while bits < 56
        && let [byte, behind @ ..] = *coded
    {
        next |= u64::from(*byte) << (56 - bits);
        bits += 8;
        *coded = behind;
    }
    (next, bits)
}

/// The symbol whose code comes next, and the bits of the code.
fn long(next: u64) -> (u16, u32) {
    let bits = next >> 32;
    let mut length = SHORTEST;
    while bits >= CLASSES[length].end {
        length += 1;
    }
    let Class { first, place, .. } = CLASSES[length];
    let code = (bits >> (32 - length)) as usize;
    (ORDER[place + code - first as usize], length as u32)
}

#[cfg(test)]
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0);
    for byte in text {
        let length = usize::from(LENGTHS[usize::from(*byte)]);
        let place = ORDER.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
        let Class { first, place: first_place, .. } = CLASSES[length];
        bits = (bits << length) | (u64::from(first) + (place - first_place) as u64);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

//! Sixteen bytes in one step: which of them are of some class, a bit for each, the first byte's lowest.
//!
//! Heads are read with these. A compiler makes vector instructions of a loop over bytes, or does not, depending on what stands
//! around it: one rearranged line made reading a head dearer by a third. SSE2 is part of every x86-64; elsewhere the bytes are
//! looked at one by one.

#![expect(unsafe_code, reason = "vector instructions")]

/// Bytes looked at in one step.
pub const LANE: usize = 16;

/// Declares classes, each as a function of one byte and as instructions on a lane.
macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident: |$byte:ident| $of_byte:expr, |$lane:ident| $of_lane:expr;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            #[inline]
            pub fn $name(lane: &[u8; LANE]) -> u32 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: SSE2 is part of x86-64.
                unsafe {
                    simd::$name(lane)
                }
                #[cfg(not(target_arch = "x86_64"))]
                plain::$name(lane)
            }
        )*

        #[cfg(target_arch = "x86_64")]
        mod simd {
            use std::arch::x86_64::*;

            use super::LANE;

            $(
                #[inline]
                #[target_feature(enable = "sse2")]
                pub fn $name(lane: &[u8; LANE]) -> u32 {
                    // SAFETY: there are sixteen bytes, and this load does not ask for alignment.
                    let $lane = unsafe { _mm_loadu_si128(lane.as_ptr().cast()) };
                    _mm_movemask_epi8($of_lane) as u32
                }
            )*
        }

        #[cfg(any(test, not(target_arch = "x86_64")))]
        mod plain {
            use super::LANE;

            $(
                pub fn $name(lane: &[u8; LANE]) -> u32 {
                    let is_member = |$byte: u8| $of_byte;
                    lane.iter().rev().fold(0, |bits, byte| bits << 1 | u32::from(is_member(*byte)))
                }
            )*
        }

        #[cfg(test)]
        const CLASSES: &[(&str, Class, Class)] = &[$((stringify!($name), $name, plain::$name)),*];
    };
}

#[cfg(test)]
type Class = fn(&[u8; LANE]) -> u32;

classes! {
    /// Control characters, tab included.
    controls: |b| b < 0x20 || b == 0x7f,
        |l| _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(l, _mm_set1_epi8(0x1f)), l), _mm_cmpeq_epi8(l, _mm_set1_epi8(0x7f)));
    /// Control characters and spaces.
    blanks: |b| b <= 0x20 || b == 0x7f,
        |l| _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(l, _mm_set1_epi8(0x20)), l), _mm_cmpeq_epi8(l, _mm_set1_epi8(0x7f)));
    /// Control characters, spaces, `#`, and what is not ASCII.
    odd_in_targets: |b| !(0x21..0x7f).contains(&b) || b == b'#',
        // As signed numbers, what is not ASCII is below zero.
        |l| _mm_or_si128(
            _mm_cmplt_epi8(l, _mm_set1_epi8(0x21)),
            _mm_or_si128(_mm_cmpeq_epi8(l, _mm_set1_epi8(0x7f)), _mm_cmpeq_epi8(l, _mm_set1_epi8(0x23))),
        );
    /// All but the letters of ASCII and hyphens.
    odd_in_names: |b| !(b.is_ascii_alphabetic() || b == b'-'),
        |l| {
            let from_a = _mm_sub_epi8(_mm_or_si128(l, _mm_set1_epi8(0x20)), _mm_set1_epi8(0x61));
            let is_letter = _mm_cmpeq_epi8(_mm_min_epu8(from_a, _mm_set1_epi8(25)), from_a);
            let is_member = _mm_or_si128(is_letter, _mm_cmpeq_epi8(l, _mm_set1_epi8(0x2d)));
            _mm_xor_si128(is_member, _mm_set1_epi8(-1))
        };
    /// All but the small letters of ASCII and hyphens.
    odd_in_lower_names: |b| !(b.is_ascii_lowercase() || b == b'-'),
        |l| {
            let from_a = _mm_sub_epi8(l, _mm_set1_epi8(0x61));
            let is_letter = _mm_cmpeq_epi8(_mm_min_epu8(from_a, _mm_set1_epi8(25)), from_a);
            let is_member = _mm_or_si128(is_letter, _mm_cmpeq_epi8(l, _mm_set1_epi8(0x2d)));
            _mm_xor_si128(is_member, _mm_set1_epi8(-1))
        };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        assert_eq!(CLASSES.len(), 5);
        for (name, class, plain) in CLASSES {
            for byte in 0..=255_u8 {
                for at in 0..LANE {
                    let mut lane: [u8; LANE] =
                        std::array::from_fn(|n| byte.wrapping_mul(31).wrapping_add(n as u8 * 17));
                    lane[at] = byte;
                    assert_eq!(class(&lane), plain(&lane), "{name} of {lane:?}");
                }
            }
        }
        assert_eq!(controls(b"ab\0c\t\x7f def\r\n\xff-Z#"), 0b0000_1100_0011_0100);
        assert_eq!(blanks(b"ab\0c\t\x7f def\r\n\xff-Z#"), 0b0000_1100_0111_0100);
        assert_eq!(odd_in_targets(b"ab\0c\t\x7f def\r\n\xff-Z#"), 0b1001_1100_0111_0100);
        assert_eq!(odd_in_names(b"ab\0c\t\x7f def\r\n\xff-Z#"), 0b1001_1100_0111_0100);
        assert_eq!(odd_in_lower_names(b"ab\0c\t\x7f def\r\n\xff-Z#"), 0b1101_1100_0111_0100);
    }
}

//! What frames of the hop and of HTTP/2 have in common (RFC 9113 section 4.1): nine bytes in front, and DATA.
//!
//! ```text
//!  0               3      4       5               9
//!  +---------------+------+-------+---------------+----------- - -
//!  | length (24)   | kind | flags | stream (32)   | payload …
//!  +---------------+------+-------+---------------+----------- - -
//! ```

/// Bytes before every payload.
pub const HEADER: usize = 9;
/// Largest payload of a DATA frame that we send: with its header it fills one TLS record.
pub const MAX_DATA: usize = 16_384 - HEADER;
/// The kind of DATA frames.
pub const DATA: u8 = 0;
/// The sender's half of the stream ends with this frame.
pub const END: u8 = 0x01;

/// The length of the payload, which is not there yet.
#[must_use]
pub fn length(header: &[u8; HEADER]) -> usize {
    u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize
}

/// How many bytes are missing until the frame that `start` begins is whole.
#[must_use]
pub fn missing(start: &[u8]) -> usize {
    match start.first_chunk::<HEADER>() {
        None => HEADER - start.len(),
        Some(header) => (HEADER + length(header)).saturating_sub(start.len()),
    }
}

/// Appends a header.
pub fn put_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, l0, l1, l2] = u32::try_from(length).expect("bounded by the kind").to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]);
}

/// Appends a frame.
pub fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    put_header(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

/// Sets the length of the frame that begins at `at` and ends with `out`.
pub fn patch_length(out: &mut [u8], at: usize) {
    let length = u32::try_from(out.len() - at - HEADER).expect("bounded by the caller");
    out[at..at + 3].copy_from_slice(&length.to_be_bytes()[1..]);
}

/// Adds flags to the frame that begins at `at`.
pub fn patch_flags(out: &mut [u8], at: usize, flags: u8) {
    out[at + 4] |= flags;
}

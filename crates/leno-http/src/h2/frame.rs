//! HTTP/2's frames (RFC 9113 section 6), beyond what [`crate::mux::frame`] knows of them.

use crate::mux::frame::HEADER;
use crate::mux::wire::broken;
use crate::mux::{Fault, ProtocolError};

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most bytes of a payload, both ways: what everybody takes (`SETTINGS_MAX_FRAME_SIZE`).
pub const MAX_FRAME: usize = 16_384;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x01;
pub const ACK: u8 = 0x01;
pub const END_HEADERS: u8 = 0x04;
pub const PADDED: u8 = 0x08;
/// HEADERS: five bytes of a priority scheme that is no more (RFC 9113 section 5.3.2).
pub const HAS_PRIORITY: u8 = 0x20;

/// Identifiers of settings (RFC 9113 section 6.5.2).
pub mod setting {
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Error codes (RFC 9113 section 7).
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;

    /// For logs.
    pub fn name(code: u32) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        usize::try_from(code).ok().and_then(|n| NAMES.get(n)).unwrap_or(&"an unknown error code")
    }
}

/// A frame, its payload where it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding, and the bytes of padding with the one that counts them.
    pub fn unpadded(&self) -> Result<(&'a [u8], usize), ProtocolError> {
        if !self.has(PADDED) {
            return Ok((self.payload, 0));
        }
        let Some((&padding, rest)) = self.payload.split_first() else {
            return broken(Fault::FrameSize, "a padded frame without a length of padding");
        };
        match rest.len().checked_sub(usize::from(padding)) {
            Some(length) => Ok((&rest[..length], usize::from(padding) + 1)),
            None => broken(Fault::Protocol, "more padding than payload"),
        }
    }
}

/// Takes one whole frame off the input; `None` if it is cut.
pub fn take<'a>(input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, ProtocolError> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [_, _, _, kind, flags, s0, s1, s2, s3] = *header;
    let length = crate::mux::frame::length(header);
    if length > MAX_FRAME {
        return broken(Fault::FrameSize, format!("a frame of kind {kind} with {length} bytes"));
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    *input = &rest[length..];
    // The highest bit is reserved and not looked at.
    let stream = u32::from_be_bytes([s0, s1, s2, s3]) & i32::MAX as u32;
    Ok(Some(Frame { kind, flags, stream, payload }))
}

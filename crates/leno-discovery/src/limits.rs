//! Every bound of the protocol, with its reason.

use std::time::Duration;

/// Protocol version that this code speaks; the lowest and highest are the same until there is a second.
pub const PROTOCOL: u32 = 1;
/// Largest message in bytes: room for a resume of some 40,000 resources and for the largest stored record, small enough to hold for
/// every stream.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Subscriptions per stream: a workload that calls more services than this is a scan.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;
/// Resources that a client may claim to hold, over all its subscriptions.
pub const MAX_HELD: usize = 200_000;
/// Resources that a client offers on resume, over all subscriptions: under [`MAX_HELD`], and each under [`MAX_MESSAGE`] at some
/// 50 bytes per resource. Collections beyond it are asked for whole.
pub const MAX_OFFERED: usize = 150_000;
/// Resources that a client offers of one collection.
pub const MAX_OFFERED_EACH: usize = 20_000;
/// Answers (registered, issued, …) that wait for a slow reader; no more is read from it while it has so many.
pub const MAX_ANSWERS: usize = 64;
/// Acknowledgements in one message.
pub const MAX_APPLIED: usize = 1_000;
/// Longest diagnostic kept from a client.
pub const MAX_DIAGNOSTIC: usize = 1_024;
/// Longest word of a resource key (DNS name, RFC 1035).
pub const MAX_KEY_PART: usize = 253;
/// A stream whose first message has not come by then is ended; the same for a connection without a stream.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of HTTP/2 pings, both ways.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// An unanswered ping ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections without a client certificate (enrolment) at one time.
pub const MAX_ANONYMOUS: usize = 256;
/// Redemptions of join tokens at one time; others wait. They outlive their connections, which therefore do not bound them.
pub const MAX_REDEMPTIONS: usize = 64;
/// Connections at one time.
pub const MAX_CONNECTIONS: usize = 20_000;
/// HTTP/2 streams per connection: one discovery stream, and room for calls that later versions add.
pub const MAX_HTTP2_STREAMS: u32 = 8;
/// New streams admitted per second once the burst is used, so that a restart of the control plane is not a stampede.
pub const ADMISSIONS_PER_SECOND: u32 = 200;
/// New streams admitted at once.
pub const ADMISSION_BURST: u32 = 200;
/// A proxy answers `control_plane_unreachable` when a first answer takes longer (DESIGN D2).
pub const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// First and longest delay between attempts to connect.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

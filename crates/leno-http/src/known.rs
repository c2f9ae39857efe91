//! Names of fields that some code asks for. Each is recognised once, when a head is read; from then on a question about it is a
//! comparison of numbers, and one about a name that is absent from the head is a look at a set.

/// What a name is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// None of the others.
    Other,
    /// Only proxies may say it: `leno-*` and `x-forwarded-client-cert`. An underscore counts as a hyphen: CGI and its heirs
    /// (WSGI, PHP) give `leno_source_identity` and `leno-source-identity` to the application as one variable.
    Internal,
    /// `te`
    Te,
    /// `host`
    Host,
    /// `expect`
    Expect,
    /// `cookie`
    Cookie,
    /// `upgrade`
    Upgrade,
    /// `trailer`
    Trailer,
    /// `connection`
    Connection,
    /// `keep-alive`
    KeepAlive,
    /// `set-cookie`
    SetCookie,
    /// `tracestate`
    Tracestate,
    /// `traceparent`
    Traceparent,
    /// `grpc-status`
    GrpcStatus,
    /// `content-type`
    ContentType,
    /// `grpc-timeout`
    GrpcTimeout,
    /// `authorization`
    Authorization,
    /// `content-length`
    ContentLength,
    /// `http2-settings`
    Http2Settings,
    /// `proxy-connection`
    ProxyConnection,
    /// `transfer-encoding`
    TransferEncoding,
    /// `proxy-authenticate`
    ProxyAuthenticate,
    /// `proxy-authorization`
    ProxyAuthorization,
}

/// Every name that stands for itself. No two have both length and first letter in common, so that one look finds the only one
/// that a name can be.
const NAMES: [(&str, Known); 21] = [
    ("te", Known::Te),
    ("host", Known::Host),
    ("expect", Known::Expect),
    ("cookie", Known::Cookie),
    ("upgrade", Known::Upgrade),
    ("trailer", Known::Trailer),
    ("connection", Known::Connection),
    ("keep-alive", Known::KeepAlive),
    ("set-cookie", Known::SetCookie),
    ("tracestate", Known::Tracestate),
    ("traceparent", Known::Traceparent),
    ("grpc-status", Known::GrpcStatus),
    ("content-type", Known::ContentType),
    ("grpc-timeout", Known::GrpcTimeout),
    ("authorization", Known::Authorization),
    ("content-length", Known::ContentLength),
    ("http2-settings", Known::Http2Settings),
    ("proxy-connection", Known::ProxyConnection),
    ("transfer-encoding", Known::TransferEncoding),
    ("proxy-authenticate", Known::ProxyAuthenticate),
    ("proxy-authorization", Known::ProxyAuthorization),
];

/// How those of [`Known::Internal`] begin, and the one that is not one of them.
const PREFIX: &[u8] = b"leno-";
const CLIENT_CERTIFICATE: &[u8] = b"x-forwarded-client-cert";

/// A name in words: the first and the last eight bytes and, of those that are longer than that, the second eight. Of shorter
/// names, the first and the last four, or what there is.
type Words = (u64, u64, u64);

/// Words of a name without the case of its letters.
#[derive(Clone, Copy)]
struct Pattern {
    mask: Words,
    want: Words,
}

/// The patterns of [`NAMES`], by the number of their [`Known`]; the first two have none.
static PATTERNS: [Pattern; NAMES.len() + 2] = {
    let mut all = [Pattern { mask: (0, 0, 0), want: (1, 0, 0) }; NAMES.len() + 2];
    let mut n = 0;
    while n < NAMES.len() {
        let name = NAMES[n].0.as_bytes();
        let (mut mask, mut want) = ([0xff; CLIENT_CERTIFICATE.len()], [0; CLIENT_CERTIFICATE.len()]);
        let mut at = 0;
        while at < name.len() {
            // The one bit in which the cases of a letter differ is not looked at; other bytes must be exactly themselves.
            if name[at].is_ascii_lowercase() {
                mask[at] = 0xdf;
            }
            want[at] = name[at] & mask[at];
            at += 1;
        }
        all[NAMES[n].1 as usize] =
            Pattern { mask: words(mask.split_at(name.len()).0), want: words(want.split_at(name.len()).0) };
        n += 1;
    }
    all
};

/// For each length of a name and each first letter, whatever its case, what such a name may be. The last row stands for all
/// greater lengths.
static CANDIDATES: [[Known; 32]; CLIENT_CERTIFICATE.len() + 2] = {
    let mut table = [[Known::Other; 32]; CLIENT_CERTIFICATE.len() + 2];
    let mut length = PREFIX.len();
    while length < table.len() {
        table[length][letter(PREFIX[0])] = Known::Internal;
        length += 1;
    }
    table[CLIENT_CERTIFICATE.len()][letter(CLIENT_CERTIFICATE[0])] = Known::Internal;
    let mut n = 0;
    while n < NAMES.len() {
        let (name, known) = (NAMES[n].0.as_bytes(), NAMES[n].1);
        let candidate = &mut table[name.len()][letter(name[0])];
        assert!(matches!(candidate, Known::Other), "two names with this length and first letter");
        *candidate = known;
        n += 1;
    }
    table
};

/// A letter without its case; what is no letter may be taken for one here.
const fn letter(byte: u8) -> usize {
    (byte & 31) as usize
}

#[inline]
const fn words(name: &[u8]) -> Words {
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let second = match name.first_chunk::<16>() {
            Some(two) if name.len() > 16 => (u128::from_le_bytes(*two) >> 64) as u64,
            _ => 0,
        };
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last), second);
    }
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        return (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64, 0);
    }
    match *name {
        [] => (0, 0, 0),
        [only] => (only as u64, 0, 0),
        [first, .., last] => (first as u64, (last as u64) << 8 | name[1] as u64, 0),
    }
}

impl Known {
    /// Recognises a name, in whatever case.
    #[must_use]
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        let candidate = CANDIDATES[name.len().min(CANDIDATES.len() - 1)][letter(*first)];
        if candidate == Self::Other { Self::Other } else { candidate.if_it_is(name) }
    }

    /// This one, if the name is the candidate's.
    fn if_it_is(self, name: &[u8]) -> Self {
        let is_it = if self == Self::Internal {
            is_internal(name)
        } else {
            let (Pattern { mask, want }, words) = (PATTERNS[self as usize], words(name));
            words.0 & mask.0 == want.0 && words.1 & mask.1 == want.1 && words.2 & mask.2 == want.2
        };
        if is_it { self } else { Self::Other }
    }

    /// All fields of this kind have the same name.
    pub(crate) const fn is_one_name(self) -> bool {
        !matches!(self, Self::Other | Self::Internal)
    }
}

/// See [`Known::Internal`].
fn is_internal(name: &[u8]) -> bool {
    let alike = |start: &[u8]| {
        let alike = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
        name.len() >= start.len() && name.iter().zip(start).all(alike)
    };
    (name.len() == CLIENT_CERTIFICATE.len() && alike(CLIENT_CERTIFICATE)) || alike(PREFIX)
}

/// A set of kinds of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NameSet(u32);

impl NameSet {
    /// The set of `names`.
    #[must_use]
    pub const fn of(names: &[Known]) -> Self {
        let mut set = Self(0);
        let mut n = 0;
        while n < names.len() {
            set = set.with(names[n]);
            n += 1;
        }
        set
    }

    /// This set and one more.
    #[must_use]
    pub const fn with(self, name: Known) -> Self {
        Self(self.0 | 1 << name as u32)
    }

    /// What is in one of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set but for what is in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `name` is in it.
    #[must_use]
    pub const fn has(self, name: Known) -> bool {
        self.0 & 1 << name as u32 != 0
    }

    /// Whether something is in both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by comparing with every name.
    fn slow(name: &[u8]) -> Known {
        let listed =
            NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes())).map(|(_, known)| *known);
        listed.unwrap_or(if is_internal(name) { Known::Internal } else { Known::Other })
    }

    #[test]
    fn every_name_is_known_in_every_case_and_nothing_else() {
        for (name, known) in NAMES {
            assert!(name.len() <= 24, "{name} is not covered by its words");
            assert_eq!(Known::of(name.as_bytes()), known);
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), known);
            assert_eq!(Known::of(&name.as_bytes()[..name.len() - 1]), slow(&name.as_bytes()[..name.len() - 1]));
            // Every byte in the place of every other: also those that differ in the bit of the case alone.
            for at in 0..name.len() {
                for byte in 0..=255 {
                    let mut other = name.as_bytes().to_vec();
                    other[at] = byte;
                    assert_eq!(Known::of(&other), slow(&other), "{name} with {byte} at {at}");
                }
            }
        }
        let set = NAMES.iter().fold(NameSet::default(), |set, (_, known)| set.with(*known));
        assert_eq!(set.0.count_ones() as usize, NAMES.len(), "one kind each");
    }

    #[test]
    fn what_only_proxies_say() {
        for name in
            ["leno-reason", "Leno-Anything", "LENO_x", "leno-", "x-forwarded-client-cert", "X_Forwarded-Client_Cert"]
        {
            assert_eq!(Known::of(name.as_bytes()), Known::Internal, "{name}");
        }
        for name in ["len-o", "leno", "x-forwarded-client-certs", "x-forwarded-for", "", "l", "lenox-"] {
            assert_eq!(Known::of(name.as_bytes()), Known::Other, "{name}");
        }
    }

    proptest! {
        #[test]
        fn recognising_is_comparing(name in "[a-zA-Z0-9_-]{0,24}") {
            prop_assert_eq!(Known::of(name.as_bytes()), slow(name.as_bytes()));
        }
    }
}

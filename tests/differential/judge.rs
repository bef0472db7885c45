//! Whether another parser reads what keygate takes alike, and what a difference is called.

use crate::codec::Codec;
use crate::outcome::{Outcome, Parser, Request};

/// How two readings differ, at the first step where they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keygate refuses what the other takes.
    Stricter,
    /// Keygate ends the connection where the other reads on.
    KeygateEnds,
    /// Keygate waits for more of what is whole to the other.
    KeygateWaits,
    /// The other refuses what keygate takes.
    OtherRefuses,
    /// The other waits for more of what is whole to keygate.
    OtherWaits,
    /// The other ended the connection where keygate reads on.
    OtherEnds,
    /// Both take a request, and one part of it differs.
    Method,
    Target,
    Version,
    Headers,
    Body,
}

impl Kind {
    /// Whether it can do no harm: what keygate doesn't take reaches nobody.
    pub fn is_harmless(self) -> bool {
        matches!(self, Self::Stricter | Self::KeygateEnds)
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Stricter => "takes, keygate refuses",
            Self::KeygateEnds => "reads on, keygate ends the connection",
            Self::KeygateWaits => "takes, keygate waits",
            Self::OtherRefuses => "refuses, keygate takes",
            Self::OtherWaits => "waits, keygate takes",
            Self::OtherEnds => "ends the connection, keygate reads on",
            Self::Method => "reads another method",
            Self::Target => "reads another target",
            Self::Version => "reads another version",
            Self::Headers => "reads other headers",
            Self::Body => "reads another body",
        }
    }
}

/// The first difference, and the step where it stands.
pub fn difference(keygate: &[Outcome], other: &[Outcome]) -> Option<(Kind, usize)> {
    use Outcome::{Answered, Incomplete, Refused, Request};
    for at in 0.. {
        let kind = match (keygate.get(at), other.get(at)) {
            (Some(Request(one)), Some(Request(two))) => match part(one, two) {
                Some(kind) => kind,
                None => continue,
            },
            // What was answered and not forwarded is taken, but its content isn't known.
            (Some(Request(_) | Answered(_)), Some(Request(_) | Answered(_))) => continue,
            // Nobody got it, and nobody gets more.
            (Some(Answered(_)), Some(Refused(_) | Incomplete) | None)
                if !takes_more(keygate, at) =>
            {
                return None;
            }
            (Some(Request(_) | Answered(_)), Some(Refused(_))) => Kind::OtherRefuses,
            (Some(Request(_) | Answered(_)), Some(Incomplete)) => Kind::OtherWaits,
            (Some(Request(_) | Answered(_)), None) => Kind::OtherEnds,
            (Some(Refused(_)), Some(Request(_) | Answered(_))) => Kind::Stricter,
            (Some(Incomplete), Some(Request(_) | Answered(_))) => Kind::KeygateWaits,
            (None, Some(Request(_) | Answered(_))) => Kind::KeygateEnds,
            (Some(Refused(_) | Incomplete) | None, _) => return None,
        };
        return Some((kind, at));
    }
    None
}

/// Whether anything is taken behind this step.
fn takes_more(outcomes: &[Outcome], at: usize) -> bool {
    matches!(
        outcomes.get(at + 1),
        Some(Outcome::Request(_) | Outcome::Answered(_))
    )
}

/// The first part of a request that differs. What one side can't tell is not compared.
fn part(one: &Request, two: &Request) -> Option<Kind> {
    let differ = |one: Option<u8>, two: Option<u8>| one.is_some() && two.is_some() && one != two;
    if one.method != two.method {
        Some(Kind::Method)
    } else if one.target != two.target {
        Some(Kind::Target)
    } else if one.body != two.body {
        Some(Kind::Body)
    } else if differ(one.version, two.version) {
        Some(Kind::Version)
    } else if one.headers.is_some() && two.headers.is_some() && one.headers != two.headers {
        Some(Kind::Headers)
    } else {
        None
    }
}

/// Why a difference that could do harm does none.
pub struct Explanation {
    /// The other parser.
    pub other: &'static str,
    pub kind: Kind,
    /// What the class is called.
    pub name: &'static str,
    pub reason: &'static str,
    /// Whether what keygate took is of this class.
    holds: fn(&Taken) -> bool,
}

/// What keygate took and another reads differently.
pub struct Taken<'a> {
    /// The request; none where keygate's reader doesn't show it.
    request: Option<&'a Request>,
    /// Its head and body; the whole connection's bytes where it isn't shown.
    bytes: &'a [u8],
    /// What the other makes of it.
    other: Option<&'a Outcome>,
}

impl Taken<'_> {
    fn method(&self) -> &[u8] {
        self.request.map_or(b"", |request| &request.method)
    }

    fn target(&self) -> &[u8] {
        self.request.map_or(b"", |request| &request.target)
    }

    /// The values of all lines of this name, trailers too, with the white space around them.
    fn values(&self, name: &str) -> Vec<&[u8]> {
        let lines = self.bytes.split(|byte| *byte == b'\n');
        lines
            .filter_map(|line| {
                let (own, value) = line.split_at_checked(name.len())?;
                let is_named = own.eq_ignore_ascii_case(name.as_bytes());
                let value = value.strip_prefix(b":").filter(|_| is_named)?;
                Some(value.strip_suffix(b"\r").unwrap_or(value))
            })
            .collect()
    }

    fn has_tab_around(&self, name: &str) -> bool {
        self.values(name).iter().any(|value| value.contains(&b'\t'))
    }
}

/// All of them. Whatever fits none fails the run.
pub const EXPLANATIONS: [Explanation; 17] = [
    Explanation {
        other: "hyper",
        kind: Kind::OtherRefuses,
        name: "a byte in the target",
        reason: "RFC 3986 has no such byte in a path or query, but servers pass it on as it is; hyper passes fewer of them",
        holds: |taken| {
            matches!(taken.other, Some(Outcome::Refused(why)) if why.contains("URI"))
                && taken
                    .target()
                    .iter()
                    .any(|byte| b"\"`^\\{|}".contains(byte))
        },
    },
    Explanation {
        other: "hyper",
        kind: Kind::OtherRefuses,
        name: "many trailers",
        reason: "hyper bounds their number, keygate their bytes; both drop them",
        holds: |taken| {
            !taken.values("transfer-encoding").is_empty()
                && memchr::memchr_iter(b'\n', taken.bytes).count() > 100
        },
    },
    Explanation {
        other: "hyper",
        kind: Kind::Headers,
        name: "headers that Connection names",
        reason: "keygate drops them while it reads (RFC 9110 7.6.1), hyper leaves that to its user",
        holds: lacks_only_what_connection_names,
    },
    Explanation {
        other: "haproxy",
        kind: Kind::OtherRefuses,
        name: "Upgrade to websocket without its key",
        reason: "HAProxy checks the handshake; keygate ignores and drops Upgrade",
        holds: |taken| {
            let values = taken.values("upgrade");
            values
                .iter()
                .any(|value| value.trim_ascii().eq_ignore_ascii_case(b"websocket"))
        },
    },
    Explanation {
        other: "haproxy",
        kind: Kind::OtherRefuses,
        name: "UTF-8 in the target",
        reason: "some clients send it in a query as it is; HAProxy refuses it unless told otherwise, nginx and hyper pass it on",
        holds: |taken| {
            !taken.target().is_ascii() || !taken.bytes.is_ascii() && taken.request.is_none()
        },
    },
    Explanation {
        other: "haproxy",
        kind: Kind::OtherRefuses,
        name: "the method PRI",
        reason: "HAProxy keeps it for the preface of HTTP/2; keygate serves no route by it",
        holds: |taken| taken.method() == b"PRI",
    },
    Explanation {
        other: "haproxy",
        kind: Kind::OtherRefuses,
        name: "a length or coding among trailers",
        reason: "HAProxy checks it as if it were a header; keygate drops all trailers, and none reaches an upstream",
        holds: |taken| {
            let framing = ["content-length", "transfer-encoding", "host"];
            framing
                .iter()
                .map(|name| taken.values(name).len())
                .sum::<usize>()
                > 2
        },
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "a tab beside a value",
        reason: "nginx trims spaces alone, so that a tab is a part of the length, coding or host (RFC 9110 5.5 has both)",
        holds: |taken| {
            let names = ["host", "content-length", "transfer-encoding"];
            names.iter().any(|name| taken.has_tab_around(name))
        },
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "Expect or a credential twice",
        reason: "nginx refuses some headers that come twice; what frames a request is not among what keygate takes twice",
        holds: |taken| {
            let names = ["expect", "authorization"];
            names.iter().any(|name| taken.values(name).len() > 1)
        },
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "a method that isn't capital letters",
        reason: "nginx takes A to Z, `_` and `-`; RFC 9110 9.1 has every token, and keygate serves no route by another",
        holds: |taken| {
            let is_plain = |byte: &u8| byte.is_ascii_uppercase() || b"_-".contains(byte);
            !taken.method().iter().all(is_plain)
        },
    },
    Explanation {
        other: "haproxy",
        kind: Kind::OtherRefuses,
        name: "a body of GET, HEAD or DELETE in HTTP/1.0",
        reason: "HAProxy answers 413, since some servers don't read it; keygate's upstreams get HTTP/1.1",
        holds: |taken| {
            let names: [&[u8]; 3] = [b"GET", b"HEAD", b"DELETE"];
            let is_old = taken
                .request
                .is_none_or(|request| request.version != Some(1));
            is_old && names.contains(&taken.method())
        },
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "the same length twice",
        reason: "RFC 9112 6.3 lets a server take equal lengths as one or refuse them; keygate takes them, and sends one",
        holds: |taken| {
            let mut lengths = taken
                .values("content-length")
                .into_iter()
                .map(<[u8]>::trim_ascii);
            let first = lengths.next();
            let mut others = lengths.peekable();
            others.peek().is_some() && others.all(|other| Some(other) == first)
        },
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "TRACE",
        reason: "nginx answers 405 to it; keygate serves no route by it",
        holds: |taken| taken.method() == b"TRACE",
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "a path that can't be normalised",
        reason: "nginx decodes paths and refuses %00, broken escapes and what climbs above the root; keygate compares paths byte by byte, and serves none of these",
        holds: |taken| {
            let path = taken.target().split(|byte| *byte == b'?').next();
            let path = path.unwrap_or_default();
            has_odd_escape(path) || path.windows(2).any(|pair| pair == b"..")
        },
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "a Host that is no name",
        reason: "nginx refuses a name that is empty, also between dots or before a colon; keygate routes nothing by Host, and sends its upstream's own",
        holds: |taken| {
            let mut hosts = taken.values("host").into_iter().map(<[u8]>::trim_ascii);
            hosts.any(|host| {
                host == b"."
                    || host.starts_with(b":")
                    || host.windows(2).any(|pair| pair == b".." || pair == b".:")
            })
        },
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherRefuses,
        name: "OPTIONS *",
        reason: "nginx serves paths alone; keygate answers it itself and forwards nothing",
        holds: |taken| taken.target() == b"*",
    },
    Explanation {
        other: "nginx",
        kind: Kind::OtherEnds,
        name: "`close` within a Connection option",
        reason: "nginx looks for the letters anywhere in the value, so that `x-close` ends its connection",
        holds: |taken| {
            let values = taken.values("connection");
            values
                .iter()
                .any(|value| memchr::memmem::find(&value.to_ascii_lowercase(), b"close").is_some())
        },
    },
];

/// Whether a `%` isn't followed by two hex digits, or by those of NUL.
fn has_odd_escape(path: &[u8]) -> bool {
    let is_escape = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00";
    (0..path.len())
        .filter(|at| path[*at] == b'%')
        .any(|at| !path.get(at + 1..at + 3).is_some_and(is_escape))
}

/// Whether the other has all headers that keygate has, and else only some that Connection names.
fn lacks_only_what_connection_names(taken: &Taken) -> bool {
    let (
        Some(Request {
            headers: Some(own), ..
        }),
        Some(Outcome::Request(Request {
            headers: Some(others),
            ..
        })),
    ) = (taken.request, taken.other)
    else {
        return false;
    };
    let named = |name: &[u8]| {
        let mut connection = others.iter().filter(|(other, _)| other == b"connection");
        connection.any(|(_, value)| {
            let mut options = value.split(|byte| *byte == b',');
            options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name))
        })
    };
    let left: Vec<_> = others
        .iter()
        .filter(|(name, _)| name == b"connection" || !named(name))
        .collect();
    left.into_iter().eq(own.iter())
}

/// The explanation of a difference at this step that could do harm.
pub fn explanation(
    name: &str,
    (kind, at): (Kind, usize),
    keygate: &[Outcome],
    other: &[Outcome],
    bytes: &[u8],
) -> Option<&'static Explanation> {
    // A connection ends behind a request, for what stands in that one.
    let taken_at = at - usize::from(kind == Kind::OtherEnds && at > 0);
    // The running gateway doesn't show where a request stood, nor what it answered itself; its reader does.
    let read = Codec.parse(bytes);
    let request = match (keygate.get(taken_at), read.get(taken_at)) {
        (
            Some(Outcome::Request(Request { place: None, .. }) | Outcome::Answered(_)),
            Some(Outcome::Request(request)),
        )
        | (Some(Outcome::Request(request)), _) => Some(request),
        _ => None,
    };
    let place = request.and_then(|request| request.place.clone());
    let taken = Taken {
        request,
        bytes: place.map_or(bytes, |place| &bytes[place]),
        other: other.get(at),
    };
    EXPLANATIONS.iter().find(|explanation| {
        explanation.other == name && explanation.kind == kind && (explanation.holds)(&taken)
    })
}

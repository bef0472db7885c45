//! Whether another parser reads what keygate takes alike, and what a difference is called.

use crate::outcome::{Outcome, Request};

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
    /// The request; none where keygate answered it itself.
    request: Option<&'a Request>,
    /// Its head and body; the whole connection's bytes where keygate doesn't tell which are its.
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

    fn is_refused_with(&self, status: &str) -> bool {
        matches!(self.other, Some(Outcome::Refused(word)) if word == status)
    }

    fn has(&self, part: &[u8]) -> bool {
        memchr::memmem::find(&self.bytes.to_ascii_lowercase(), part).is_some()
    }

    /// The values of the lines that begin so, with the white space around them.
    fn values(&self, name: &str) -> Vec<Vec<u8>> {
        let name = format!("{name}:").into_bytes();
        let lines = self.bytes.split(|byte| *byte == b'\n');
        lines
            .filter(|line| {
                line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(&name)
            })
            .map(|line| {
                let value = &line[name.len()..];
                value.strip_suffix(b"\r").unwrap_or(value).to_vec()
            })
            .collect()
    }
}

/// All of them. Whatever fits none fails the run.
pub const EXPLANATIONS: [Explanation; 0] = [];

/// The explanation of a difference at this step that could do harm.
pub fn explanation(
    name: &str,
    (kind, at): (Kind, usize),
    keygate: &[Outcome],
    other: &[Outcome],
    bytes: &[u8],
) -> Option<&'static Explanation> {
    let request = match keygate.get(at) {
        Some(Outcome::Request(request)) => Some(request),
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

//! What a parser makes of the bytes of one connection.

use std::ops::Range;

/// One step of a parser on a connection, in order. `Refused` and `Incomplete` are always the last; without one of them
/// the parser ended the connection cleanly, or all bytes were used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bytes are not HTTP to this parser; the word says which rule or status, where the parser tells.
    Refused(String),
    /// The parser waits for more bytes.
    Incomplete,
    /// A whole request.
    Request(Request),
    /// A request that was read and answered without being forwarded: its content can't be seen from outside.
    Answered(u16),
}

/// A request as a parser read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1; none where a proxy hides it.
    pub version: Option<u8>,
    /// Lower-case names and trimmed values, sorted by name; lines of one name keep their order. None where a proxy
    /// rewrites them.
    pub headers: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    pub body: Vec<u8>,
    /// Whether the connection may be used again; none where it can't be seen.
    pub keep_alive: Option<bool>,
    /// Where its head and body stand in the bytes; none where it can't be seen.
    pub place: Option<Range<usize>>,
}

impl Request {
    /// The headers in the order that comparisons need. The same length twice, which RFC 9112 6.3 lets a server take as
    /// one, is in them once: hyper drops the second.
    pub fn sorted(mut headers: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        headers.sort_by(|(one, _), (other, _)| one.cmp(other));
        headers.dedup_by(|one, other| one.0 == b"content-length" && one == other);
        headers
    }
}

/// Something that reads HTTP/1 requests.
pub trait Parser {
    /// Reads a connection on which these bytes come, and then no more.
    fn parse(&self, bytes: &[u8]) -> Vec<Outcome>;
}

/// A reading in one line.
pub fn shown(outcomes: &[Outcome]) -> String {
    let mut steps: Vec<String> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Refused(rule) => format!("refused ({rule})"),
            Outcome::Incomplete => "waits for more".to_owned(),
            Outcome::Answered(status) => format!("answered {status}"),
            Outcome::Request(request) => format!(
                "{} {} with {} bytes \"{}\"",
                request.method.escape_ascii(),
                request.target.escape_ascii(),
                request.body.len(),
                request.body[..request.body.len().min(60)].escape_ascii()
            ),
        })
        .collect();
    if !matches!(
        outcomes.last(),
        Some(Outcome::Refused(_) | Outcome::Incomplete)
    ) {
        steps.push("end".to_owned());
    }
    steps.join(" | ")
}

//! What a call brings: its query and its JSON body, read strictly and within bounds.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Uri};
use http_body::Body;
use http_body_util::BodyExt;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tokio::time::timeout;

use crate::admin::request_head;
use crate::request_body::model;
use crate::store::record::shown;

use super::Caller;
use super::reply::Refusal;

/// Longest body, in bytes.
const MAX_BODY: usize = 1 << 20;
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What is read of a body that nobody wants, so that its sender gets to read the answer.
const DRAIN_BYTES: usize = 8 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A request's body, still to be read.
pub(super) struct Input<B> {
    body: B,
    ended: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Input<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, ended: false }
    }

    /// The whole body. Over TCP, one that is not empty has to say that it is JSON: no web page can, unasked.
    pub(super) async fn json(
        &mut self,
        caller: Caller,
        headers: &HeaderMap,
    ) -> Result<Bytes, Refusal> {
        let body = timeout(BODY_TIME, self.read())
            .await
            .unwrap_or(Err(Refusal::Slow))?;
        match caller {
            Caller::Network { .. }
                if !body.is_empty() && !model::is_json(request_head::content_type(headers)) =>
            {
                Err(Refusal::MediaType)
            }
            Caller::Network { .. } | Caller::Socket { .. } => Ok(body),
        }
    }

    async fn read(&mut self) -> Result<Bytes, Refusal> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if whole.len() + piece.len() > MAX_BODY {
                return Err(Refusal::TooLarge);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads and forgets the rest, up to a bound.
    pub(super) async fn drain(mut self) {
        let mut left = DRAIN_BYTES;
        let all = async {
            while let Some(Ok(piece)) = self.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        // Whoever is slower than that is not waited for.
        let _ = timeout(DRAIN_TIME, all).await;
    }

    async fn next(&mut self) -> Option<Result<Bytes, Refusal>> {
        if self.ended || self.body.is_end_stream() {
            return None;
        }
        let frame = self.body.frame().await;
        self.ended = !matches!(frame, Some(Ok(_)));
        let unreadable = |_| Refusal::Malformed("The body broke off or is not framed.".to_owned());
        // What is not data is a trailer: nobody asked for it.
        frame.map(|frame| {
            frame
                .map_err(unreadable)
                .map(|frame| frame.into_data().unwrap_or_default())
        })
    }
}

/// A query's parameters, decoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `application/x-www-form-urlencoded` (URL Standard 5.1), save that broken text is refused.
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        let pairs = uri.query().unwrap_or_default().split('&');
        let read = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        };
        pairs
            .filter(|pair| !pair.is_empty())
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The value of a parameter, which may come once.
    pub(super) fn parameter(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self
            .0
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Refusal::invalid(name, "comes twice; send it once")),
        }
    }

    /// A parameter that is true or false; absent is false.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Refusal> {
        match self.parameter(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Refusal::invalid(name, "must be true or false")),
        }
    }
}

fn decoded(text: &str) -> Result<String, Refusal> {
    let spaced = text.replace('+', " ");
    let bytes = model::percent_decoded(spaced.as_bytes()).collect();
    String::from_utf8(bytes).map_err(|_| {
        Refusal::invalid(
            "",
            "The query holds escapes that are not UTF-8; encode it as UTF-8.",
        )
    })
}

/// A JSON object whose every field is asked for by name; what is not asked for is a fault.
pub(super) struct Object(Vec<(String, Value)>);

impl Object {
    /// Reads a body; an empty one is an object without fields.
    pub(super) fn of(body: &[u8]) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let not_json = |error| {
            Refusal::Malformed(format!(
                "The body is not one whole JSON object: {error}; complete it."
            ))
        };
        let value: Value = serde_json::from_slice(body).map_err(not_json)?;
        if !value.is_object() {
            return Err(Refusal::invalid("", "The body must be a JSON object."));
        }
        // Once more, since a map keeps only the last of two fields with one name.
        let fields = serde_json::Deserializer::from_slice(body)
            .deserialize_map(Fields)
            .map_err(not_json)?;
        let repeated = fields
            .iter()
            .enumerate()
            .find(|(at, (name, _))| fields[..*at].iter().any(|(other, _)| other == name));
        match repeated {
            Some((_, (name, _))) => {
                Err(Refusal::invalid(&shown(name), "comes twice; send it once"))
            }
            None => Ok(Self(fields)),
        }
    }

    /// A string; None where it is absent or null.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::invalid(name, "must be a string")),
        }
    }

    /// A string that must be there.
    pub(super) fn required(&mut self, name: &str) -> Result<String, Refusal> {
        self.text(name)?
            .ok_or_else(|| Refusal::invalid(name, "is missing; add it"))
    }

    /// True or false; absent is false.
    pub(super) fn switch(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(_) => Err(Refusal::invalid(name, "must be true or false")),
        }
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::invalid(
                &shown(name),
                "is no known field; remove it",
            )),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
            if fields.len() > 64 {
                return Err(de::Error::custom("it has too many fields"));
            }
        }
        Ok(fields)
    }
}

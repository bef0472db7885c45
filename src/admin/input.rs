//! Reads the query and the JSON body of a call, strictly and within limits.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Uri};
use http_body::Body;
use http_body_util::BodyExt;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tokio::time::timeout;

use crate::admin::Peer;
use crate::admin::error::ApiError;
use crate::admin::principal::Principal;
use crate::admin::request_head;
use crate::policy::person::Role;
use crate::request_body::model;
use crate::store::strict_json::printable;

/// Longest body, in bytes.
const MAX_BODY: usize = 1 << 20;
/// The most entries of one list.
const MAX_LIMIT: usize = 1000;
/// The longest time for a body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How much of an unread body is read and dropped, so that its sender gets the response.
const DRAIN_BYTES: usize = 8 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A request's body that is not read yet.
pub(super) struct BodyReader<B> {
    body: B,
    ended: bool,
}

impl<B: Body<Data = Bytes> + Unpin> BodyReader<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, ended: false }
    }

    /// The whole body. Over TCP its content type must be JSON unless it is empty: web pages of other origins cannot send
    /// that without a CORS preflight.
    pub(super) async fn json(
        &mut self,
        peer: Peer,
        headers: &HeaderMap,
    ) -> Result<Bytes, ApiError> {
        let body = timeout(BODY_TIME, self.read())
            .await
            .unwrap_or(Err(ApiError::Slow))?;
        match peer {
            Peer::Network { .. }
                if !body.is_empty() && !model::is_json(request_head::content_type(headers)) =>
            {
                Err(ApiError::MediaType)
            }
            Peer::Network { .. } | Peer::Socket { .. } => Ok(body),
        }
    }

    async fn read(&mut self) -> Result<Bytes, ApiError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if whole.len() + piece.len() > MAX_BODY {
                return Err(ApiError::TooLarge);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads and drops the rest, up to a limit.
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
        // A slower client is not waited for.
        let _ = timeout(DRAIN_TIME, all).await;
    }

    async fn next(&mut self) -> Option<Result<Bytes, ApiError>> {
        if self.ended || self.body.is_end_stream() {
            return None;
        }
        let frame = self.body.frame().await;
        self.ended = !matches!(frame, Some(Ok(_)));
        let unreadable = |_| ApiError::Malformed("The body broke off or is not framed.".to_owned());
        // A frame without data is a trailer, which is ignored.
        frame.map(|frame| {
            frame
                .map_err(unreadable)
                .map(|frame| frame.into_data().unwrap_or_default())
        })
    }
}

/// The decoded parameters of a query.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `application/x-www-form-urlencoded` (URL Standard 5.1), but refuses invalid UTF-8.
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let query = uri.query().unwrap_or_default();
        let parameters = model::form_parameters(query);
        parameters.map(Self).ok_or_else(|| {
            let mut pairs = query.split('&');
            let faulty = pairs.find(|pair| model::form_parameters(pair).is_none());
            let name = faulty.and_then(|pair| pair.split('=').next());
            let name = name.and_then(model::form_parameters).unwrap_or_default();
            match name.first() {
                Some((name, _)) => ApiError::invalid(
                    &printable(name),
                    "holds escapes that are not UTF-8; encode it as UTF-8",
                ),
                None => ApiError::invalid(
                    "",
                    "The query holds escapes that are not UTF-8; encode it as UTF-8.",
                ),
            }
        })
    }

    /// All parameters, in their order.
    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The same question about one account of the principal: the one that it names, or the only one where the principal
    /// has at least this role. An operator asks about all accounts, unless one is named.
    ///
    /// # Errors
    /// It is not theirs, or it names none of several.
    pub(super) fn of_account(
        mut self,
        principal: &Principal,
        least: Role,
    ) -> Result<Self, ApiError> {
        const ACCOUNT: &str = "account";
        let asked = principal.asked_account(self.parameter(ACCOUNT)?, least)?;
        if let (Some(account), Some(_)) = (asked, principal.roles()) {
            self.0.retain(|(name, _)| name != ACCOUNT);
            self.0.push((ACCOUNT.to_owned(), account));
        }
        Ok(self)
    }

    /// The value of a parameter, which may occur once.
    pub(super) fn parameter(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self
            .0
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(ApiError::invalid(name, "comes twice; send it once")),
        }
    }

    /// How many entries a list may have, from the parameter `limit`.
    pub(super) fn limit(&self, default: usize) -> Result<usize, ApiError> {
        let Some(text) = self.parameter("limit")? else {
            return Ok(default);
        };
        text.parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| {
                ApiError::invalid("limit", format!("must be a number from 1 to {MAX_LIMIT}"))
            })
    }

    /// A boolean parameter; false if absent.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.parameter(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::invalid(name, "must be true or false")),
        }
    }
}

/// A JSON object. The caller takes the known fields by name; [`JsonObject::finish`] refuses the others.
pub(super) struct JsonObject(Vec<(String, Value)>);

impl JsonObject {
    /// Reads a body; an empty body is an object without fields.
    pub(super) fn of(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let not_json = |error| {
            ApiError::Malformed(format!(
                "The body is not one whole JSON object: {error}; complete it."
            ))
        };
        let value: Value = serde_json::from_slice(body).map_err(not_json)?;
        if !value.is_object() {
            return Err(ApiError::invalid("", "The body must be a JSON object."));
        }
        // Read again as a list: a map keeps only the last of two fields with the same name.
        let fields = serde_json::Deserializer::from_slice(body)
            .deserialize_map(FieldsVisitor)
            .map_err(not_json)?;
        let repeated = fields
            .iter()
            .enumerate()
            .find(|(at, (name, _))| fields[..*at].iter().any(|(other, _)| other == name));
        match repeated {
            Some((_, (name, _))) => Err(ApiError::invalid(
                &printable(name),
                "comes twice; send it once",
            )),
            None => Ok(Self(fields)),
        }
    }

    /// A string; None if absent or null.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::invalid(name, "must be a string")),
        }
    }

    /// A required string.
    pub(super) fn required(&mut self, name: &str) -> Result<String, ApiError> {
        self.text(name)?
            .ok_or_else(|| ApiError::invalid(name, "is missing; add it"))
    }

    /// A boolean; false if absent.
    pub(super) fn switch(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(_) => Err(ApiError::invalid(name, "must be true or false")),
        }
    }

    /// A whole number from 0 to `most`; None if absent or null. `60.0` is one too, since JSON has one kind of number.
    pub(super) fn number(&mut self, name: &str, most: u32) -> Result<Option<u32>, ApiError> {
        let number = match self.take(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value.as_f64(),
        };
        let is_whole =
            |number: &f64| number.fract() == 0.0 && (0.0..=f64::from(most)).contains(number);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole, and not beyond a u32"
        )]
        let whole = number.filter(is_whole).map(|number| number as u32);
        let wrong = || ApiError::invalid(name, format!("must be a whole number from 0 to {most}"));
        whole.ok_or_else(wrong).map(Some)
    }

    /// Refuses fields that were not taken.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid(
                &printable(name),
                "is no known field; remove it",
            )),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
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

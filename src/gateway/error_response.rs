//! A refusal as the client's library reads it: in OpenAI's form, or on the paths of Anthropic's API in
//! Anthropic's (its API reference, "Errors").

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use crate::gateway::local_responses::{LocalResponse, json};
use crate::gateway::refusal::Refusal;
use crate::http::buffer::BufferPool;
use crate::policy::route::ApiStyle;

/// In which form a request's errors are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorFormat<'a> {
    /// The API that the request's path belongs to.
    pub(super) style: ApiStyle,
    /// The request's id.
    pub(super) request_id: &'a str,
}

#[derive(Serialize)]
struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

#[derive(Serialize)]
struct AnthropicBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicError<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

impl ErrorFormat<'_> {
    /// The response that refuses.
    #[must_use]
    pub(super) fn response(&self, refusal: &Refusal, buffers: &BufferPool) -> LocalResponse {
        let response = LocalResponse::new(refusal.status(), buffers);
        let mut response = response.with_json(self.body(refusal));
        refusal.add_fields(&mut response.fields);
        response
    }

    /// The refusal as JSON.
    #[must_use]
    pub(super) fn body(&self, refusal: &Refusal) -> Bytes {
        let message = refusal.to_string();
        match self.style {
            ApiStyle::OpenAi => json(&OpenAiBody {
                error: OpenAiError {
                    message: &message,
                    kind: match (refusal.limited_kind(), refusal.status().is_server_error()) {
                        (Some(kind), _) => kind,
                        (None, true) => "server_error",
                        (None, false) => "invalid_request_error",
                    },
                    param: refusal.param(),
                    code: refusal.code(),
                },
            }),
            ApiStyle::Anthropic => json(&AnthropicBody {
                kind: "error",
                error: AnthropicError {
                    kind: anthropic_type(refusal.status()),
                    message: &message,
                },
                request_id: self.request_id,
            }),
        }
    }

    /// The refusal as the last event of a stream of server-sent events. The empty line before it ends an event that
    /// the stream may have left open.
    #[must_use]
    pub(super) fn event(&self, refusal: &Refusal) -> Vec<u8> {
        let name: &[u8] = match self.style {
            ApiStyle::OpenAi => b"",
            ApiStyle::Anthropic => b"event: error\n",
        };
        [b"\n\n", name, b"data: ", &self.body(refusal), b"\n\n"].concat()
    }
}

/// Anthropic's `type` for a status.
fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::denial::Denial;
    use serde_json::{Value, json};

    fn body(style: ApiStyle, refusal: &Refusal) -> Value {
        let format = ErrorFormat {
            style,
            request_id: "r1",
        };
        serde_json::from_slice(&format.body(refusal)).unwrap()
    }

    #[test]
    fn a_refusal_has_openais_form() {
        let error = &body(ApiStyle::OpenAi, &Denial::ModelNotFound.into())["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], "model");
        assert_eq!(error["code"], "model_not_found");
        let error = &body(ApiStyle::OpenAi, &Refusal::Internal)["error"];
        assert_eq!(error["type"], "server_error");
        assert_eq!(error["param"], Value::Null);
    }

    #[test]
    fn a_refusal_has_anthropics_form_with_the_type_of_its_status() {
        for (refusal, kind) in [
            (Denial::ExpiredApiKey.into(), "authentication_error"),
            (Denial::ModelNotFound.into(), "not_found_error"),
            (Refusal::Expectation, "invalid_request_error"),
            (Refusal::Overloaded, "overloaded_error"),
            (Refusal::NotReady, "overloaded_error"),
            (Refusal::StaleTable, "overloaded_error"),
            (Refusal::UpstreamRejected, "api_error"),
            (Refusal::Internal, "api_error"),
        ] {
            let expected = json!({
                "type": "error",
                "error": {"type": kind, "message": refusal.to_string()},
                "request_id": "r1",
            });
            assert_eq!(body(ApiStyle::Anthropic, &refusal), expected);
        }
    }

    #[test]
    fn the_last_event_of_a_stream_is_named_as_the_api_names_it() {
        let refusal = Refusal::from(Denial::InvalidApiKey);
        for (style, start) in [
            (ApiStyle::OpenAi, "\n\ndata: {\"error\":"),
            (
                ApiStyle::Anthropic,
                "\n\nevent: error\ndata: {\"type\":\"error\",",
            ),
        ] {
            let format = ErrorFormat {
                style,
                request_id: "r1",
            };
            let event = String::from_utf8(format.event(&refusal)).unwrap();
            assert!(
                event.starts_with(start) && event.ends_with("}\n\n"),
                "{event}"
            );
        }
    }
}

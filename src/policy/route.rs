//! The served paths: a fixed list, compared byte for byte. Nothing is decoded or normalised, so no two parsers can
//! disagree about a path. The only exception is the model id after `/v1/models/`.

use crate::policy::denial::Denial;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Forwarded to an upstream, if the key may use the model.
    Forward(Endpoint),
    /// `GET /v1/models`.
    Models,
    /// `GET /v1/models/{id}`, with the id percent-decoded once.
    Model(String),
    /// `GET /v1/key`.
    Key,
    /// `GET /v1/key/usage`.
    KeyUsage,
}

impl Route {
    /// The route in logs. Never the path as sent, which may contain anything.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Forward(endpoint) => endpoint.path,
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{id}",
            Self::Key => "/v1/key",
            Self::KeyUsage => "/v1/key/usage",
        }
    }
}

/// A path that is forwarded to upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    path: &'static str,
    body: BodyKind,
}

impl Endpoint {
    /// The path.
    pub(crate) fn path(self) -> &'static str {
        self.path
    }

    /// Whether the answer is text that a model writes, of a length that the request may limit.
    #[must_use]
    pub fn makes_text(self) -> bool {
        matches!(
            self.path,
            "/v1/chat/completions" | "/v1/completions" | "/v1/responses" | "/v1/messages"
        )
    }

    /// The kind of the request body.
    #[must_use]
    pub fn body(self) -> BodyKind {
        self.body
    }
}

/// The kind of a request body, which determines where the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// One JSON object with a `model`.
    Json,
    /// multipart/form-data with one part named `model`.
    Multipart,
}

/// The API that a path belongs to, by which its errors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiStyle {
    /// OpenAI's.
    OpenAi,
    /// Anthropic's: `/v1/messages` and what is below it.
    Anthropic,
}

impl ApiStyle {
    /// The API of a path, served or not.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path.strip_prefix("/v1/messages") {
            Some("") => Self::Anthropic,
            Some(below) if below.starts_with('/') => Self::Anthropic,
            Some(_) | None => Self::OpenAi,
        }
    }
}

/// Every path that is forwarded.
pub(crate) const ENDPOINTS: [Endpoint; 15] = [
    json("/v1/chat/completions"),
    json("/v1/completions"),
    json("/v1/embeddings"),
    json("/v1/responses"),
    json("/v1/moderations"),
    json("/v1/rerank"),
    json("/v1/score"),
    json("/v1/audio/speech"),
    json("/v1/images/generations"),
    json("/v1/messages"),
    json("/v1/messages/count_tokens"),
    multipart("/v1/audio/transcriptions"),
    multipart("/v1/audio/translations"),
    multipart("/v1/images/edits"),
    multipart("/v1/images/variations"),
];

/// Step 5: the route of a method and a path, both as sent. The path excludes the query.
///
/// # Errors
/// [`Denial::UnknownUrl`], [`Denial::MethodNotAllowed`], or [`Denial::ModelNotFound`] for a model id that is not UTF-8.
pub fn of(method: &str, path: &str) -> Result<Route, Denial> {
    if let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) {
        return under(method, "POST").map(|()| Route::Forward(*endpoint));
    }
    match path {
        "/v1/models" => get(method).map(|()| Route::Models),
        "/v1/key" => get(method).map(|()| Route::Key),
        "/v1/key/usage" => get(method).map(|()| Route::KeyUsage),
        _ => {
            let id = path
                .strip_prefix("/v1/models/")
                .filter(|id| !id.is_empty())
                .ok_or(Denial::UnknownUrl)?;
            get(method)?;
            percent_decode(id)
                .map(Route::Model)
                .ok_or(Denial::ModelNotFound)
        }
    }
}

/// HEAD is served wherever GET is (RFC 9110 9.1).
fn get(method: &str) -> Result<(), Denial> {
    match method {
        "GET" | "HEAD" => Ok(()),
        _ => Err(Denial::MethodNotAllowed { allow: "GET, HEAD" }),
    }
}

fn under(method: &str, allow: &'static str) -> Result<(), Denial> {
    if method == allow {
        Ok(())
    } else {
        Err(Denial::MethodNotAllowed { allow })
    }
}

/// Percent-decodes once (RFC 3986 2.1). None if an escape is invalid or the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

const fn json(path: &'static str) -> Endpoint {
    Endpoint {
        path,
        body: BodyKind::Json,
    }
}

const fn multipart(path: &'static str) -> Endpoint {
    Endpoint {
        path,
        body: BodyKind::Multipart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_paths_are_matched_byte_for_byte() {
        let route = of("POST", "/v1/chat/completions").unwrap();
        assert_eq!(route.label(), "/v1/chat/completions");
        for path in [
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/./chat/completions",
            "/v1/x/../chat/completions",
            "/v1/chat/completions/",
            "/V1/Chat/Completions",
            "/v1/%63hat/completions",
            "/v1%2Fchat/completions",
            "/v1/chat/completions;x",
            "/v1/chat\\completions",
            "/v1/chat/completions%00",
            "/v1/engines/m/completions",
            "/",
            "",
            "*",
            "/v1",
            "/v1/",
            "/v1/models/",
            "/v1/Models",
            "/v1/key/",
            "/v1/key/usage/",
            "/v1/key/Usage",
            "/v1/usage",
            "/tokenize",
            "/slots",
            "/metrics",
            "/invocations",
            "/api/chat",
            "/v1/files",
            "/v1/batches",
            "/healthz",
            "/openai/deployments/m/chat/completions",
        ] {
            assert_eq!(of("POST", path), Err(Denial::UnknownUrl), "{path}");
        }
    }

    #[test]
    fn paths_below_messages_are_anthropics() {
        for (path, style) in [
            ("/v1/messages", ApiStyle::Anthropic),
            ("/v1/messages/count_tokens", ApiStyle::Anthropic),
            ("/v1/messages/batches", ApiStyle::Anthropic),
            ("/v1/messagesx", ApiStyle::OpenAi),
            ("/v1/chat/completions", ApiStyle::OpenAi),
            ("", ApiStyle::OpenAi),
        ] {
            assert_eq!(ApiStyle::of(path), style, "{path}");
        }
    }

    #[test]
    fn another_method_is_told_the_one_to_use() {
        for method in ["GET", "post", "HEAD", "OPTIONS", "TRACE", "PUT", ""] {
            assert_eq!(
                of(method, "/v1/embeddings"),
                Err(Denial::MethodNotAllowed { allow: "POST" })
            );
        }
        for (method, path) in [
            ("PUT", "/v1/models"),
            ("POST", "/v1/key"),
            ("POST", "/v1/key/usage"),
            ("DELETE", "/v1/models/m"),
        ] {
            assert_eq!(
                of(method, path),
                Err(Denial::MethodNotAllowed { allow: "GET, HEAD" })
            );
        }
        assert_eq!(of("HEAD", "/v1/models"), Ok(Route::Models));
        assert_eq!(of("HEAD", "/v1/key/usage"), Ok(Route::KeyUsage));
    }

    #[test]
    fn a_model_id_is_decoded_once() {
        let model = |id: &str| of("GET", &format!("/v1/models/{id}"));
        assert_eq!(model("org/name"), Ok(Route::Model("org/name".into())));
        assert_eq!(model("org%2Fname"), Ok(Route::Model("org/name".into())));
        assert_eq!(model("a%252fb"), Ok(Route::Model("a%2fb".into())));
        for broken in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(model(broken), Err(Denial::ModelNotFound), "{broken}");
        }
    }
}

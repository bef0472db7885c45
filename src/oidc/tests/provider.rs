//! A small identity provider. It signs one person in at once, and checks PKCE, client and code as a real one does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::NOW;
use super::signer::Signer;
use crate::oidc::{Begun, CallbackAnswer};
use crate::request_body::model::form_parameters;
use crate::store::config::{Credential, OidcConfig, SecureUrl};

pub(super) const CLIENT_ID: &str = "keygate";
/// It has characters that the Authorization header's form escapes.
pub(super) const SECRET: &str = "s3cret/+:%";
pub(super) const REDIRECT_URI: &str = "http://127.0.0.1:9180/api/sign-in/callback";

/// What the provider does; tests change it.
pub(super) struct Behaviour {
    pub(super) document: Value,
    pub(super) keys: Value,
    pub(super) signer: Signer,
    /// Claims of the ID token besides those of the protocol.
    pub(super) claims: Value,
    pub(super) user_info: Value,
    /// A path that answers this instead.
    pub(super) instead: HashMap<&'static str, (u16, String)>,
    /// Whether it wants no secret.
    pub(super) is_public: bool,
    codes: HashMap<String, Grant>,
    /// Every request: its path, its Authorization, its body.
    pub(super) seen: Vec<(String, Option<String>, String)>,
}

/// What a code is for.
struct Grant {
    nonce: String,
    challenge: String,
    redirect_uri: String,
}

/// The running provider. It ends when it is dropped.
pub(super) struct TestProvider {
    pub(super) issuer: String,
    behaviour: Arc<Mutex<Behaviour>>,
    server: JoinHandle<()>,
}

impl Drop for TestProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TestProvider {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let signer = Signer::p256("first");
        let behaviour = Behaviour {
            document: json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/keys"),
                "end_session_endpoint": format!("{issuer}/end?tenant=1"),
            }),
            keys: json!({"keys": [signer.jwk()]}),
            signer,
            claims: json!({"email": "Alice@example.com", "email_verified": true, "name": "Alice"}),
            user_info: json!({}),
            instead: HashMap::new(),
            is_public: false,
            codes: HashMap::new(),
            seen: Vec::new(),
        };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let shared = Arc::clone(&behaviour);
        let server = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self {
            issuer,
            behaviour,
            server,
        }
    }

    /// What it does, to be changed or looked at.
    pub(super) fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// How the gateway is configured for it.
    pub(super) fn config(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.issuer.clone(),
            issuer_url: SecureUrl::parse(&self.issuer).unwrap(),
            client_id: CLIENT_ID.to_owned(),
            client_secret: Some(Credential::parse(SECRET.as_bytes()).unwrap()),
            scopes: vec!["openid".to_owned(), "email".to_owned()],
            name: "Example Inc.".to_owned(),
            auto_invite: Vec::new(),
        }
    }

    /// How often this path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        let behaviour = self.behaviour();
        behaviour.seen.iter().filter(|seen| seen.0 == path).count()
    }

    /// The person signs in: what the browser comes back with.
    pub(super) fn sign_in(&self, begun: &Begun) -> CallbackAnswer {
        let parameters = parameters(&begun.url);
        let code = format!("code-{}", parameters["state"]);
        let grant = Grant {
            nonce: parameters["nonce"].clone(),
            challenge: parameters["code_challenge"].clone(),
            redirect_uri: parameters["redirect_uri"].clone(),
        };
        self.behaviour().codes.insert(code.clone(), grant);
        CallbackAnswer {
            code: Some(Zeroizing::new(code)),
            state: Some(parameters["state"].clone()),
            iss: None,
            error: None,
        }
    }
}

/// The parameters of a URL.
pub(super) fn parameters(url: &str) -> HashMap<String, String> {
    let (_, query) = url.split_once('?').unwrap();
    form_parameters(query).unwrap().into_iter().collect()
}

async fn answer(
    behaviour: Arc<Mutex<Behaviour>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let authorization = head.headers.get("authorization");
    let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
    let mut behaviour = behaviour.lock().unwrap();
    let path = head.uri.path().to_owned();
    let seen = (path.clone(), authorization.clone(), body.clone());
    behaviour.seen.push(seen);
    let (status, text) = match behaviour.instead.get(&*path) {
        Some(instead) => instead.clone(),
        None => behaviour.answer(&head.method, &path, authorization.as_deref(), &body),
    };
    let response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header("location", "/elsewhere");
    Ok(response.body(Full::from(text)).unwrap())
}

impl Behaviour {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        authorization: Option<&str>,
        body: &str,
    ) -> (u16, String) {
        match (method.as_str(), path) {
            ("GET", "/.well-known/openid-configuration") => (200, self.document.to_string()),
            ("GET", "/keys") => (200, self.keys.to_string()),
            ("GET", "/userinfo") if authorization == Some("Bearer access-1") => {
                (200, self.user_info.to_string())
            }
            ("POST", "/token") => match self.tokens(authorization, body) {
                Ok(tokens) => (200, tokens.to_string()),
                Err(error) => {
                    let description = format!("not with {body}");
                    let refusal = json!({"error": error, "error_description": description});
                    (400, refusal.to_string())
                }
            },
            _ => (404, String::new()),
        }
    }

    fn tokens(&mut self, authorization: Option<&str>, body: &str) -> Result<Value, &'static str> {
        let form: HashMap<_, _> = form_parameters(body).unwrap().into_iter().collect();
        let field = |name| form.get(name).map_or("", |value: &String| value);
        let in_header = format!(
            "Basic {}",
            BASE64.encode(format!("{CLIENT_ID}:s3cret%2F%2B%3A%25").as_bytes())
        );
        let is_client = match authorization {
            Some(value) => value == in_header && field("client_id").is_empty(),
            None if self.is_public => field("client_id") == CLIENT_ID,
            None => field("client_id") == CLIENT_ID && field("client_secret") == SECRET,
        };
        if !is_client {
            return Err("invalid_client");
        }
        let grant = self.codes.remove(field("code")).ok_or("invalid_grant")?;
        let challenge = digest(&SHA256, field("code_verifier").as_bytes());
        let is_same = field("grant_type") == "authorization_code"
            && field("redirect_uri") == grant.redirect_uri
            && BASE64URL_NOPAD.encode(challenge.as_ref()) == grant.challenge;
        if !is_same {
            return Err("invalid_grant");
        }
        let mut claims = self.claims.clone();
        for (name, value) in [
            ("iss", self.document["issuer"].clone()),
            ("aud", CLIENT_ID.into()),
            ("sub", "248289".into()),
            ("nonce", grant.nonce.into()),
            ("iat", NOW.seconds().into()),
            ("exp", (NOW.seconds() + 300).into()),
        ] {
            if claims[name].is_null() {
                claims[name] = value;
            }
        }
        Ok(json!({
            "access_token": "access-1",
            "token_type": "Bearer",
            "id_token": self.signer.token("ES256", &claims),
        }))
    }
}

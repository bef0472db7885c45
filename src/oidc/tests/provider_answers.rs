//! What the provider says of itself: how long it is kept, and what is not taken.

use serde_json::{Value, json};

use super::provider::{REDIRECT_URI, TestProvider};
use super::sign_in::sign_in;
use super::signer::Signer;
use super::{NOW, within_deadline};
use crate::oidc::error::{ProviderEndpoint, TokenFault};
use crate::oidc::metadata::{self, Metadata};
use crate::oidc::{MAX_ANSWER, OidcError, Provider};
use crate::policy::time::UnixTime;
use crate::store::config::{OidcConfig, SecureUrl};

const DOCUMENT: &str = "/.well-known/openid-configuration";

async fn begin(provider: &Provider, now: UnixTime) -> Result<(), OidcError> {
    provider.begin(REDIRECT_URI, now).await.map(drop)
}

#[tokio::test]
async fn a_document_is_kept_for_an_hour_and_asked_for_once_by_all() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let (one, other) = tokio::join!(begin(&provider, NOW), begin(&provider, NOW));
        one.and(other).unwrap();
        begin(&provider, NOW.plus(3599)).await.unwrap();
        assert_eq!(at.asked(DOCUMENT), 1);
        begin(&provider, NOW.plus(3600)).await.unwrap();
        assert_eq!(at.asked(DOCUMENT), 2);
        // A clock that was set back.
        begin(&provider, NOW).await.unwrap();
        assert_eq!(at.asked(DOCUMENT), 3);
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_is_down_is_asked_again_after_a_pause() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        at.behaviour()
            .instead
            .insert(DOCUMENT, (503, String::new()));
        let expected = Err(OidcError::Status(ProviderEndpoint::Discovery, 503));
        assert_eq!(begin(&provider, NOW).await, expected);
        assert_eq!(begin(&provider, NOW.plus(9)).await, expected);
        assert_eq!(at.asked(DOCUMENT), 1);
        at.behaviour().instead.clear();
        assert_eq!(begin(&provider, NOW.plus(10)).await, Ok(()));
        assert_eq!(at.asked(DOCUMENT), 2);

        let mut config = at.config();
        config.issuer_url = SecureUrl::parse("http://127.0.0.1:1").unwrap();
        let error = begin(&Provider::new(&config), NOW).await.unwrap_err();
        assert_eq!(error.label(), "provider_unreachable");
        assert!(error.to_string().contains("cannot connect"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_not_known_is_looked_for_once_a_minute() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        sign_in(&at, &provider).await.unwrap();
        assert_eq!(at.asked("/keys"), 1);
        // The provider changes its key and publishes it.
        let second = Signer::p256("second");
        at.behaviour().keys = json!({"keys": [second.jwk()]});
        at.behaviour().signer = second;
        sign_in(&at, &provider).await.unwrap();
        assert_eq!(at.asked("/keys"), 2);
        // It signs by a key that it does not publish.
        at.behaviour().signer = Signer::p256("third");
        for _ in 0..3 {
            let refused = sign_in(&at, &provider).await.unwrap_err();
            assert_eq!(refused, OidcError::IdToken(TokenFault::UnknownKey));
        }
        assert_eq!(at.asked("/keys"), 2);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_not_known_is_looked_for_again_after_a_minute() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        at.behaviour().signer = Signer::p256("unpublished");
        at.behaviour().claims["exp"] = (NOW.seconds() + 600).into();
        for (seconds, asked) in [(0, 2), (59, 2), (60, 3), (119, 3), (120, 4)] {
            let now = NOW.plus(seconds);
            let begun = provider.begin(REDIRECT_URI, now).await.ok().unwrap();
            let answer = at.sign_in(&begun);
            let refused = provider.finish(begun.pending, answer, now).await;
            let expected = OidcError::IdToken(TokenFault::UnknownKey);
            assert_eq!(refused.unwrap_err(), expected);
            assert_eq!(at.asked("/keys"), asked, "after {seconds} s");
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_that_was_withdrawn_is_forgotten_with_the_document() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        sign_in(&at, &provider).await.unwrap();
        at.behaviour().keys = json!({"keys": []});
        let later = NOW.plus(3600);
        at.behaviour().claims["exp"] = (later.seconds() + 300).into();
        let begun = provider.begin(REDIRECT_URI, later).await.ok().unwrap();
        let answer = at.sign_in(&begun);
        let refused = provider.finish(begun.pending, answer, later).await;
        let expected = OidcError::IdToken(TokenFault::UnknownKey);
        assert_eq!(refused.unwrap_err(), expected);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_taken() {
    within_deadline(async {
        for (path, asked) in [
            (DOCUMENT, ProviderEndpoint::Discovery),
            ("/keys", ProviderEndpoint::Keys),
            ("/token", ProviderEndpoint::Tokens),
            ("/userinfo", ProviderEndpoint::UserInfo),
        ] {
            let at = TestProvider::start().await;
            let user_info = format!("{}/userinfo", at.issuer);
            at.behaviour().document["userinfo_endpoint"] = user_info.into();
            at.behaviour().claims = json!({});
            let long = format!("{{\"x\":\"{}\"}}", "x".repeat(MAX_ANSWER));
            at.behaviour().instead.insert(path, (200, long));
            let provider = Provider::new(&at.config());
            let error = match path {
                DOCUMENT => begin(&provider, NOW).await.unwrap_err(),
                _ => sign_in(&at, &provider).await.unwrap_err(),
            };
            let why = "the answer is longer than 256 KiB".to_owned();
            assert_eq!(error, OidcError::NoAnswer(asked, why));
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_of_another_form_is_not_taken() {
    within_deadline(async {
        for (path, status, text, expected) in [
            (
                "/keys",
                200,
                "{}",
                OidcError::Malformed(ProviderEndpoint::Keys, "is no set of keys"),
            ),
            (
                "/keys",
                302,
                "{\"keys\":[]}",
                OidcError::Status(ProviderEndpoint::Keys, 302),
            ),
            (
                "/token",
                200,
                "{\"access_token\":\"a\"}",
                OidcError::Malformed(ProviderEndpoint::Tokens, "has no ID token"),
            ),
            (
                "/token",
                302,
                "",
                OidcError::Status(ProviderEndpoint::Tokens, 302),
            ),
            (
                "/token",
                500,
                "<html>",
                OidcError::Status(ProviderEndpoint::Tokens, 500),
            ),
            (
                "/token",
                200,
                "{\"id_token\":\"a.b.c\"}",
                OidcError::IdToken(TokenFault::Malformed),
            ),
        ] {
            let at = TestProvider::start().await;
            at.behaviour()
                .instead
                .insert(path, (status, text.to_owned()));
            let provider = Provider::new(&at.config());
            let error = sign_in(&at, &provider).await.unwrap_err();
            assert_eq!(error, expected);
            assert_eq!(at.asked("/elsewhere"), 0, "no redirect is followed");
        }
    })
    .await;
}

#[tokio::test]
async fn a_document_of_another_issuer_is_not_taken() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let issuer = at.issuer.clone();
        for other in [
            format!("{issuer}/"),
            "https://login.example.com".to_owned(),
            String::new(),
        ] {
            at.behaviour().document["issuer"] = other.into();
            let refused = begin(&Provider::new(&at.config()), NOW).await;
            assert_eq!(refused, Err(OidcError::OtherIssuer));
        }
        assert!(at.asked("/keys") == 0 && at.asked("/token") == 0);
    })
    .await;
}

/// What becomes of a document of `https://login.example.com/a/` in which this was changed.
fn read(change: impl FnOnce(&mut Value)) -> Result<Metadata, OidcError> {
    let issuer = "https://login.example.com/a/";
    let mut document = json!({
        "issuer": issuer,
        "authorization_endpoint": "https://login.example.com/authorize",
        "token_endpoint": "https://tokens.example.com/token",
        "jwks_uri": "https://keys.example.com/keys",
        "unknown": {"a": 1},
    });
    change(&mut document);
    let config = OidcConfig {
        issuer: issuer.to_owned(),
        issuer_url: SecureUrl::parse(issuer).unwrap(),
        client_id: "keygate".to_owned(),
        client_secret: None,
        scopes: Vec::new(),
        name: String::new(),
        auto_invite: Vec::new(),
    };
    Metadata::parse(document.to_string().as_bytes(), &config)
}

#[test]
fn every_url_of_a_provider_on_the_network_is_https() {
    assert!(read(|_| {}).is_ok());
    for field in [
        "authorization_endpoint",
        "token_endpoint",
        "jwks_uri",
        "userinfo_endpoint",
        "end_session_endpoint",
    ] {
        for url in [
            "http://login.example.com/x",
            "http://127.0.0.1/x",
            "ftp://login.example.com/x",
            "javascript:alert(1)",
            "https://user@login.example.com/x",
            "https://login.example.com/x#y",
            "https://login.example.com/x\r\nset-cookie: a=b",
            "/x",
            "",
        ] {
            let refused = read(|document| document[field] = url.into()).err();
            assert_eq!(refused, Some(OidcError::InsecureUrl(field)), "{url}");
        }
    }
}

#[test]
fn a_document_without_what_is_needed_is_none() {
    for field in [
        "authorization_endpoint",
        "token_endpoint",
        "jwks_uri",
        "issuer",
    ] {
        let refused = read(|document| {
            document.as_object_mut().unwrap().remove(field).unwrap();
        });
        let expected =
            OidcError::Malformed(ProviderEndpoint::Discovery, "is no discovery document");
        assert_eq!(refused.err(), Some(expected), "{field}");
    }
}

#[test]
fn the_document_is_below_the_issuer() {
    for (issuer, expected) in [
        ("https://a.example.com", DOCUMENT.to_owned()),
        ("https://a.example.com/", DOCUMENT.to_owned()),
        ("https://a.example.com/b", format!("/b{DOCUMENT}")),
        ("https://a.example.com/b/", format!("/b{DOCUMENT}")),
    ] {
        let url = metadata::url(&SecureUrl::parse(issuer).unwrap());
        assert_eq!(url.reveal_target(), expected);
    }
}

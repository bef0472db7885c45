//! A sign-in from its beginning to its end, and what an attacker does in between.

use serde_json::json;
use zeroize::Zeroizing;

use super::provider::{CLIENT_ID, REDIRECT_URI, SECRET, TestProvider, parameters};
use super::{NOW, within_deadline};
use crate::oidc::error::TokenFault;
use crate::oidc::{Begun, CallbackAnswer, OidcError, OidcIdentity, Provider};
use crate::policy::person::EmailAddress;
use crate::store::config::SecureUrl;

async fn begin(provider: &Provider) -> Begun {
    provider.begin(REDIRECT_URI, NOW).await.ok().unwrap()
}

/// Signs in, after the browser's answer was changed.
async fn sign_in_with(
    at: &TestProvider,
    provider: &Provider,
    change: impl FnOnce(&mut CallbackAnswer),
) -> Result<OidcIdentity, OidcError> {
    let begun = begin(provider).await;
    let mut answer = at.sign_in(&begun);
    change(&mut answer);
    provider.finish(begun.pending, answer, NOW).await
}

/// Signs in as it should be.
pub(super) async fn sign_in(
    at: &TestProvider,
    provider: &Provider,
) -> Result<OidcIdentity, OidcError> {
    sign_in_with(at, provider, |_| {}).await
}

#[tokio::test]
async fn a_person_signs_in() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        assert!(at.behaviour().seen.is_empty(), "nothing is asked at start");
        assert_eq!(provider.name(), "Example Inc.");
        let begun = begin(&provider).await;
        let sent = parameters(&begun.url);
        assert!(begun.url.starts_with(&format!("{}/authorize?", at.issuer)));
        for (name, value) in [
            ("response_type", "code"),
            ("client_id", CLIENT_ID),
            ("redirect_uri", REDIRECT_URI),
            ("scope", "openid email"),
            ("code_challenge_method", "S256"),
        ] {
            assert_eq!(sent[name], value);
        }
        let secrets = ["state", "nonce", "code_challenge"].map(|name| sent[name].clone());
        assert!(secrets.iter().all(|secret| secret.len() == 43));
        assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2]);

        let answer = at.sign_in(&begun);
        let identity = provider.finish(begun.pending, answer, NOW).await.unwrap();
        assert_eq!(identity.issuer, at.issuer);
        assert_eq!(identity.subject, "248289");
        assert_eq!(identity.name.as_deref(), Some("Alice"));
        assert_eq!(identity.claims["sub"], "248289");
        let alice = EmailAddress::parse("alice@example.com").unwrap();
        assert_eq!(identity.verified_email(), Some(&alice));
        assert!(identity.is_among(&[alice]));
        assert!(!identity.is_among(&[EmailAddress::parse("a@example.com").unwrap()]));
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_not_verified_makes_no_operator() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let alice = EmailAddress::parse("alice@example.com").unwrap();
        for (verified, is_operator) in [
            (json!(true), true),
            (json!("true"), true),
            (json!(false), false),
            (json!("false"), false),
            (json!(1), false),
            (json!(null), false),
        ] {
            at.behaviour().claims["email_verified"] = verified.clone();
            let identity = sign_in(&at, &provider).await.unwrap();
            assert_eq!(identity.email.as_ref(), Some(&alice));
            assert_eq!(
                identity.is_among(std::slice::from_ref(&alice)),
                is_operator,
                "{verified}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_gateway_proves_itself_as_the_provider_wants() {
    within_deadline(async {
        let at = TestProvider::start().await;
        for methods in [
            json!(["client_secret_post"]),
            json!(["client_secret_basic", "client_secret_post"]),
            json!(["private_key_jwt"]),
        ] {
            at.behaviour().document["token_endpoint_auth_methods_supported"] = methods;
            sign_in(&at, &Provider::new(&at.config())).await.unwrap();
        }
        let in_header: Vec<bool> = {
            let behaviour = at.behaviour();
            let tokens = behaviour.seen.iter().filter(|seen| seen.0 == "/token");
            tokens.map(|seen| seen.1.is_some()).collect()
        };
        assert_eq!(in_header, [false, true, true]);

        at.behaviour().is_public = true;
        let mut config = at.config();
        config.client_secret = None;
        sign_in(&at, &Provider::new(&config)).await.unwrap();
        at.behaviour().is_public = false;
        let refused = sign_in(&at, &Provider::new(&config)).await.unwrap_err();
        assert_eq!(refused, OidcError::CodeRefused("invalid_client"));
        assert!(refused.to_string().contains("client_secret_file"));
    })
    .await;
}

#[tokio::test]
async fn an_answer_with_another_state_is_refused_before_the_provider_is_asked() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let theirs = begin(&provider).await;
        let state = parameters(&theirs.url)["state"].clone();
        for state in [None, Some(String::new()), Some("x".to_owned()), Some(state)] {
            let refused = sign_in_with(&at, &provider, |answer| answer.state = state);
            assert_eq!(refused.await.unwrap_err(), OidcError::State);
        }
        // Nor does an error count that anybody can write into a link.
        let refused = sign_in_with(&at, &provider, |answer| {
            answer.state = None;
            answer.error = Some("access_denied".to_owned());
        });
        assert_eq!(refused.await.unwrap_err(), OidcError::State);
        assert_eq!(at.asked("/token"), 0);
    })
    .await;
}

#[tokio::test]
async fn a_code_of_another_sign_in_is_refused() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let theirs = at.sign_in(&begin(&provider).await);
        // The provider refuses it by PKCE.
        let refused = sign_in_with(&at, &provider, |answer| answer.code = theirs.code);
        let refused = refused.await.unwrap_err();
        assert_eq!(refused, OidcError::CodeRefused("invalid_grant"));
    })
    .await;
}

#[tokio::test]
async fn a_replayed_code_is_refused_by_the_provider() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let begun = begin(&provider).await;
        let first = at.sign_in(&begun);
        let used = first.code.clone().unwrap();
        provider.finish(begun.pending, first, NOW).await.unwrap();
        let replayed = sign_in_with(&at, &provider, |answer| answer.code = Some(used));
        let refused = replayed.await.unwrap_err();
        assert_eq!(refused, OidcError::CodeRefused("invalid_grant"));
    })
    .await;
}

#[tokio::test]
async fn an_answer_without_a_code_is_refused() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        for code in [None, Some(Zeroizing::new(String::new()))] {
            let refused = sign_in_with(&at, &provider, |answer| answer.code = code);
            assert_eq!(refused.await.unwrap_err(), OidcError::NoCode);
        }
        assert_eq!(at.asked("/token"), 0);
    })
    .await;
}

#[tokio::test]
async fn an_answer_of_another_issuer_is_refused() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let mine = Some(at.issuer.clone());
        let other = Some("https://attacker.example.com".to_owned());
        let expected = OidcError::CallbackIssuer;
        let wrong = sign_in_with(&at, &provider, |answer| answer.iss = other.clone());
        assert_eq!(wrong.await.unwrap_err(), expected);
        sign_in(&at, &provider).await.unwrap();

        let announced = "authorization_response_iss_parameter_supported";
        at.behaviour().document[announced] = true.into();
        let provider = Provider::new(&at.config());
        let missing = sign_in(&at, &provider).await;
        assert_eq!(missing.unwrap_err(), expected);
        let wrong = sign_in_with(&at, &provider, |answer| answer.iss = other);
        assert_eq!(wrong.await.unwrap_err(), expected);
        assert_eq!(at.asked("/token"), 1);
        let right = sign_in_with(&at, &provider, |answer| answer.iss = mine);
        right.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_sign_in_ends_after_ten_minutes() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        for (seconds, is_taken) in [(0, true), (599, true), (600, false), (-1, false)] {
            // The ID token is as old as the clock says.
            let now = NOW.plus(seconds);
            at.behaviour().claims["exp"] = (now.seconds() + 300).into();
            at.behaviour().claims["iat"] = now.seconds().into();
            let begun = begin(&provider).await;
            assert_eq!(begun.pending.is_alive(now), is_taken);
            let answer = at.sign_in(&begun);
            let finished = provider.finish(begun.pending, answer, now).await;
            assert_eq!(finished.is_ok(), is_taken, "{seconds}: {finished:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_refusal_of_the_provider_is_named_by_the_words_of_the_standards_alone() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        for (error, shown) in [
            ("access_denied", "access_denied"),
            ("<script>", "an error that is not known"),
        ] {
            let declined = sign_in_with(&at, &provider, |answer| {
                answer.error = Some(error.to_owned());
            });
            let declined = declined.await.unwrap_err();
            assert_eq!(declined, OidcError::Declined(shown));
            assert_eq!(declined.label(), "declined");
        }
        assert_eq!(at.asked("/token"), 0);
    })
    .await;
}

#[tokio::test]
async fn an_id_token_for_another_sign_in_or_client_is_refused() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        for (name, value, fault) in [
            ("nonce", json!("other"), TokenFault::Nonce),
            ("aud", json!("other"), TokenFault::Audience),
            ("iss", json!("https://other"), TokenFault::Issuer),
            ("exp", json!(NOW.seconds() - 60), TokenFault::Expired),
        ] {
            at.behaviour().claims[name] = value;
            let refused = sign_in(&at, &provider).await.unwrap_err();
            assert_eq!(refused, OidcError::IdToken(fault));
            at.behaviour().claims[name].take();
        }
        // None of these asks for keys again.
        assert_eq!(at.asked("/keys"), 1);
    })
    .await;
}

#[tokio::test]
async fn the_browser_is_sent_to_sign_out_of_the_provider_where_it_has_a_page_for_that() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let identity = sign_in(&at, &provider).await.unwrap();
        let back = "http://127.0.0.1:9180/";
        let kept = identity.id_token.clone();
        let url = provider.end_session_url(&kept, back, NOW).await.unwrap();
        assert!(url.starts_with(&format!("{}/end?tenant=1&", at.issuer)));
        let sent = parameters(&url);
        assert_eq!(sent["post_logout_redirect_uri"], back);
        assert_eq!(sent["client_id"], CLIENT_ID);
        assert_eq!(sent["id_token_hint"], identity.id_token.reveal());

        at.behaviour().document["end_session_endpoint"].take();
        let provider = Provider::new(&at.config());
        assert_eq!(provider.end_session_url(&kept, back, NOW).await, None);
        let mut config = at.config();
        drop(at);
        config.issuer_url = SecureUrl::parse("http://127.0.0.1:1").unwrap();
        let down = Provider::new(&config);
        assert_eq!(down.end_session_url(&kept, back, NOW).await, None);
    })
    .await;
}

#[tokio::test]
async fn no_error_and_no_debug_line_shows_a_secret() {
    within_deadline(async {
        let at = TestProvider::start().await;
        let provider = Provider::new(&at.config());
        let begun = begin(&provider).await;
        let sent = parameters(&begun.url);
        let mut secrets = vec![SECRET.to_owned(), "access-1".to_owned()];
        secrets.extend(["state", "nonce"].map(|name| sent[name].clone()));
        let mut shown = format!("{provider:?}{:?}", begun.pending);
        let answer = at.sign_in(&begun);
        secrets.push(answer.code.as_ref().unwrap().to_string());
        // This provider repeats the code and the secret when it refuses them.
        at.behaviour()
            .instead
            .insert("/token", (400, format!("{{\"error\":\"{SECRET}\"}}")));
        let refused = provider.finish(begun.pending, answer, NOW).await;
        shown += &format!("{0:?}{0}", refused.unwrap_err());
        at.behaviour().instead.clear();
        let identity = sign_in(&at, &provider).await.unwrap();
        secrets.push(identity.id_token.reveal().to_owned());
        shown += &format!("{:?}", identity.id_token);
        at.behaviour().claims["aud"] = "other".into();
        let refused = sign_in(&at, &provider).await;
        shown += &format!("{0:?}{0}", refused.unwrap_err());
        for secret in secrets {
            assert!(!shown.contains(&secret), "{secret} is in {shown}");
        }
    })
    .await;
}

//! Claims that the ID token lacks.

use serde_json::json;

use super::provider::TestProvider;
use super::sign_in::sign_in;
use super::within_deadline;
use crate::oidc::error::ProviderEndpoint;
use crate::oidc::{OidcError, Provider};
use crate::policy::auto_invite::{AutoInvite, matching};
use crate::policy::key::KeyId;
use crate::policy::person::Role;

/// A provider that tells claims apart from its ID tokens.
async fn start() -> TestProvider {
    let at = TestProvider::start().await;
    let url = format!("{}/userinfo", at.issuer);
    at.behaviour().document["userinfo_endpoint"] = url.into();
    at.behaviour().claims = json!({});
    at.behaviour().user_info = json!({
        "sub": "248289",
        "email": "alice@example.com",
        "email_verified": true,
        "groups": ["ai-team"],
        "iss": "https://other.example.com",
    });
    at
}

fn group_rule() -> AutoInvite {
    AutoInvite {
        claim: "groups".to_owned(),
        value: "ai-team".to_owned(),
        account: KeyId::parse("acme").unwrap(),
        role: Role::Member,
    }
}

#[tokio::test]
async fn claims_that_the_id_token_lacks_are_asked_for() {
    within_deadline(async {
        let at = start().await;
        let identity = sign_in(&at, &Provider::new(&at.config())).await.unwrap();
        assert!(identity.verified_email().is_some());
        assert_eq!(identity.issuer, at.issuer);
        assert_eq!(identity.claims["iss"], at.issuer, "the ID token's own stay");
        assert_eq!(matching(&[group_rule()], &identity.claims).len(), 1);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_asked_where_the_id_token_says_all_that_matters() {
    within_deadline(async {
        let at = start().await;
        at.behaviour().claims = json!({"email": "alice@example.com"});
        let mut config = at.config();
        sign_in(&at, &Provider::new(&config)).await.unwrap();
        assert_eq!(at.asked("/userinfo"), 0);
        config.auto_invite.push(group_rule());
        sign_in(&at, &Provider::new(&config)).await.unwrap();
        assert_eq!(at.asked("/userinfo"), 1);
    })
    .await;
}

#[tokio::test]
async fn that_an_address_is_verified_is_not_said_of_another_one() {
    within_deadline(async {
        let at = start().await;
        at.behaviour().claims = json!({"email": "operator@example.com"});
        let mut config = at.config();
        config.auto_invite.push(group_rule());
        let identity = sign_in(&at, &Provider::new(&config)).await.unwrap();
        assert_eq!(at.asked("/userinfo"), 1);
        let email = identity.email.as_ref().unwrap();
        assert_eq!(email.as_str(), "operator@example.com");
        assert_eq!(identity.verified_email(), None);

        // The other way round: an ID token that only says "verified" says it of no address that comes later.
        at.behaviour().claims = json!({"email_verified": true});
        at.behaviour().user_info["email_verified"] = false.into();
        let identity = sign_in(&at, &Provider::new(&config)).await.unwrap();
        assert_eq!(identity.verified_email(), None);
    })
    .await;
}

#[tokio::test]
async fn claims_of_another_person_are_refused() {
    within_deadline(async {
        let at = start().await;
        let provider = Provider::new(&at.config());
        for subject in [json!("other"), json!(null)] {
            at.behaviour().user_info["sub"] = subject;
            let refused = sign_in(&at, &provider).await.unwrap_err();
            assert_eq!(refused, OidcError::OtherSubject);
        }
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_does_not_tell_the_claims_signs_nobody_in() {
    within_deadline(async {
        let at = start().await;
        let provider = Provider::new(&at.config());
        at.behaviour()
            .instead
            .insert("/userinfo", (403, String::new()));
        let refused = sign_in(&at, &provider).await.unwrap_err();
        assert_eq!(refused, OidcError::Status(ProviderEndpoint::UserInfo, 403));
        // A signed answer, for which nobody asked.
        at.behaviour()
            .instead
            .insert("/userinfo", (200, "a.b.c".to_owned()));
        let refused = sign_in(&at, &provider).await.unwrap_err();
        let expected = OidcError::Malformed(ProviderEndpoint::UserInfo, "is no JSON object");
        assert_eq!(refused, expected);
    })
    .await;
}

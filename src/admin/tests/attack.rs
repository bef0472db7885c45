//! Attacks of persons on other accounts, on other persons, and on roles that were taken away. Each test fails as long as its
//! attack succeeds.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use tokio::sync::oneshot;

use super::people::PASSWORD;
use super::*;
use crate::policy::person::EmailAddress;

const MALLORYS: &str = "a password that mallory knows";

/// A body that comes late, and tells when it is asked for: its call was let in by then.
struct LateBody {
    asked_for: Option<oneshot::Sender<()>>,
    body: Option<oneshot::Receiver<Bytes>>,
}

impl Body for LateBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(asked_for) = self.asked_for.take() {
            asked_for.send(()).unwrap();
        }
        let Some(waiting) = &mut self.body else {
            return Poll::Ready(None);
        };
        match Pin::new(waiting).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(body) => {
                self.body = None;
                Poll::Ready(Some(Ok(Frame::data(body.unwrap()))))
            }
        }
    }
}

impl TestApi {
    /// The status of a call in a session whose body comes after `meanwhile`.
    async fn late(
        &self,
        session: &TestSession,
        target: &str,
        body: Value,
        meanwhile: impl Future<Output = ()>,
    ) -> TestResponse {
        let (send, receive) = oneshot::channel();
        let (asked_for, is_asked_for) = oneshot::channel();
        let mut request = Request::builder().method("POST").uri(target);
        for (name, value) in [&FROM_PANEL[..], &session.headers()].concat() {
            request = request.header(name, value);
        }
        let request = request
            .body(LateBody {
                asked_for: Some(asked_for),
                body: Some(receive),
            })
            .unwrap();
        let peer = Peer::Network {
            address: ([198, 51, 100, 9], 5000).into(),
            local: LOCAL,
        };
        let services = Arc::clone(&self.services);
        let call = tokio::spawn(async move { handle(&services, peer, request).await });
        is_asked_for.await.unwrap();
        meanwhile.await;
        send.send(Bytes::from(body.to_string())).unwrap();
        let (parts, body) = call.await.unwrap().into_parts();
        TestResponse {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    async fn link(&self, session: &TestSession, target: &str, body: Value) -> String {
        let answer = self.in_session(session, "POST", target, body).await.json();
        let link = answer["link"].as_str().unwrap();
        link.split_once("/#invitation=").unwrap().1.to_owned()
    }

    async fn accepts(&self, code: &str, password: &str) -> TestResponse {
        self.sign_in_with(json!({"invitation": code, "password": password}))
            .await
    }
}

fn key_in(account: &str) -> Value {
    json!({"name": "n", "account": account, "model_access": {"mode": "all"}})
}

#[test]
fn of_two_invitations_of_an_address_at_once_the_second_sets_no_password() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let hers = api.invite("acme", "alice@example.com", "owner").await;
        let mallory = api.person("other", "mallory@example.com", "owner").await;
        let body = json!({"email": "alice@example.com", "role": "viewer"});
        let his = api
            .link(&mallory, "/api/accounts/other/invitations", body)
            .await;
        let (hers, his) = tokio::join!(api.accepts(&hers, PASSWORD), api.accepts(&his, MALLORYS));
        // Whoever is first is the person; the other one gets nothing.
        let statuses = [hers.status.as_u16(), his.status.as_u16()];
        assert!([[200, 401], [401, 200]].contains(&statuses), "{statuses:?}");
        let taken = json!({"email": "alice@example.com", "password": MALLORYS});
        let roles = api.sign_in_with(taken).await.json()["accounts"].to_string();
        assert!(!roles.contains("acme"), "{roles}");
    });
}

#[test]
fn a_link_for_a_new_password_gives_nothing_once_its_person_is_in_another_account() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let mallory = api.person("other", "mallory@example.com", "owner").await;
        drop(api.person("other", "alice@example.com", "member").await);
        let id = api.id_of("other", "alice@example.com").await;
        let target = format!("/api/accounts/other/members/{id}/reset-password");
        let link = api.link(&mallory, &target, json!({})).await;
        let joined = api.invite("acme", "alice@example.com", "owner").await;
        assert_eq!(api.accepts(&joined, PASSWORD).await.status, 200);
        assert_eq!(api.accepts(&link, MALLORYS).await.status, 401);
    });
}

#[test]
fn a_new_password_closes_the_other_links_for_one() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let mallory = api.person("other", "mallory@example.com", "owner").await;
        drop(api.person("other", "alice@example.com", "member").await);
        let id = api.id_of("other", "alice@example.com").await;
        let target = format!("/api/accounts/other/members/{id}/reset-password");
        let kept = api.link(&mallory, &target, json!({})).await;
        let used = api.link(&mallory, &target, json!({})).await;
        assert_eq!(api.accepts(&used, PASSWORD).await.status, 200);
        assert_eq!(api.accepts(&kept, MALLORYS).await.status, 401);
    });
}

#[test]
fn links_of_an_owner_who_was_removed_give_nothing() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        drop(api.person("acme", "alice@example.com", "owner").await);
        let mallory = api.person("acme", "mallory@example.com", "owner").await;
        let alice = api.id_of("acme", "alice@example.com").await;
        let target = format!("/api/accounts/acme/members/{alice}/reset-password");
        let reset = api.link(&mallory, &target, json!({})).await;
        let body = json!({"email": "mallory@example.net", "role": "owner"});
        let back = api
            .link(&mallory, "/api/accounts/acme/invitations", body)
            .await;
        let id = api.id_of("acme", "mallory@example.com").await;
        let target = format!("/api/accounts/acme/members/{id}");
        assert_eq!(api.call("DELETE", &target, "").await.status, 204);
        assert_eq!(api.accepts(&reset, MALLORYS).await.status, 401, "reset");
        assert_eq!(api.accepts(&back, MALLORYS).await.status, 401, "back");
    });
}

#[test]
fn a_role_that_was_taken_away_is_not_given_back_by_an_older_invitation() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        drop(api.person("acme", "alice@example.com", "owner").await);
        let spare = api.invite("acme", "mallory@example.com", "owner").await;
        drop(api.person("acme", "mallory@example.com", "owner").await);
        let id = api.id_of("acme", "mallory@example.com").await;
        let target = format!("/api/accounts/acme/members/{id}");
        api.operator("PATCH", &target, json!({"role": "viewer"}))
            .await;
        assert_eq!(api.accepts(&spare, PASSWORD).await.status, 401);
    });
}

#[test]
fn two_owners_who_demote_each_other_leave_one() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let alice = api.person("acme", "alice@example.com", "owner").await;
        let bob = api.person("acme", "bob@example.com", "owner").await;
        let target = async |email| {
            let id = api.id_of("acme", email).await;
            format!("/api/accounts/acme/members/{id}")
        };
        let (of_alice, of_bob) = (
            target("alice@example.com").await,
            target("bob@example.com").await,
        );
        let viewer = json!({"role": "viewer"});
        tokio::join!(
            api.in_session(&alice, "PATCH", &of_bob, viewer.clone()),
            api.in_session(&bob, "PATCH", &of_alice, viewer.clone()),
        );
        let members = api
            .operator("GET", "/api/accounts/acme/members", Value::Null)
            .await;
        let mut members = members["members"].as_array().unwrap().iter();
        assert!(members.any(|member| member["role"] == "owner"));
    });
}

#[test]
fn a_call_whose_body_comes_after_its_person_was_removed_does_nothing() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let invitation = json!({"email": "mallory@example.net", "role": "owner"});
        for (target, body) in [
            ("/api/keys", key_in("acme")),
            ("/api/accounts/acme/invitations", invitation),
        ] {
            let mallory = api.person("acme", "mallory@example.com", "owner").await;
            let id = api.id_of("acme", "mallory@example.com").await;
            let member = format!("/api/accounts/acme/members/{id}");
            let remove = async {
                assert_eq!(api.call("DELETE", &member, "").await.status, 204);
            };
            let made = api.late(&mallory, target, body, remove).await;
            assert_eq!(made.status, 401, "{target}");
        }
        assert!(api.services.table.is_empty());
    });
}

#[test]
fn no_person_makes_a_key_or_an_invitation_in_an_account_that_was_deleted_meanwhile() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let mallory = api.person("acme", "mallory@example.com", "owner").await;
        let delete = async {
            let gone = api.call("DELETE", "/api/accounts/acme?keys=0", "").await;
            assert_eq!(gone.status, 204);
        };
        let made = api
            .late(&mallory, "/api/keys", key_in("acme"), delete)
            .await;
        // Such a key has no ceilings at all.
        assert!(made.status.is_client_error(), "{}", made.status);
    });
}

#[test]
fn an_invitation_to_an_account_that_was_deleted_gives_nothing_in_a_new_one_of_its_id() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let mallory = api.person("acme", "mallory@example.com", "owner").await;
        let delete = async {
            let gone = api.call("DELETE", "/api/accounts/acme?keys=0", "").await;
            assert_eq!(gone.status, 204);
        };
        let target = "/api/accounts/acme/invitations";
        let body = json!({"email": "mallory@example.net", "role": "owner"});
        let made = api.late(&mallory, target, body, delete).await;
        assert!(made.status.is_client_error(), "{}", made.status);
    });
}

#[test]
fn a_repeated_call_shows_no_key_that_its_person_does_not_see() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let mallory = api.person("acme", "mallory@example.com", "member").await;
        let create = async |session: &TestSession, account| {
            let headers = [&FROM_PANEL[..], &session.headers()].concat();
            let headers = [&headers[..], &[("idempotency-key", "1")]].concat();
            let body = key_in(account).to_string();
            api.tcp("POST", "/api/keys", &headers, &body).await
        };
        assert_eq!(create(&mallory, "acme").await.status, 201);
        let joined = api.invite("other", "mallory@example.com", "member").await;
        assert_eq!(api.accepts(&joined, PASSWORD).await.status, 200);
        let id = api.id_of("acme", "mallory@example.com").await;
        let target = format!("/api/accounts/acme/members/{id}");
        assert_eq!(api.call("DELETE", &target, "").await.status, 204);
        let again = json!({"email": "mallory@example.com", "password": PASSWORD});
        let mallory = api.sign_in_with(again).await.session();
        let repeated = create(&mallory, "other").await;
        assert_eq!(repeated.status, 409);
        assert_eq!(repeated.json()["key"], Value::Null);
    });
}

#[test]
fn warnings_do_not_tell_which_models_there_are_that_the_account_does_not_allow() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let none = json!({"model_access": {"mode": "inclusive", "models": ["another"]}});
        api.operator("PATCH", "/api/accounts/acme", none).await;
        let mallory = api.person("acme", "mallory@example.com", "member").await;
        let mut warnings = Vec::new();
        for model in ["good", "nice"] {
            let access = json!({"mode": "inclusive", "models": [model]});
            let body = json!({"name": "n", "account": "acme", "model_access": access});
            let made = api.in_session(&mallory, "POST", "/api/keys", body).await;
            warnings.push(made.json()["warnings"].to_string().replace(model, "_"));
        }
        assert_eq!(warnings[0], warnings[1]);
    });
}

#[test]
fn an_address_that_unicode_makes_another_one_is_not_that_one() {
    let kelvin = EmailAddress::parse("\u{212a}ate@example.com");
    assert_ne!(kelvin, EmailAddress::parse("kate@example.com"));
}

//! Every operation of the API's document, for every role, on what is theirs, on what is somebody else's, and on what does
//! not exist.

use std::collections::BTreeMap;

use super::people::PASSWORD;
use super::*;

/// The operations that somebody may call, by their ids in the document, beside those of the roles before.
const ALLOWED: [(&str, &[&str]); 5] = [
    (
        "nobody",
        &[
            "health",
            "healthHead",
            "ready",
            "readyHead",
            "signIn",
            "signInWays",
            "lookAtInvitation",
            "beginProviderSignIn",
            "endProviderSignIn",
        ],
    ),
    (
        "viewer",
        &[
            "listKeys",
            "showKey",
            "listAccounts",
            "showAccount",
            "listMembers",
            "models",
            "usage",
            "usageRecords",
            "session",
            "signOut",
            "listSessions",
            "endSession",
            "openapi",
        ],
    ),
    (
        "member",
        &[
            "createKey",
            "changeKey",
            "deleteKey",
            "rotateKey",
            "expirePrevious",
        ],
    ),
    (
        "owner",
        &[
            "auditRows",
            "changeMember",
            "removeMember",
            "resetPassword",
            "listInvitations",
            "invite",
            "revokeInvitation",
        ],
    ),
    (
        "operator",
        &[
            "metrics",
            "resetBudgets",
            "createAccount",
            "changeAccount",
            "deleteAccount",
            "reload",
            "acceptRollback",
            "testAlert",
            "status",
            "fleet",
            "overview",
            "refusals",
            "verifyAudit",
            "explain",
            "makeSignInLink",
        ],
    ),
];

/// Whose things a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Of the caller's account, and made by the caller where the role makes any.
    Own,
    /// Of the caller's account, made by somebody else.
    OfAnother,
    /// Of an account that the caller is not in.
    Foreign,
    /// Of nobody.
    Unknown,
}

struct DocumentedCall {
    id: String,
    method: String,
    path: String,
}

fn documented() -> Vec<DocumentedCall> {
    let document: Value = serde_json::from_slice(&openapi::text()).unwrap();
    let mut calls = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, call) in methods.as_object().unwrap() {
            if let Some(id) = call["operationId"].as_str() {
                calls.push(DocumentedCall {
                    id: id.to_owned(),
                    method: method.to_uppercase(),
                    path: path.clone(),
                });
            }
        }
    }
    calls
}

/// A role by its place in [`ALLOWED`].
fn may(role: &str, id: &str) -> bool {
    let place = ALLOWED.iter().position(|(name, _)| *name == role).unwrap();
    let mut allowed = ALLOWED[..=place].iter();
    allowed.any(|(_, ids)| ids.contains(&id))
}

/// One API, with a caller of one role in the account `acme`.
struct Stage {
    api: TestApi,
    role: &'static str,
    caller: Option<TestSession>,
    /// An owner of `acme` and `other` each, to make what calls are about.
    owners: BTreeMap<&'static str, TestSession>,
    made: usize,
}

impl Stage {
    async fn new(role: &'static str) -> Self {
        let api = TestApi::with_accounts().await;
        let mut owners = BTreeMap::new();
        for account in ["acme", "other"] {
            let email = format!("owner@{account}.example");
            owners.insert(account, api.person(account, &email, "owner").await);
        }
        let caller = match role {
            "nobody" | "operator" => None,
            role => Some(api.person("acme", "caller@example.com", role).await),
        };
        Self {
            api,
            role,
            caller,
            owners,
            made: 0,
        }
    }

    async fn call(&self, method: &str, target: &str, body: Value) -> TestResponse {
        let text = match body {
            Value::Null => String::new(),
            ref body => body.to_string(),
        };
        match (self.role, &self.caller) {
            ("operator", _) => self.api.call(method, target, &text).await,
            (_, Some(session)) => self.api.in_session(session, method, target, body).await,
            (_, None) => self.api.tcp(method, target, &FROM_PANEL, &text).await,
        }
    }

    /// The id of a new key.
    async fn key(&self, account: &'static str, by_caller: bool) -> String {
        let maker = match &self.caller {
            Some(caller) if by_caller && self.role != "viewer" => caller,
            _ => &self.owners[account],
        };
        let body = json!({"name": "n", "model_access": {"mode": "all"}, "account": account});
        let made = self.api.in_session(maker, "POST", "/api/keys", body).await;
        assert_eq!(made.status, 201, "{}", made.json());
        made.json()["key"]["id"].as_str().unwrap().to_owned()
    }

    /// The id of a new member.
    async fn member(&mut self, account: &'static str) -> String {
        self.made += 1;
        let email = format!("member{}@{account}.example", self.made);
        drop(self.api.person(account, &email, "viewer").await);
        self.api.id_of(account, &email).await
    }

    /// The id of a new invitation.
    async fn invitation(&self, account: &str) -> String {
        let target = format!("/api/accounts/{account}/invitations");
        let body = json!({"email": "new@example.com", "role": "viewer"});
        let made = self.api.operator("POST", &target, body).await;
        made["invitation"]["id"].as_str().unwrap().to_owned()
    }

    /// The target of a call about such things, which are new ones; None where there are none of that kind.
    async fn target(&mut self, call: &DocumentedCall, whose: Whose) -> Option<String> {
        let account = match whose {
            Whose::Own | Whose::OfAnother => "acme",
            Whose::Foreign => "other",
            Whose::Unknown => "unknown",
        };
        let path = &call.path;
        if path.starts_with("/api/keys/{id}") {
            let id = match whose {
                Whose::Own => self.key("acme", true).await,
                Whose::OfAnother => self.key("acme", false).await,
                Whose::Foreign => self.key("other", false).await,
                Whose::Unknown => "key_unknown".to_owned(),
            };
            return Some(path.replace("{id}", &id));
        }
        if path.starts_with("/api/accounts/{id}") {
            if whose == Whose::OfAnother {
                return None;
            }
            let of_people = match account {
                "unknown" => "acme",
                account => account,
            };
            let mut target = path.clone();
            if path.contains("{person}") {
                let id = self.member(of_people).await;
                target = target.replace("{person}", &id);
            }
            if path.contains("{invitation}") {
                let id = self.invitation(of_people).await;
                target = target.replace("{invitation}", &id);
            }
            let target = target.replace("{id}", account);
            return Some(match call.id.as_str() {
                "deleteAccount" => format!("{target}?keys={}", self.keys_of(account).await),
                _ => target,
            });
        }
        if path == "/api/sessions/{id}" {
            let session = match whose {
                Whose::Own => self.caller.as_ref(),
                Whose::Foreign => self.owners.get("other"),
                Whose::OfAnother => self.owners.get("acme"),
                Whose::Unknown => None,
            };
            let Some(session) = session else {
                return Some("/api/sessions/ses_unknown".to_owned());
            };
            let sessions = self
                .api
                .in_session(session, "GET", "/api/sessions", Value::Null)
                .await
                .json();
            let id = sessions["sessions"][0]["id"].as_str()?;
            return Some(format!("/api/sessions/{id}"));
        }
        let asks_by_account = matches!(call.id.as_str(), "usage" | "usageRecords" | "auditRows");
        match (asks_by_account, whose) {
            (_, Whose::OfAnother) => None,
            (true, _) => {
                let period = match call.id.as_str() {
                    "usage" => "&start_time=1&end_time=2",
                    _ => "",
                };
                Some(format!("{path}?account={account}{period}"))
            }
            (false, Whose::Own) => Some(path.clone()),
            (false, _) => None,
        }
    }

    async fn keys_of(&self, account: &str) -> u64 {
        let shown = self
            .api
            .call("GET", &format!("/api/accounts/{account}"), "")
            .await;
        shown.json()["keys"].as_u64().unwrap_or_default()
    }

    async fn body(&self, call: &DocumentedCall) -> Value {
        match call.id.as_str() {
            "createKey" => {
                json!({"name": "n", "model_access": {"mode": "all"}, "account": "acme"})
            }
            "changeKey" => json!({"name": "changed"}),
            "createAccount" => json!({"id": "new"}),
            "changeAccount" => json!({"name": "changed"}),
            "changeMember" => json!({"role": "member"}),
            "invite" => json!({"email": "x@example.com", "role": "viewer"}),
            "explain" => {
                let key = self.key("acme", false).await;
                json!({"key": key, "model": "good", "from": "::1"})
            }
            "signIn" => json!({"email": "owner@acme.example", "password": PASSWORD}),
            "lookAtInvitation" => {
                json!({"invitation": self.api.invite("acme", "y@example.com", "viewer").await})
            }
            "rotateKey" | "expirePrevious" | "resetBudgets" | "resetPassword" | "reload"
            | "acceptRollback" | "testAlert" | "makeSignInLink" => json!({}),
            _ => Value::Null,
        }
    }

    /// Signs the caller in again, whose session may have ended.
    async fn refresh(&mut self) {
        if self.caller.is_some() {
            let body = json!({"email": "caller@example.com", "password": PASSWORD});
            self.caller = Some(self.api.sign_in_with(body).await.session());
        }
    }
}

/// What an operation does for the caller.
fn is_expected(role: &str, call: &DocumentedCall, whose: Whose, status: u16) -> bool {
    let id = call.id.as_str();
    let is_done = (200..300).contains(&status);
    if matches!(id, "beginProviderSignIn" | "endProviderSignIn") {
        // The config of the test has no identity provider.
        return status == 404;
    }
    if role == "nobody" {
        return if may(role, id) {
            is_done
        } else {
            status == 401
        };
    }
    let changes_a_key = matches!(
        id,
        "changeKey" | "deleteKey" | "rotateKey" | "expirePrevious"
    );
    let is_theirs = match (role, whose) {
        (_, Whose::Unknown) => {
            matches!(id, "usage" | "usageRecords" | "auditRows") && role == "operator"
        }
        ("operator", _) => true,
        (_, Whose::Own) => true,
        (_, Whose::OfAnother) => match id {
            "endSession" => false,
            _ => role == "owner" || !changes_a_key,
        },
        (_, Whose::Foreign) => false,
    };
    match may(role, id) && is_theirs {
        // Operators by socket have no sessions of their own.
        true if role == "operator" && matches!(id, "listSessions" | "endSession") => status == 404,
        // The config of the test has no alerts, and an operator has asked.
        true if id == "testAlert" => status == 404,
        // The keys of the test come from a file.
        true if id == "acceptRollback" => status == 409,
        true => is_done,
        false => status == 404,
    }
}

#[test]
fn every_operation_is_listed_for_one_role() {
    let documented: Vec<String> = documented().into_iter().map(|call| call.id).collect();
    let mut listed: Vec<&str> = ALLOWED
        .iter()
        .flat_map(|(_, ids)| ids.iter().copied())
        .collect();
    listed.sort_unstable();
    let mut documented: Vec<&str> = documented.iter().map(String::as_str).collect();
    documented.sort_unstable();
    assert_eq!(listed, documented);
}

#[test]
fn every_role_may_do_what_it_may_and_nothing_else_exists_for_it() {
    for (role, _) in ALLOWED {
        runtime().block_on(async {
            let mut stage = Stage::new(role).await;
            let mut wrong = Vec::new();
            let mut calls = documented();
            // Last, since nothing is left of the account after it.
            calls.sort_by_key(|call| call.id == "deleteAccount");
            for call in calls {
                for whose in [Whose::Foreign, Whose::Unknown, Whose::OfAnother, Whose::Own] {
                    let Some(target) = stage.target(&call, whose).await else {
                        continue;
                    };
                    let body = stage.body(&call).await;
                    let response = stage.call(&call.method, &target, body).await;
                    let status = response.status.as_u16();
                    if !is_expected(role, &call, whose, status) {
                        let DocumentedCall { id, method, .. } = &call;
                        wrong.push(format!(
                            "{role} {id} {whose:?}: {method} {target} {status} {}",
                            response.json()
                        ));
                    }
                    if matches!(call.id.as_str(), "signOut" | "endSession" | "signIn") {
                        stage.refresh().await;
                    }
                }
            }
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        });
    }
}

#[test]
fn lists_and_counts_hold_only_what_is_theirs() {
    runtime().block_on(async {
        let mut stage = Stage::new("member").await;
        for account in ["acme", "other"] {
            let body = json!({"name": "n", "model_access": {"mode": "all"}, "account": account});
            let owner = &stage.owners[account];
            let made = stage.api.in_session(owner, "POST", "/api/keys", body).await;
            assert_eq!(made.status, 201);
        }
        stage.api.key("of nobody").await;
        for target in ["/api/keys", "/api/keys?sort=name", "/api/keys?query=n"] {
            let keys = stage.call("GET", target, Value::Null).await.json();
            let keys = keys["keys"].as_array().unwrap();
            assert_eq!(keys.len(), 1, "{target}");
            assert_eq!(keys[0]["account"], "acme");
        }
        let accounts = stage.call("GET", "/api/accounts", Value::Null).await.json();
        let accounts = accounts["accounts"].as_array().unwrap();
        let of = |account: &Value| (account["id"].clone(), account["role"].clone());
        assert_eq!(
            accounts.iter().map(of).collect::<Vec<_>>(),
            [(json!("acme"), json!("member"))]
        );
        let models = stage.call("GET", "/api/models", Value::Null).await.json();
        assert_eq!(models["models"][0]["keys"], 1);
        let none = json!({"model_access": {"mode": "exclusive", "models": ["good"]}});
        stage
            .api
            .operator("PATCH", "/api/accounts/acme", none)
            .await;
        let models = stage.call("GET", "/api/models", Value::Null).await.json();
        assert_eq!(models["models"], json!([]));
        let foreign = "/api/models?account=other";
        let models = stage.call("GET", foreign, Value::Null).await;
        assert_eq!(models.status, 404);

        // The same Idempotency-Key of somebody else is another one.
        let body =
            json!({"name": "n", "model_access": {"mode": "all"}, "account": "acme"}).to_string();
        let create = |session: &TestSession| {
            let headers = [
                &session.headers()[..],
                &FROM_PANEL,
                &[("idempotency-key", "1")],
            ]
            .concat();
            let headers: Vec<(String, String)> = headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let (api, body) = (&stage.api, &body);
            async move {
                let headers: Vec<(&str, &str)> = headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();
                api.tcp("POST", "/api/keys", &headers, body)
                    .await
                    .status
                    .as_u16()
            }
        };
        let caller = stage.caller.as_ref().unwrap();
        let statuses = [create(caller).await, create(&stage.owners["acme"]).await];
        assert_eq!(statuses, [201, 201]);
        assert_eq!(create(caller).await, 409);

        let out = stage.call("DELETE", "/api/session", Value::Null).await;
        assert_eq!(out.status, 204);
        assert_eq!(
            stage.call("GET", "/api/session", Value::Null).await.status,
            401
        );
        stage.refresh().await;
        let keys = stage.keys_of("acme").await;
        let target = format!("/api/accounts/acme?keys={keys}");
        assert_eq!(stage.api.call("DELETE", &target, "").await.status, 204);
        assert_eq!(
            stage.call("GET", "/api/session", Value::Null).await.status,
            401
        );
        stage
            .api
            .operator("POST", "/api/accounts", json!({"id": "acme"}))
            .await;
        let members = stage
            .api
            .operator("GET", "/api/accounts/acme/members", Value::Null)
            .await;
        assert_eq!(members["members"], json!([]));
    });
}

//! Invitations, sign-in and roles of persons.

use super::*;

pub(super) const PASSWORD: &str = "correct horse battery staple";
pub(super) const OTHER_PASSWORD: &str = "blue duck in the green water";

impl TestApi {
    /// An API with a database, a panel, and the accounts `acme` and `other`.
    pub(super) async fn with_accounts() -> Self {
        let api = Self::with_usage(Vec::new());
        let address = ([192, 0, 2, 1], 9180).into();
        api.services.state.address.set(address).unwrap();
        for id in ["acme", "other"] {
            api.operator("POST", "/api/accounts", json!({"id": id}))
                .await;
        }
        api
    }

    /// A call of the operator that succeeds; its answer.
    pub(super) async fn operator(&self, method: &str, target: &str, body: Value) -> Value {
        let response = self.call(method, target, &body.to_string()).await;
        let answer = response.json();
        assert!(response.status.is_success(), "{method} {target}: {answer}");
        answer
    }

    /// Invites somebody; the code of the link.
    pub(super) async fn invite(&self, account: &str, email: &str, role: &str) -> String {
        let target = format!("/api/accounts/{account}/invitations");
        let body = json!({"email": email, "role": role});
        code_of(&self.operator("POST", &target, body).await)
    }

    pub(super) async fn sign_in_with(&self, body: Value) -> TestResponse {
        self.tcp("POST", "/api/session", &FROM_PANEL, &body.to_string())
            .await
    }

    pub(super) async fn accept(&self, code: &str, password: &str) -> TestResponse {
        self.sign_in_with(json!({"invitation": code, "password": password}))
            .await
    }

    /// Somebody new in an account.
    pub(super) async fn person(&self, account: &str, email: &str, role: &str) -> TestSession {
        let code = self.invite(account, email, role).await;
        let response = self.accept(&code, PASSWORD).await;
        assert_eq!(response.status, 200, "{}", response.json());
        response.session()
    }

    /// A call in a session.
    pub(super) async fn in_session(
        &self,
        session: &TestSession,
        method: &str,
        target: &str,
        body: Value,
    ) -> TestResponse {
        let headers = [&FROM_PANEL[..], &session.headers()].concat();
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        self.tcp(method, target, &headers, &body).await
    }

    /// The status of a session's own page.
    async fn lives(&self, session: &TestSession) -> u16 {
        let shown = self
            .in_session(session, "GET", "/api/session", Value::Null)
            .await;
        shown.status.as_u16()
    }

    pub(super) async fn id_of(&self, account: &str, email: &str) -> String {
        let target = format!("/api/accounts/{account}/members");
        let members = self.operator("GET", &target, Value::Null).await;
        let members = members["members"].as_array().unwrap();
        let member = members.iter().find(|member| member["email"] == email);
        member.unwrap()["id"].as_str().unwrap().to_owned()
    }
}

pub(super) fn code_of(answer: &Value) -> String {
    let link = answer["link"].as_str().unwrap();
    link.split_once("/#invitation=").unwrap().1.to_owned()
}

pub(super) fn code(response: &TestResponse) -> String {
    let body = response.json();
    body["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn new_key(account: Option<&str>) -> Value {
    let mut key = json!({"name": "n", "model_access": {"mode": "all"}});
    if let Some(account) = account {
        key["account"] = account.into();
    }
    key
}

#[test]
fn who_is_invited_sets_a_password_once_and_makes_a_key_in_the_account() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let invitation = api.invite("acme", "Alice@Example.com", "member").await;
        let look = json!({"invitation": invitation}).to_string();
        let look = || api.tcp("POST", "/api/invitations/look", &FROM_PANEL, &look);
        let seen = look().await.json();
        assert_eq!(seen["email"], "alice@example.com");
        assert_eq!(seen["account"]["id"], "acme");
        assert_eq!(
            (&seen["role"], &seen["sets_password"]),
            (&json!("member"), &json!(true))
        );

        let weak = api.accept(&invitation, "short").await;
        assert_eq!(
            (weak.status.as_u16(), weak.field()),
            (422, "password".to_owned())
        );
        let response = api.accept(&invitation, PASSWORD).await;
        assert_eq!(response.status, 200, "{}", response.json());
        let shown = response.json();
        assert_eq!(shown["principal"]["kind"], "person");
        assert_eq!(shown["principal"]["email"], "alice@example.com");
        assert_eq!(
            shown["accounts"],
            json!([{"id": "acme", "name": null, "role": "member"}])
        );
        let alice = response.session();

        // The link is used up.
        assert_eq!(look().await.status, 401);
        assert_eq!(api.accept(&invitation, OTHER_PASSWORD).await.status, 401);

        let created = api
            .in_session(&alice, "POST", "/api/keys", new_key(None))
            .await;
        assert_eq!(created.status, 201, "{}", created.json());
        let key = &created.json()["key"];
        assert_eq!(key["account"], "acme");
        assert_eq!(key["created_by"], shown["principal"]["id"]);
        let keys = api
            .in_session(&alice, "GET", "/api/keys", Value::Null)
            .await
            .json();
        assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
        let rows = api
            .operator("GET", "/api/audit?account=acme", Value::Null)
            .await;
        let rows: Vec<_> = rows["rows"].as_array().unwrap().iter().collect();
        let said = |row: &&Value| {
            format!(
                "{} {}",
                row["actor"].as_str().unwrap(),
                row["action"].as_str().unwrap()
            )
        };
        let said: Vec<String> = rows.iter().map(said).collect();
        assert_eq!(
            said,
            [
                "alice@example.com accept_invitation",
                "uid 7 invite",
                "uid 7 create_account",
            ]
        );

        // And again, by the password.
        assert_eq!(api.lives(&alice).await, 200);
        let again = api
            .sign_in_with(json!({"email": "alice@example.COM", "password": PASSWORD}))
            .await;
        assert_eq!(again.status, 200, "{}", again.json());
    });
}

#[test]
fn wrong_passwords_are_refused_alike_and_slowed_without_locking_others_out() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        drop(api.person("acme", "alice@example.com", "viewer").await);
        let with = |email: &'static str, password: &'static str| {
            api.sign_in_with(json!({"email": email, "password": password}))
        };
        let wrong = with("alice@example.com", "not the password").await;
        let nobody = with("nobody@example.com", "not the password").await;
        assert_eq!(
            (wrong.status.as_u16(), code(&wrong)),
            (401, "wrong_password".to_owned())
        );
        assert_eq!(wrong.body, nobody.body);
        // The first wait is a second, which a slow machine may take between two calls.
        let mut right = 200;
        for _ in 0..10 {
            let mut refused = with("alice@example.com", "not the password").await;
            for _ in 0..10 {
                if refused.status == 429 {
                    break;
                }
                refused = with("alice@example.com", "not the password").await;
            }
            assert_eq!(
                (refused.status.as_u16(), code(&refused)),
                (429, "too_many_tries".to_owned())
            );
            assert!(refused.headers.contains_key("retry-after"));
            // The right one is not looked at either, so that nothing is learned from it.
            right = with("alice@example.com", PASSWORD).await.status.as_u16();
            if right == 429 {
                break;
            }
        }
        assert_eq!(right, 429);
        // Another person at the same address is not slowed.
        assert_eq!(with("bob@example.com", PASSWORD).await.status, 401);
        // Nor is Alice, elsewhere.
        let request = Request::post("/api/session")
            .header("host", "192.0.2.1:9180")
            .header("x-keygate-panel", "1")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(
                json!({"email": "alice@example.com", "password": PASSWORD}).to_string(),
            )));
        let peer = Peer::Network {
            address: ([198, 51, 100, 10], 5000).into(),
            local: LOCAL,
        };
        assert_eq!(api.send(peer, request.unwrap()).await.status, 200);
    });
}

#[test]
fn whoever_makes_a_link_for_somebody_of_another_account_does_not_get_in_by_it() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        drop(api.person("acme", "alice@example.com", "owner").await);
        let mallory = api.person("other", "mallory@example.com", "owner").await;
        // The attacker owns another account, invites Alice there, and opens the link.
        let answer = api
            .in_session(
                &mallory,
                "POST",
                "/api/accounts/other/invitations",
                json!({"email": "alice@example.com", "role": "viewer"}),
            )
            .await;
        let link = code_of(&answer.json());
        let taken = api.accept(&link, OTHER_PASSWORD).await;
        assert_eq!(
            (taken.status.as_u16(), code(&taken)),
            (401, "wrong_password".to_owned())
        );
        // Alice joins with the password that she has, and keeps it.
        assert_eq!(api.accept(&link, PASSWORD).await.status, 200);
        // She is in two accounts now: an owner of one makes no link that sets her password.
        let id = api.id_of("acme", "alice@example.com").await;
        let target = format!("/api/accounts/other/members/{id}/reset-password");
        let reset = api.in_session(&mallory, "POST", &target, json!({})).await;
        assert_eq!(
            (reset.status.as_u16(), code(&reset)),
            (409, "is_elsewhere".to_owned())
        );
        let answer = api.operator("POST", &target, json!({})).await;
        let reset = api.accept(&code_of(&answer), OTHER_PASSWORD).await;
        assert_eq!(reset.status, 200, "{}", reset.json());
        let roles = reset.json()["accounts"].clone();
        assert_eq!(roles[0]["role"], "owner", "{roles}");
        let old = json!({"email": "alice@example.com", "password": PASSWORD});
        assert_eq!(api.sign_in_with(old).await.status, 401);
    });
}

#[test]
fn a_stolen_used_old_or_revoked_link_gives_nothing() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let revoked = api.invite("acme", "a@example.com", "owner").await;
        let open = api
            .operator("GET", "/api/accounts/acme/invitations", Value::Null)
            .await;
        let id = open["invitations"][0]["id"].as_str().unwrap();
        assert!(!open.to_string().contains(&revoked));
        let target = format!("/api/accounts/acme/invitations/{id}");
        assert_eq!(api.call("DELETE", &target, "").await.status, 204);
        assert_eq!(api.call("DELETE", &target, "").await.status, 404);
        let disabled = api.invite("other", "b@example.com", "owner").await;
        let disable = json!({"disabled": true});
        api.operator("PATCH", "/api/accounts/other", disable).await;
        let used = api.invite("acme", "c@example.com", "viewer").await;
        assert_eq!(api.accept(&used, PASSWORD).await.status, 200);
        let unknown = "x".repeat(43);
        for link in [&revoked, &disabled, &used, &unknown, &String::new()] {
            let refused = api.accept(link, PASSWORD).await;
            assert_eq!(
                (refused.status.as_u16(), code(&refused)),
                (401, "wrong_link".to_owned())
            );
        }
    });
}

#[test]
fn a_session_ends_at_once_by_removal_a_new_role_a_disabled_account_and_by_its_person() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let alice = api.person("acme", "alice@example.com", "owner").await;
        let bob = api.person("acme", "bob@example.com", "member").await;
        let bob_id = api.id_of("acme", "bob@example.com").await;
        let target = format!("/api/accounts/acme/members/{bob_id}");
        let role = json!({"role": "viewer"});
        let changed = api.in_session(&alice, "PATCH", &target, role).await;
        assert_eq!(changed.status, 200, "{}", changed.json());
        assert_eq!((api.lives(&bob).await, api.lives(&alice).await), (401, 200));
        let again = || async {
            let body = json!({"email": "bob@example.com", "password": PASSWORD});
            api.sign_in_with(body).await
        };
        let bob = again().await.session();
        let removed = api.in_session(&alice, "DELETE", &target, Value::Null).await;
        assert_eq!(removed.status, 204);
        assert_eq!(api.lives(&bob).await, 401);
        let out = again().await;
        assert_eq!(
            (out.status.as_u16(), code(&out)),
            (401, "in_no_account".to_owned())
        );

        let sessions = api
            .in_session(&alice, "GET", "/api/sessions", Value::Null)
            .await
            .json();
        let body = json!({"email": "alice@example.com", "password": PASSWORD});
        let second = api.sign_in_with(body).await.session();
        let id = sessions["sessions"][0]["id"].as_str().unwrap();
        assert_eq!(sessions["sessions"][0]["current"], true);
        let ended = api
            .in_session(
                &second,
                "DELETE",
                &format!("/api/sessions/{id}"),
                Value::Null,
            )
            .await;
        assert_eq!(ended.status, 204);
        assert_eq!(
            (api.lives(&alice).await, api.lives(&second).await),
            (401, 200)
        );

        let disable = json!({"disabled": true});
        api.operator("PATCH", "/api/accounts/acme", disable).await;
        assert_eq!(api.lives(&second).await, 401);
        let enable = json!({"disabled": false});
        api.operator("PATCH", "/api/accounts/acme", enable).await;
        assert_eq!(api.lives(&second).await, 401, "it stays ended");
    });
}

#[test]
fn an_account_keeps_an_owner_unless_an_operator_takes_the_last_one() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let alice = api.person("acme", "alice@example.com", "owner").await;
        let id = api.id_of("acme", "alice@example.com").await;
        let target = format!("/api/accounts/acme/members/{id}");
        let role = json!({"role": "viewer"});
        for (method, body) in [("PATCH", role.clone()), ("DELETE", Value::Null)] {
            let refused = api.in_session(&alice, method, &target, body).await;
            assert_eq!(
                (refused.status.as_u16(), code(&refused)),
                (409, "last_owner".to_owned())
            );
        }
        drop(api.person("acme", "bob@example.com", "owner").await);
        let changed = api.in_session(&alice, "PATCH", &target, role).await;
        assert_eq!(changed.status, 200);
        let bob = api.id_of("acme", "bob@example.com").await;
        let target = format!("/api/accounts/acme/members/{bob}");
        assert_eq!(api.call("DELETE", &target, "").await.status, 204);
    });
}

#[test]
fn a_session_needs_cookie_secret_and_the_panels_headers_and_is_new_at_each_sign_in() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let alice = api.person("acme", "alice@example.com", "owner").await;
        let bob = api.person("acme", "bob@example.com", "owner").await;
        let [cookie, secret] = alice.headers();
        let stolen = TestSession {
            cookie: bob.cookie.clone(),
            secret: alice.secret.clone(),
        };
        assert_eq!(api.lives(&stolen).await, 401);
        for (headers, status) in [
            (&[FROM_PANEL[0], cookie][..], 401),
            (&[FROM_PANEL[0], secret], 401),
            (&[FROM_PANEL[0], cookie, secret], 403),
            (
                &[
                    FROM_PANEL[0],
                    FROM_PANEL[1],
                    FROM_PANEL[2],
                    cookie,
                    secret,
                    ("origin", "http://evil.example"),
                ],
                403,
            ),
            (
                &[
                    FROM_PANEL[0],
                    FROM_PANEL[1],
                    FROM_PANEL[2],
                    cookie,
                    secret,
                    ("sec-fetch-site", "same-site"),
                ],
                403,
            ),
        ] {
            let body = new_key(None).to_string();
            let response = api.tcp("POST", "/api/keys", headers, &body).await;
            assert_eq!(response.status, status, "{headers:?}");
        }
        // A session that was there before the sign-in is not the one after it.
        let body = json!({"email": "bob@example.com", "password": PASSWORD}).to_string();
        let headers = [&FROM_PANEL[..], &[cookie]].concat();
        let response = api.tcp("POST", "/api/session", &headers, &body).await;
        let line = response.headers["set-cookie"].to_str().unwrap().to_owned();
        assert!(line.contains("HttpOnly; SameSite=Strict; Path=/"), "{line}");
        assert!(!line.starts_with(&alice.cookie));
        assert_eq!(api.lives(&alice).await, 401);
    });
}

#[test]
fn a_member_changes_own_keys_an_owner_all_and_nobody_moves_one_out_of_the_account() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let owner = api.person("acme", "alice@example.com", "owner").await;
        let member = api.person("acme", "bob@example.com", "member").await;
        let viewer = api.person("acme", "carol@example.com", "viewer").await;
        let made = |session| api.in_session(session, "POST", "/api/keys", new_key(None));
        let id = |response: TestResponse| response.json()["key"]["id"].as_str().unwrap().to_owned();
        let (of_owner, of_member) = (id(made(&owner).await), id(made(&member).await));
        assert_eq!(made(&viewer).await.status, 404);
        let rename = json!({"name": "new"});
        for (session, key, status) in [
            (&viewer, &of_member, 404),
            (&member, &of_owner, 404),
            (&member, &of_member, 200),
            (&owner, &of_member, 200),
        ] {
            let target = format!("/api/keys/{key}");
            let shown = api.in_session(session, "GET", &target, Value::Null).await;
            assert_eq!(shown.status, 200);
            let changed = api
                .in_session(session, "PATCH", &target, rename.clone())
                .await;
            assert_eq!(changed.status, status, "{}", changed.json());
            let rotate = format!("{target}/rotate");
            let rotated = api.in_session(session, "POST", &rotate, json!({})).await;
            assert_eq!(rotated.status.is_success(), status == 200);
        }
        let target = format!("/api/keys/{of_member}");
        for account in [Value::Null, json!("other")] {
            let moved = api
                .in_session(&owner, "PATCH", &target, json!({"account": account}))
                .await;
            assert_eq!(
                (moved.status.as_u16(), moved.field()),
                (422, "account".to_owned())
            );
        }
        // A revision that is not the present one is refused, also beside one that is.
        let headers = [
            &FROM_PANEL[..],
            &owner.headers(),
            &[("if-match", "\"0000\"")],
        ]
        .concat();
        let stale = api
            .tcp("PATCH", &target, &headers, "{\"name\":\"x\"}")
            .await;
        assert_eq!(stale.status, 412);
        let gone = api.in_session(&owner, "DELETE", &target, Value::Null).await;
        assert_eq!(gone.status, 204);
    });
}

#[test]
fn who_is_outrun_by_another_is_told_what_happened() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        // Two operators remove one member at once. Where the one has done it before the other begins, it is 404.
        for number in 0..50 {
            let email = format!("bob{number}@example.com");
            drop(api.person("acme", &email, "member").await);
            let id = api.id_of("acme", &email).await;
            let target = format!("/api/accounts/acme/members/{id}");
            let remove = || api.call("DELETE", &target, "");
            let (one, other) = tokio::join!(remove(), remove());
            let (done, outrun) = match one.status == 204 {
                true => (one, other),
                false => (other, one),
            };
            assert_eq!(done.status, 204);
            if outrun.status == 404 {
                continue;
            }
            assert_eq!(
                (outrun.status.as_u16(), code(&outrun)),
                (409, "changed_meanwhile".to_owned())
            );
            let message = outrun.json()["error"]["message"].to_string();
            assert!(message.contains("was removed meanwhile"), "{message}");
            return;
        }
        panic!("the calls never met");
    });
}

#[test]
fn a_link_for_a_new_password_is_no_invitation() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let looked = async |code: &str| {
            let body = json!({"invitation": code}).to_string();
            let path = "/api/invitations/look";
            api.tcp("POST", path, &FROM_PANEL, &body).await.json()
        };
        let invitation = api.invite("acme", "alice@example.com", "owner").await;
        assert_eq!(looked(&invitation).await["kind"], "invitation");
        assert_eq!(api.accept(&invitation, PASSWORD).await.status, 200);
        let id = api.id_of("acme", "alice@example.com").await;
        let target = format!("/api/accounts/acme/members/{id}/reset-password");
        let reset = code_of(&api.operator("POST", &target, json!({})).await);
        let seen = looked(&reset).await;
        assert_eq!(
            (&seen["kind"], &seen["sets_password"]),
            (&json!("new_password"), &json!(true))
        );
        // One to another account asks for the password that she has.
        let other = api.invite("other", "alice@example.com", "viewer").await;
        let seen = looked(&other).await;
        assert_eq!(
            (&seen["kind"], &seen["sets_password"]),
            (&json!("invitation"), &json!(false))
        );
    });
}

#[test]
fn models_of_one_account_count_its_keys_alone() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        drop(api.person("acme", "alice@example.com", "owner").await);
        let joined = api.invite("other", "alice@example.com", "owner").await;
        let alice = api.accept(&joined, PASSWORD).await.session();
        for account in ["acme", "other", "other"] {
            let body = new_key(Some(account));
            let made = api.in_session(&alice, "POST", "/api/keys", body).await;
            assert_eq!(made.status, 201);
        }
        let none = json!({"model_access": {"mode": "exclusive", "models": ["good"]}});
        for (query, keys) in [("", 3), ("?account=acme", 1), ("?account=other", 2)] {
            let target = format!("/api/models{query}");
            let hers = api.in_session(&alice, "GET", &target, Value::Null).await;
            assert_eq!(hers.json()["models"][0]["keys"], keys, "{query}");
            let all = api.operator("GET", &target, Value::Null).await;
            assert_eq!(all["models"][0]["keys"], keys, "{query}");
        }
        api.operator("PATCH", "/api/accounts/acme", none).await;
        let empty = "/api/models?account=acme";
        let hers = api.in_session(&alice, "GET", empty, Value::Null).await;
        assert_eq!(hers.json()["models"], json!([]));
        let unknown = api.call("GET", "/api/models?account=nothing", "").await;
        assert_eq!(unknown.status, 404);
    });
}

#[test]
fn an_unreadable_query_of_a_sign_in_by_the_provider_names_the_parameter() {
    runtime().block_on(async {
        let mut api = TestApi::with(
            "[sign_in.oidc]\nissuer = \"http://127.0.0.1:9\"\nclient_id = \"keygate\"\n",
        );
        let services = Arc::get_mut(&mut api.services).unwrap();
        services.provider = services.config.sign_in.oidc.as_ref().map(Provider::new);
        services
            .state
            .address
            .set(([192, 0, 2, 1], 9180).into())
            .unwrap();
        for (target, field) in [
            ("/api/sign-in/oidc?invitation=%ff", "invitation"),
            ("/api/sign-in/oidc?invitation=a&invitation=b", "invitation"),
            ("/api/sign-in/callback?iss=a&state=%c3%28", "state"),
            ("/api/sign-in/callback?state=a&state=b", "state"),
            ("/api/sign-in/callback?%ff=a", ""),
        ] {
            let refused = api.tcp("GET", target, &FROM_PANEL[..1], "").await;
            let found = (refused.status.as_u16(), refused.field());
            assert_eq!(found, (422, field.to_owned()), "{target}");
        }
    });
}

//! Devices where a person has signed in before, while somebody guesses the person's password from the same address.

use super::people::{OTHER_PASSWORD, PASSWORD, code, code_of};
use super::*;

const ALICE: &str = "alice@example.com";
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9));

impl TestApi {
    /// Signs in as Alice with this cookie.
    async fn alice(&self, cookie: &str, password: &str) -> TestResponse {
        let body = json!({"email": ALICE, "password": password});
        self.on_device(cookie, body).await
    }

    async fn on_device(&self, cookie: &str, body: Value) -> TestResponse {
        let headers = [&FROM_PANEL[..], &[("cookie", cookie)]].concat();
        let body = body.to_string();
        self.tcp("POST", "/api/session", &headers, &body).await
    }

    /// Invites somebody who accepts; the cookie of the device.
    async fn device_of(&self, account: &str, email: &str) -> String {
        let invitation = self.invite(account, email, "owner").await;
        device(&self.accept(&invitation, PASSWORD).await)
    }

    /// Somebody at the address of the tests guesses Alice's password, many times.
    fn guess(&self) {
        let passwords = &self.services.state.passwords;
        passwords.guess_often(ALICE, ADDRESS, now());
    }
}

/// The cookie of a device that this answer makes known.
fn device(response: &TestResponse) -> String {
    assert_eq!(response.status, 200, "{}", response.json());
    let lines = response.headers.get_all("set-cookie").iter();
    let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap()).collect();
    let [_, line] = lines[..] else {
        panic!("not the cookies of session and device: {lines:?}");
    };
    let (cookie, flags) = line.split_once("; ").unwrap();
    assert_eq!(flags, "HttpOnly; SameSite=Strict; Path=/; Max-Age=15552000");
    assert!(cookie.starts_with("keygate_device="), "{cookie}");
    cookie.to_owned()
}

fn outcome(response: &TestResponse) -> (u16, String) {
    (response.status.as_u16(), code(response))
}

fn slowed() -> (u16, String) {
    (429, "too_many_tries".to_owned())
}

#[test]
fn on_a_known_device_a_person_gets_in_at_once_while_somebody_guesses_from_the_same_address() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let known = api.device_of("acme", ALICE).await;
        api.guess();
        assert_eq!(outcome(&api.alice("", PASSWORD).await), slowed());
        // Each sign-in makes a new cookie, and the old one goes on.
        let renewed = device(&api.alice(&known, PASSWORD).await);
        assert_ne!(renewed, known);
        for cookie in [&renewed, &known] {
            drop(device(&api.alice(cookie, PASSWORD).await));
        }
        // So does an invitation to another account, which takes the password that she has.
        let other = api.invite("other", ALICE, "viewer").await;
        let joins = json!({"invitation": other, "password": PASSWORD});
        let joined = api.on_device("", joins.clone()).await;
        assert_eq!(outcome(&joined), slowed());
        drop(device(&api.on_device(&known, joins).await));
        // Her right passwords do not set the guesser free.
        assert_eq!(outcome(&api.alice("", PASSWORD).await), slowed());
    });
}

#[test]
fn wrong_passwords_on_a_known_device_slow_that_device_alone() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let lent = api.device_of("acme", ALICE).await;
        let own = device(&api.alice("", PASSWORD).await);
        // The first wait is a second, which a slow machine may take between two calls.
        let mut last = 0;
        for _ in 0..100 {
            last = api.alice(&lent, "a guess").await.status.as_u16();
            if last == 429 && api.alice(&lent, PASSWORD).await.status == 429 {
                break;
            }
        }
        assert_eq!(last, 429);
        for cookie in [&own, ""] {
            assert_eq!(api.alice(cookie, PASSWORD).await.status, 200);
        }
        let audit = "/api/audit?action=sign_in_failed";
        let rows = api.operator("GET", audit, Value::Null).await;
        let row = &rows["rows"][0];
        assert_eq!(row["address"], "198.51.100.9");
        assert_eq!(row["after"], json!({"count": 1, "with": "password"}));
        let value = lent.split_once('=').unwrap().1;
        assert!(!rows.to_string().contains(value));
    });
}

#[test]
fn the_cookie_of_a_device_lets_nobody_in_and_is_nothing_for_another_person() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let known = api.device_of("acme", ALICE).await;
        let foreign = api.device_of("acme", "bob@example.com").await;
        let headers = [FROM_PANEL[0], ("cookie", &known)];
        let shown = api.tcp("GET", "/api/session", &headers, "").await;
        assert_eq!(shown.status, 401);
        let wrong = api.alice(&known, OTHER_PASSWORD).await;
        assert_eq!(outcome(&wrong), (401, "wrong_password".to_owned()));
        assert!(!wrong.headers.contains_key("set-cookie"));
        api.guess();
        let (name, value) = known.split_once('=').unwrap();
        let changed = format!("{name}=1{value}");
        let session = format!("keygate_session={value}");
        for cookie in [&foreign, &changed, &session] {
            let refused = api.alice(cookie, PASSWORD).await;
            assert_eq!(outcome(&refused), slowed(), "{cookie}");
        }
        // A planted one beside it takes nothing away.
        let both = format!("{name}=planted; {known}");
        assert_eq!(api.alice(&both, PASSWORD).await.status, 200);
        // Over TLS another host of the domain can plant the plain name.
        let headers = [
            &FROM_PANEL[1..],
            &[("host", "192.0.2.1:443"), ("cookie", &known)],
            &[("origin", "https://192.0.2.1:443")],
        ]
        .concat();
        let body = json!({"email": ALICE, "password": PASSWORD}).to_string();
        let refused = api.tcp("POST", "/api/session", &headers, &body).await;
        assert_eq!(outcome(&refused), slowed());
    });
}

#[test]
fn a_new_password_ends_the_devices_that_the_old_one_made_known() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let old = api.device_of("acme", ALICE).await;
        let id = api.id_of("acme", ALICE).await;
        let target = format!("/api/accounts/acme/members/{id}/reset-password");
        let link = code_of(&api.operator("POST", &target, json!({})).await);
        let set = json!({"invitation": link, "password": OTHER_PASSWORD});
        // Nobody who guesses keeps her from that.
        api.guess();
        let new = device(&api.on_device(&old, set).await);
        assert_eq!(outcome(&api.alice(&old, OTHER_PASSWORD).await), slowed());
        assert_eq!(api.alice(&new, OTHER_PASSWORD).await.status, 200);
    });
}

#[test]
fn a_removed_person_does_not_come_back_on_a_known_device() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let known = api.device_of("acme", ALICE).await;
        let id = api.id_of("acme", ALICE).await;
        let target = format!("/api/accounts/acme/members/{id}");
        assert_eq!(api.call("DELETE", &target, "").await.status, 204);
        let refused = api.alice(&known, PASSWORD).await;
        assert_eq!(outcome(&refused), (401, "in_no_account".to_owned()));
        assert!(!refused.headers.contains_key("set-cookie"));
    });
}

#[test]
fn very_many_guesses_keep_neither_known_devices_nor_links_waiting() {
    runtime().block_on(async {
        let api = TestApi::with_accounts().await;
        let known = api.device_of("acme", ALICE).await;
        let link = api.invite("acme", "bob@example.com", "viewer").await;
        let guesses = api.services.state.passwords.fill();
        assert_eq!(api.alice("", PASSWORD).await.status, 503);
        assert_eq!(api.alice(&known, PASSWORD).await.status, 200);
        assert_eq!(api.accept(&link, PASSWORD).await.status, 200);
        drop(guesses);
        assert_eq!(api.alice("", PASSWORD).await.status, 200);
    });
}
